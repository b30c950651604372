"""When a callback is tried again: Twilio's connection overrides, in the URL's fragment.

``https://host/path#rc=5&rp=all``: ``rc`` is how often (0 to 5, default 1), ``rp`` is after what
(``4xx``, ``5xx``, ``ct`` for a connection that fails, ``rt`` for an answer that does not come in
time, ``all``; a list with commas; default ``ct``). ``ct`` and ``rt`` set the two time limits in
milliseconds (defaults 5,000 and 15,000).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs

_ALL: Final = frozenset({"4xx", "5xx", "ct", "rt"})
_DEFAULT_AFTER: Final = frozenset({"ct"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patiently one callback is delivered.

    Attributes:
        retries: How often to try again, at most.
        after: After which failures.
        connect_seconds: How long to wait for a connection.
        read_seconds: How long to wait for an answer.
    """

    retries: int = 1
    after: frozenset[str] = _DEFAULT_AFTER
    connect_seconds: float = 5.0
    read_seconds: float = 15.0

    @classmethod
    @lru_cache(maxsize=256)
    def from_fragment(cls, fragment: str) -> RetryPolicy:
        """Read a URL's fragment; what is missing or makes no sense is at its default."""
        wishes = {name: values[0] for name, values in parse_qs(fragment).items()}
        return cls(
            retries=_number(wishes.get("rc"), 1, 0, 5),
            after=_policies(wishes.get("rp", "")),
            connect_seconds=_number(wishes.get("ct"), 5_000, 100, 10_000) / 1000,
            read_seconds=_number(wishes.get("rt"), 15_000, 100, 15_000) / 1000,
        )


def _number(text: str | None, default: int, least: int, most: int) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 9):
        return default
    return min(max(int(text), least), most)


def _policies(text: str) -> frozenset[str]:
    words = frozenset(text.split(","))
    return _ALL if "all" in words else (words & _ALL or _DEFAULT_AFTER)
