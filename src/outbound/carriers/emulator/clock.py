"""Times, in the three ways that the emulator writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime


def iso(at: float) -> str:
    """Write an epoch time as ISO 8601 UTC, to the microsecond."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def iso_or_none(at: float | None) -> str | None:
    """Write an epoch time as ISO 8601 UTC; nothing stays nothing."""
    return None if at is None else iso(at)


def from_iso(text: str) -> float:
    """Read an ISO 8601 time back; one without an offset is UTC."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc2822(at: float) -> str:
    """Write an epoch time as Twilio's resources and callbacks do."""
    return format_datetime(datetime.fromtimestamp(at, UTC))


def rfc2822_or_none(at: float | None) -> str | None:
    """Write an epoch time as Twilio does; nothing stays nothing."""
    return None if at is None else rfc2822(at)
