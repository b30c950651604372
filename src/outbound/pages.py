"""Pages of a list: a limit, and an opaque cursor that says where the last page ended."""

from __future__ import annotations

import base64
import binascii
from uuid import UUID

from outbound.errors import Fault, Refused, invalid

DEFAULT, MOST = 50, 500


def parse_limit(given: str | None) -> int:
    """Read `?limit=`. Raises Refused if it is no whole number from 1 to 500."""
    if given is None:
        return DEFAULT
    if not (given.isascii() and given.isdecimal() and len(given) <= 4 and 1 <= int(given) <= MOST):
        detail = f"limit must be a whole number from 1 to {MOST}."
        raise invalid([Fault("#/query/limit", "out_of_range", detail)], "The query is not valid.")
    return int(given)


def encode(last: object) -> str:
    """Make the cursor of the page that ended with this key."""
    return base64.urlsafe_b64encode(str(last).encode()).decode().rstrip("=")


def _decode(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_cursor() from None


def decode_uuid(cursor: str | None) -> UUID | None:
    """Read a cursor over UUIDs. Raises Refused if we did not make it."""
    if not cursor:
        return None
    try:
        return UUID(_decode(cursor))
    except ValueError:
        raise _bad_cursor() from None


def decode_int(cursor: str | None) -> int | None:
    """Read a cursor over numbers. Raises Refused if we did not make it."""
    if not cursor:
        return None
    text = _decode(cursor)
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise _bad_cursor()
    return int(text)


def _bad_cursor() -> Refused:
    fault = Fault("#/query/cursor", "bad_cursor", "Use next_cursor of the page before.")
    return invalid([fault], "The query is not valid.")
