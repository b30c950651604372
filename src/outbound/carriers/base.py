"""What a carrier must be able to do, and what its answers mean.

An adapter that somebody else writes implements `Carrier` and is found through the entry-point
group `outbound.carriers`, or named as `OUTBOUND_CARRIER=package.module:factory`. The factory
takes the Settings and returns the carrier.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol, cast, runtime_checkable
from uuid import UUID

from outbound.config import Settings
from outbound.errors import ConfigError, OutboundError


class Verdict(StrEnum):
    """What the carrier's answer to our request to place a call means for the attempt."""

    ACCEPTED = "accepted"
    """The carrier has the call, under an id of its own."""
    REFUSED_CALLEE = "refused_callee"
    """This number will never work; dialling it again is pointless."""
    REFUSED_US = "refused_us"
    """Something about our account or settings; every other call would be refused as well."""
    TRY_LATER = "try_later"
    """Documented as not processed: the carrier wants us to slow down."""
    NEVER_SENT = "never_sent"
    """No byte of the request reached the carrier."""
    AMBIGUOUS = "ambiguous"
    """Nobody knows. The call may be ringing already; it must not be placed again."""


class Progress(StrEnum):
    """The carrier's word for what a call is doing. The last five are final."""

    QUEUED = "queued"
    RINGING = "ringing"
    IN_PROGRESS = "in_progress"
    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Tell whether the call is over."""
        return self not in (Progress.QUEUED, Progress.RINGING, Progress.IN_PROGRESS)


class PlaceRequest(NamedTuple):
    """One call to place. Exactly one of `twiml` and `answer_url` is set.

    Attributes:
        attempt_id: ours; must come back with every callback.
        callback_url: where the carrier tells us how it goes; carries the attempt id.
        ring_timeout: seconds to let it ring.
        max_call_duration: seconds after which the carrier ends the call.
    """

    attempt_id: UUID
    to: str
    caller_id: str
    callback_url: str
    ring_timeout: int
    max_call_duration: int
    twiml: str | None = None
    answer_url: str | None = None


class Answer(NamedTuple):
    """What became of one request to place a call.

    Attributes:
        carrier_call_id: the carrier's id; set exactly when accepted.
        error: for people, without secrets or phone numbers.
        retry_after: seconds, if the carrier named them.
    """

    verdict: Verdict
    carrier_call_id: str | None = None
    error: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True)
class CarrierCall:
    """A call as the carrier's own records show it.

    Attributes:
        placed_by_api: whether a program placed it (a person's own calls never match).
        duration: seconds of talk, None if not known.
    """

    carrier_call_id: str
    progress: Progress
    to: str
    caller_id: str
    created_at: datetime | None = None
    placed_by_api: bool = True
    duration: int | None = None


@dataclass(frozen=True)
class Callback:
    """One verified callback: the carrier's word about one call."""

    carrier_call_id: str
    progress: Progress
    duration: int | None = None
    error: str | None = None


class CarrierUnavailable(OutboundError):
    """A look-up or hang-up got no usable answer; it says nothing about the call."""


class ForgedCallback(OutboundError):
    """A callback's signature is missing or wrong."""


class UnreadableCallback(OutboundError):
    """A callback is signed, but does not say what it must."""


class Carrier(Protocol):
    """A telephony provider. Every method is called from many threads at once."""

    name: str
    """Stable; stored with each attempt and part of the callback URL."""

    def place(self, request: PlaceRequest) -> Answer:
        """Ask the carrier to call: exactly one request may leave this machine, within its time.

        An exception counts as AMBIGUOUS.
        """

    def look_up(self, carrier_call_id: str) -> CarrierCall | None:
        """Read one call; None if the carrier knows no such id. Raises CarrierUnavailable."""

    def find(self, *, to: str, caller_id: str, since: datetime) -> list[CarrierCall]:
        """List calls with this To and From created since then. Raises CarrierUnavailable."""

    def attempt_of(self, carrier_call_id: str) -> UUID | None:
        """Read which attempt id this call's callbacks carry. Raises CarrierUnavailable."""

    def hang_up(self, carrier_call_id: str) -> None:
        """End a call; one that is over is no error. Raises CarrierUnavailable."""

    def read_callback(self, *, url: str, headers: Mapping[str, str], body: bytes) -> Callback:
        """Verify and read a callback that came to `url` (headers in lower case).

        Raises:
            ForgedCallback: the signature does not fit; nothing else may be concluded.
            UnreadableCallback: it is signed, but unknown or incomplete.
        """


@runtime_checkable
class ListsAll(Protocol):
    """A carrier that lists all calls from one number, too.

    It need not; the audit asks it a few times for everything then, and else once for each phone.
    """

    def calls_from(self, caller_id: str, since: datetime) -> Iterator[CarrierCall]:
        """Walk the calls with this From created since then. Raises CarrierUnavailable."""


ENTRY_POINTS = "outbound.carriers"


def load(settings: Settings) -> Carrier:
    """Build the carrier that the settings name.

    Raises:
        ConfigError: there is no such carrier, or it lacks a setting.
    """
    chosen = settings.carrier
    for entry in entry_points(group=ENTRY_POINTS, name=chosen):
        return cast("Carrier", entry.load()(settings))
    module, colon, factory = chosen.partition(":")
    if not colon:
        known = ", ".join(sorted(entry_points(group=ENTRY_POINTS).names))
        raise ConfigError(
            f"OUTBOUND_CARRIER names no installed carrier ({known}) and no package.module:factory,"
            " for example OUTBOUND_CARRIER=twilio"
        )
    try:
        return cast("Carrier", getattr(importlib.import_module(module), factory)(settings))
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"OUTBOUND_CARRIER cannot be loaded: {error}") from error
