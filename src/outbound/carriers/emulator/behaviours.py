"""What a phone does when it is called: the number's ending decides, or else a seeded mix.

======  ===============  ==========================================================
ending  behaviour        what happens
======  ===============  ==========================================================
``00``  answered         rings, is answered, ``completed`` after the talk time
``01``  busy             ``busy`` after the ring time, without ever ringing
``02``  no_answer        rings, ``no-answer`` after min(Timeout, ring time)
``03``  failed           ``failed`` after the ring time, without ever ringing
``04``  silent           as answered, but no callback is ever sent
``05``  rings_forever    rings past every Timeout, until hung up or TimeLimit
``06``  voicemail        as answered, with ``AnsweredBy=machine_start``
``07``  (refused)        the create is refused: 400, code 21211, no call
``08``  (refused)        the create is refused: 400, code 21214, no call
``09``  queued_forever   stays ``queued``, until cancelled or TimeLimit
other   by the mix       all answered unless a mix is given
======  ===============  ==========================================================

The first match wins: Twilio's own test numbers (``MAGIC_REFUSALS``), the ending, the mix.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one kind of phone meets a call.

    Attributes:
        name: What the mix and the ledger call it.
        ends_as: The status that the call ends with, if nobody hangs up first.
        sip_code: The ``SipResponseCode`` that comes with that end.
        rings: Whether the phone rings at all.
        picks_up: Whether somebody (or a machine) answers.
        stuck_in: The status that the call never leaves by itself, short of its TimeLimit.
        calls_back: Whether any status callback is sent.
        answered_by: The ``AnsweredBy`` of an answering machine.
    """

    name: str
    ends_as: str
    sip_code: int
    rings: bool = True
    picks_up: bool = False
    stuck_in: str | None = None
    calls_back: bool = True
    answered_by: str | None = None


BEHAVIOURS: Final = {
    behaviour.name: behaviour
    for behaviour in (
        Behaviour(name="answered", ends_as="completed", sip_code=200, picks_up=True),
        Behaviour(name="busy", ends_as="busy", sip_code=486, rings=False),
        Behaviour(name="no_answer", ends_as="no-answer", sip_code=487),
        Behaviour(name="failed", ends_as="failed", sip_code=404, rings=False),
        Behaviour(
            name="silent", ends_as="completed", sip_code=200, picks_up=True, calls_back=False
        ),
        Behaviour(name="rings_forever", ends_as="no-answer", sip_code=487, stuck_in="ringing"),
        Behaviour(
            name="voicemail",
            ends_as="completed",
            sip_code=200,
            picks_up=True,
            answered_by="machine_start",
        ),
        Behaviour(name="queued_forever", ends_as="failed", sip_code=503, stuck_in="queued"),
    )
}

ENDINGS: Final = {
    "00": BEHAVIOURS["answered"],
    "01": BEHAVIOURS["busy"],
    "02": BEHAVIOURS["no_answer"],
    "03": BEHAVIOURS["failed"],
    "04": BEHAVIOURS["silent"],
    "05": BEHAVIOURS["rings_forever"],
    "06": BEHAVIOURS["voicemail"],
    "09": BEHAVIOURS["queued_forever"],
}

REFUSED_ENDINGS: Final = {"07": 21211, "08": 21214}

# The numbers that Twilio documents for its own test credentials.
MAGIC_REFUSALS: Final = {
    "+15005550001": 21217,
    "+15005550002": 21214,
    "+15005550003": 21215,
    "+15005550004": 21216,
}
INVALID_CALLER: Final = "+15005550001"

DEFAULT_MIX: Final = {"answered": 1.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided for one call when it was accepted.

    Attributes:
        behaviour: How the phone meets the call.
        ring: Seconds until it is answered (or is found busy, or unreachable).
        talk: Seconds from the answer to the end.
    """

    behaviour: Behaviour
    ring: float
    talk: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PhoneBook:
    """Decides what each phone does.

    Attributes:
        mix: Weight by behaviour name, for the numbers that no ending decides.
        endings: Whether the endings count at all.
        seed: The same seed gives the same plans, in whatever order the calls come.
        ring: Mean ring time in seconds.
        talk: Mean talk time in seconds.
        spread: How far both vary around their means: 0.2 is 20 per cent either way.
    """

    mix: Mapping[str, float]
    endings: bool
    seed: int
    ring: float
    talk: float
    spread: float

    def refusal(self, to: str) -> int | None:
        """Tell with which error code, if any, a call to this number is refused."""
        if not self.endings:
            return None
        return MAGIC_REFUSALS.get(to) or REFUSED_ENDINGS.get(to[-2:])

    def plan(self, to: str, nth: int) -> Plan:
        """Decide what the phone does at its ``nth`` call, counted from 0."""
        # By number and count, not from one stream: then the order of arrival changes nothing.
        draw = random.Random(f"{self.seed}:{to}:{nth}")  # noqa: S311 - a rehearsal, no secret
        chosen = self._by_mix(draw)
        behaviour = (ENDINGS.get(to[-2:]) if self.endings else None) or chosen
        return Plan(behaviour, self._vary(self.ring, draw), self._vary(self.talk, draw))

    def _by_mix(self, draw: random.Random) -> Behaviour:
        names = list(self.mix)
        return BEHAVIOURS[draw.choices(names, [self.mix[name] for name in names])[0]]

    def _vary(self, mean: float, draw: random.Random) -> float:
        return round(mean * (1 + self.spread * (2 * draw.random() - 1)), 6)


def check_mix(mix: Mapping[str, float]) -> None:
    """Refuse a mix that nothing can be drawn from.

    Raises:
        EmulatorError: An unknown behaviour, a weight that is no number, or no weight at all.
    """
    for name, weight in mix.items():
        if name not in BEHAVIOURS:
            raise EmulatorError(f"mix: no behaviour {name!r}; there are {', '.join(BEHAVIOURS)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise EmulatorError(f"mix: the weight of {name} must be 0 or more, not {weight}")
    if not sum(mix.values()):
        raise EmulatorError("mix: at least one behaviour needs a weight above 0")


def parse_mix(text: str) -> dict[str, float]:
    """Read a mix from the command line, such as ``answered=0.6,busy=0.4``.

    The weights need not sum to 1.

    Raises:
        EmulatorError: The text is no such list, or names an unknown behaviour.
    """
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        try:
            mix[name.strip()] = float(weight)
        except ValueError:
            raise EmulatorError(f"mix: {part!r} is not like answered=0.6") from None
    check_mix(mix)
    return mix
