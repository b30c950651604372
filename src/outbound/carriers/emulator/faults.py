"""The faults that a carrier can be made to have, and how often each one really hit.

Every fault is off until it is asked for. Chances are in per cent (0 to 100).

Creates (at most one of these hits a create, so their chances sum to at most 100):

=====================  ==================================================================
accept_then_timeout    accepted; no answer for ``timeout_seconds``, then closed
accept_then_reset      accepted; the connection is reset (TCP RST) instead of an answer
accept_then_500        accepted; answered 500, code 20500
accept_then_rubbish    accepted; answered 201 with a body that is no JSON
refuse_429             not accepted; 429, code 20429, with ``Retry-After``
refuse_500             not accepted; 500, code 20500
refuse_503             not accepted; 503, code 20503
hang_without_accepting not accepted; no answer for ``timeout_seconds``, then closed
answer_401             not accepted; 401, code 20003 (``true`` is 100)
=====================  ==================================================================

Callbacks (drawn for each one): ``callbacks_lost`` · ``callbacks_doubled`` (sent twice) ·
``callbacks_tenfold`` (sent ten times at once) · ``callbacks_delayed`` (by
``callback_delay_seconds``) · ``callbacks_reordered`` (sent after the call's next one) ·
``callbacks_forged`` (an extra one with a wrong signature and a wrong status).

Look-ups: ``lookup_empty`` (a list finds nothing) · ``lookup_404`` (a fetch finds nothing) ·
``lookup_500`` (both).

Seconds: ``accept_delay_seconds`` (a create is accepted so much later, whether or not its client
still waits) · ``create_delay_seconds`` (accepted at once, answered so much later) ·
``lookup_lag_seconds`` (younger calls are not found) · ``timeout_seconds`` (30) ·
``callback_delay_seconds`` (5) · ``retry_after_seconds`` (1).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from .errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCEPTING: Final = (
    "accept_then_timeout",
    "accept_then_reset",
    "accept_then_500",
    "accept_then_rubbish",
)
REFUSING: Final = (
    "refuse_429",
    "refuse_500",
    "refuse_503",
    "hang_without_accepting",
    "answer_401",
)
CREATES: Final = ACCEPTING + REFUSING
CALLBACKS: Final = (
    "callbacks_lost",
    "callbacks_doubled",
    "callbacks_tenfold",
    "callbacks_delayed",
    "callbacks_reordered",
    "callbacks_forged",
)
LOOKUPS: Final = ("lookup_empty", "lookup_404", "lookup_500")
CHANCES: Final = CREATES + CALLBACKS + LOOKUPS

SECONDS: Final = {
    "timeout_seconds": 30.0,
    "create_delay_seconds": 0.0,
    "accept_delay_seconds": 0.0,
    "callback_delay_seconds": 5.0,
    "lookup_lag_seconds": 0.0,
    "retry_after_seconds": 1.0,
}

OFF: Final[Mapping[str, float]] = dict.fromkeys(CHANCES, 0.0) | SECONDS


def parse_faults(wanted: object) -> dict[str, float]:
    """Read a set of faults; what it does not name is off, or at its default.

    Raises:
        EmulatorError: No object, an unknown name, or a value out of range.
    """
    if not isinstance(wanted, dict):
        raise EmulatorError('faults: must be a JSON object such as {"refuse_429": 10}')
    faults = dict(OFF) | {name: _value(name, value) for name, value in wanted.items()}
    if sum(faults[name] for name in CREATES) > 100:
        raise EmulatorError(f"faults: the chances of {', '.join(CREATES)} sum to more than 100")
    return faults


def _value(name: object, value: object) -> float:
    if not isinstance(name, str) or name not in OFF:
        raise EmulatorError(f"faults: no fault {name!r}; there are {', '.join(OFF)}")
    if name == "answer_401" and isinstance(value, bool):
        return 100.0 if value else 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EmulatorError(f"faults: {name} must be a number")
    _check_range(name, float(value))
    return float(value)


def _check_range(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise EmulatorError(f"faults: {name} must be 0 or more")
    if name in CHANCES and value > 100:
        raise EmulatorError(f"faults: {name} is in per cent: 0 to 100")


class Faults:
    """The faults in force, with one seeded source of chance and a count of what hit.

    Args:
        wanted: The faults to begin with, as ``parse_faults`` takes them.
        seed: Seeds the draws.
    """

    def __init__(self, wanted: Mapping[str, float], seed: int) -> None:
        self.hits: Counter[str] = Counter()
        self._settings = parse_faults(dict(wanted))
        self._draw = random.Random(seed)  # noqa: S311 - a rehearsal, no secret

    @property
    def settings(self) -> dict[str, float]:
        """Every fault by name, also those that are off."""
        return dict(self._settings)

    def replace(self, wanted: object) -> None:
        """Put another set of faults in force.

        Raises:
            EmulatorError: The set is not usable; the old one stays in force.
        """
        self._settings = parse_faults(wanted)

    def seconds(self, name: str) -> float:
        """Tell how many seconds a delay or lag is set to."""
        return self._settings[name]

    def hits_now(self, name: str) -> bool:
        """Draw whether a fault hits now, and count it if so."""
        chance = self._settings[name]
        if not chance or self._draw.random() * 100 >= chance:
            return False
        self.hits[name] += 1
        return True

    def pick_create(self) -> str | None:
        """Draw which fault, if any, hits a create, and count it."""
        rest = self._draw.random() * 100
        for name in CREATES:
            rest -= self._settings[name]
            if rest < 0:
                self.hits[name] += 1
                return name
        return None

    def delay(self, name: str) -> float:
        """Tell how long to wait, and count it if it is any time at all."""
        seconds = self._settings[name]
        if seconds:
            self.hits[name] += 1
        return seconds
