"""Ids that sort by time: UUIDv7, so that new rows land at the end of their indexes."""

from __future__ import annotations

import secrets
import time
from uuid import UUID

_RANDOM_BYTES = 10


def uuid7() -> UUID:
    """Make a UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, 74 random bits."""
    return uuid7s(1)[0]


def uuid7s(count: int) -> list[UUID]:
    """Make several, of the same millisecond."""
    milliseconds = int(time.time() * 1000) << 80
    noise = secrets.token_bytes(_RANDOM_BYTES * count)
    found = []
    for start in range(0, len(noise), _RANDOM_BYTES):
        value = milliseconds | int.from_bytes(noise[start : start + _RANDOM_BYTES], "big")
        value = value & ~(0xF << 76) | 0x7 << 76
        found.append(UUID(int=value & ~(0x3 << 62) | 0x2 << 62))
    return found
