"""JSON for lines and statements: a call takes many of both, and orjson a fifth of the time."""

from __future__ import annotations

import json
from typing import Any

import orjson

_write_anything = json.JSONEncoder(default=str).encode


def dumps(value: Any) -> str:
    """Write a value down; what JSON has no form for, as its text."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:  # half a surrogate pair, an integer of more than 64 bits
        return _write_anything(value)


def ascii_dumps(value: Any) -> str:
    """Write it in ASCII: for streams of any encoding, and readers that split at any line end."""
    text = dumps(value)
    return text if text.isascii() else _write_anything(value)
