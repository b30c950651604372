"""Reading a request's body: bounded, whole, and of the right type."""

from __future__ import annotations

import hashlib
from typing import Any

import falcon

from outbound import strict_json
from outbound.errors import Refused

MAX_BODY = 64 * 1024 * 1024
CHUNK = 1024 * 1024


def read_body(req: falcon.Request, most: int = MAX_BODY) -> bytes:
    """Read the whole body.

    Raises:
        Refused: 411 for a body without length, 413 for one that is too large, 400 for one that
            is shorter than its Content-Length.
    """
    if req.get_header("Transfer-Encoding"):
        raise Refused("length_required", "Send a Content-Length, not a chunked body.", 411)
    length = req.content_length or 0
    if length > most:
        raise Refused("too_large", f"The body may have {most} bytes at most.", 413)
    body = bytearray()
    while len(body) < length and (part := req.bounded_stream.read(min(CHUNK, length - len(body)))):
        body += part
    if len(body) < length:
        raise Refused("bad_request", "The body is shorter than its Content-Length.", 400)
    return bytes(body)


def read_json(req: falcon.Request) -> Any:
    """Read a JSON body; an empty one is an empty object. Its hash goes to `req.context.body_hash`.

    Raises:
        Refused: as read_json_bytes(); 400 for what is not clean JSON.
    """
    return strict_json.parse(read_json_bytes(req))


def read_json_bytes(req: falcon.Request) -> bytes:
    """Read what says that it is JSON, and leave it as it is but for its hash; `{}` if it is empty.

    Raises:
        Refused: as read_body(); 415 for another content type.
    """
    body = read_body(req)
    req.context.body_hash = hashlib.sha256(body).digest()
    if not body.strip():
        return b"{}"
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("unsupported_media_type", "Send Content-Type: application/json.", 415)
    return body
