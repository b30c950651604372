"""How answers leave: JSON with RFC 3339 times in UTC, ids as strings, replays marked."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import falcon

from outbound.idempotency import Stored
from outbound.times import rfc3339


def send(resp: falcon.Response, body: Any) -> None:
    """Answer with JSON."""
    resp.data = json_bytes(body)
    resp.content_type = falcon.MEDIA_JSON


def send_stored(resp: falcon.Response, stored: Stored) -> None:
    """Answer with what may have been answered before."""
    resp.status = stored.status
    resp.data = stored.body
    resp.content_type = falcon.MEDIA_JSON
    for name, value in stored.headers.items():
        resp.set_header(name, value)
    if stored.replayed:
        resp.set_header("Idempotent-Replayed", "true")


def json_bytes(value: Any) -> bytes:
    """Write a body."""
    return json.dumps(value, default=_write, ensure_ascii=False).encode()


def _write(value: Any) -> str:
    return rfc3339(value) if isinstance(value, datetime) else str(value)
