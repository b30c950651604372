"""How values leave: JSON with RFC 3339 times in UTC, and ids as strings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any


def json_bytes(value: Any) -> bytes:
    """Write an answer's body."""
    return json.dumps(value, default=_write, ensure_ascii=False).encode()


def _write(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value)


def rfc3339(at: datetime) -> str:
    """Write a time as RFC 3339 in UTC, with milliseconds and `Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
