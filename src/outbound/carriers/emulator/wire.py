"""Ways in which an answer can go wrong on the wire."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.web import Request


def close(request: Request) -> web.Response:
    """Close the client's connection without an answer."""
    if request.transport is not None:
        request.transport.close()
    return _unheard()


def reset(request: Request) -> web.Response:
    """Reset the client's connection: it gets a RST."""
    transport = request.transport
    if transport is not None:
        wire = transport.get_extra_info("socket")
        if wire is not None:
            # Lingering for no time is what makes the kernel send a RST instead of a FIN.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return _unheard()


def rubbish() -> web.Response:
    """Answer 201 with a body that starts like JSON and is none."""
    return web.Response(status=201, body=b'{"sid": "CA', content_type="application/json")


def _unheard() -> web.Response:
    # The framework wants an answer to write; the connection is gone, and so is this.
    return web.Response(status=444)
