"""A carrier that answers at once and calls nobody: what is left to measure is ours.

OUTBOUND_CARRIER=benchmarks.null_carrier:accepts, or :refuses. An answer can settle a call in one
way only, by refusing the callee; whoever is accepted waits for the carrier's callback.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn
from uuid import UUID

from outbound.carriers.base import (
    Answer,
    Callback,
    CarrierCall,
    CarrierUnavailable,
    ForgedCallback,
    PlaceRequest,
    Verdict,
)
from outbound.config import Settings


class NullCarrier:
    """Gives every request the same answer."""

    name = "null"

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def place(self, request: PlaceRequest) -> Answer:
        if self._verdict is Verdict.ACCEPTED:
            return Answer(Verdict.ACCEPTED, f"N-{request.attempt_id}")
        return Answer(self._verdict, error="the null carrier calls nobody")

    def look_up(self, carrier_call_id: str) -> CarrierCall | None:
        self._unavailable()

    def find(self, *, to: str, caller_id: str, since: datetime) -> list[CarrierCall]:
        self._unavailable()

    def attempt_of(self, carrier_call_id: str) -> UUID | None:
        self._unavailable()

    def hang_up(self, carrier_call_id: str) -> None:
        self._unavailable()

    def read_callback(self, *, url: str, headers: Mapping[str, str], body: bytes) -> Callback:
        raise ForgedCallback("the null carrier never calls back")

    def _unavailable(self) -> NoReturn:
        raise CarrierUnavailable("the null carrier keeps no records")


def accepts(settings: Settings) -> NullCarrier:
    return NullCarrier(Verdict.ACCEPTED)


def refuses(settings: Settings) -> NullCarrier:
    return NullCarrier(Verdict.REFUSED_CALLEE)
