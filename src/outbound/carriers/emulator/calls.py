"""A call: what is known of it, and what happens to it next."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .behaviours import BEHAVIOURS, Plan
from .clock import from_iso, iso, iso_or_none
from .order import Order

if TYPE_CHECKING:
    import asyncio

    from .ledger import Row

TERMINAL: Final = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})

# The callback event that a call's coming into a status is told as.
_EVENT: Final = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}

# What the ledger keeps of an order beside to and from; a field that is not here is lost.
_ORDER_FIELDS: Final = (
    "url",
    "method",
    "status_callback",
    "status_callback_method",
    "events",
    "timeout",
    "time_limit",
    "detect_machine",
)


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One status callback: what it told, and what became of it.

    Attributes:
        sequence: Its ``SequenceNumber``.
        status: Its ``CallStatus``.
        at: When the call came into that status.
        result: ``ok``, ``lost`` (never sent, on purpose), or ``failed`` (given up).
        http_status: What the receiver answered last, if anything.
        tries: How many requests were made.
        took_ms: How long they took together.
        faults: The faults that hit it.
    """

    sequence: int
    status: str
    at: float
    result: str = "lost"
    http_status: int | None = None
    tries: int = 0
    took_ms: int = 0
    faults: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """A call that was accepted.

    Attributes:
        sid: Its ``CallSid``.
        number: Its place in the order of acceptance, from 0.
        order: What was asked for.
        plan: What was decided that the phone does.
        accepted_at: When it was accepted.
        status: Its webhook status; over REST ``initiated`` still reads ``queued``.
        since: Since when it is in that status.
        started_at: When it was dialled.
        answered_at: When the phone was picked up.
        ended_at: When it ended.
        next_sequence: The ``SequenceNumber`` of its next callback.
        faults: The faults that hit it, in order.
        deliveries: Its callbacks so far.
        wake: The timer for what happens next.
    """

    sid: str
    number: int
    order: Order
    plan: Plan
    accepted_at: float
    status: str = "queued"
    since: float = 0.0
    started_at: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    next_sequence: int = 0
    faults: list[str] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    wake: asyncio.TimerHandle | None = None

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.status in TERMINAL

    @property
    def rest_status(self) -> str:
        """Its status as the REST resource tells it."""
        return "queued" if self.status == "initiated" else self.status

    @property
    def seconds_talked(self) -> int:
        """Its duration, as billed: begun seconds count."""
        if self.answered_at is None or self.ended_at is None:
            return 0
        return math.ceil(self.ended_at - self.answered_at)

    @property
    def event(self) -> str:
        """The callback event that its present status is told as."""
        return _EVENT.get(self.status, "completed")

    @property
    def reports(self) -> bool:
        """Whether its present status was asked to be told."""
        wanted = self.order.status_callback is not None and self.event in self.order.events
        return wanted and self.status != "queued"

    def enter(self, status: str, at: float) -> None:
        """Come into a status."""
        self.status, self.since = status, at
        if status == "initiated":
            self.started_at = at
        elif status == "in-progress":
            self.answered_at = at
        elif status in TERMINAL:
            self.ended_at = at
        if self.reports:
            self.next_sequence += 1

    def row(self) -> Row:
        """Give the ledger's line about its acceptance."""
        order, plan = self.order, self.plan
        return {
            "event": "accepted",
            "call_sid": self.sid,
            "attempt_id": order.attempt_id,
            "to": order.to,
            "from": order.from_,
            "accepted_at": iso(self.accepted_at),
            "behaviour": plan.behaviour.name,
            "ring": plan.ring,
            "talk": plan.talk,
            "order": {name: getattr(order, name) for name in _ORDER_FIELDS},
            "faults": self.faults,
        }

    def summary(self) -> dict[str, Any]:
        """Give the ledger's row about it as it stands now."""
        sent = [delivery for delivery in self.deliveries if delivery.tries]
        return {
            "call_sid": self.sid,
            "attempt_id": self.order.attempt_id,
            "to": self.order.to,
            "from": self.order.from_,
            "accepted_at": iso(self.accepted_at),
            "status": self.rest_status,
            "answered_at": iso_or_none(self.answered_at),
            "ended_at": iso_or_none(self.ended_at),
            "behaviour": self.plan.behaviour.name,
            "faults": self.faults,
            "callbacks_sent": len(sent),
            "callbacks_ok": sum(delivery.result == "ok" for delivery in sent),
        }


def call_from_row(row: Row, number: int) -> Call:
    """Rebuild a call from the ledger's line about its acceptance.

    Raises:
        LookupError: The line lacks something, or names an unknown behaviour.
        ValueError: A value is unreadable.
        TypeError: A value is of another kind.
    """
    asked = {name: row["order"][name] for name in _ORDER_FIELDS}
    asked["events"] = tuple(asked["events"])
    at = from_iso(row["accepted_at"])
    return Call(
        sid=row["call_sid"],
        number=number,
        order=Order(to=row["to"], from_=row["from"], **asked),
        plan=Plan(BEHAVIOURS[row["behaviour"]], row["ring"], row["talk"]),
        accepted_at=at,
        since=at,
        faults=list(row["faults"]),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to a call next, if nobody interferes.

    Attributes:
        status: The status it comes into.
        at: When.
    """

    status: str
    at: float


def next_step(call: Call, queue_seconds: float) -> Step | None:
    """Tell what happens next to a call; nothing, once it has ended."""
    if call.ended:
        return None
    behaviour, order = call.plan.behaviour, call.order
    if call.status == behaviour.stuck_in:
        return Step(behaviour.ends_as, call.accepted_at + order.time_limit)
    if call.status == "queued":
        return Step("initiated", call.since + queue_seconds)
    if call.status == "initiated":
        return _after_dialling(call)
    if call.status == "ringing":
        return _after_ringing(call)
    return Step(behaviour.ends_as, call.since + min(call.plan.talk, order.time_limit))


def _after_dialling(call: Call) -> Step:
    if call.plan.behaviour.rings:
        return Step("ringing", call.since)
    wait = min(call.plan.ring, call.order.timeout)
    return Step(call.plan.behaviour.ends_as, call.since + wait)


def _after_ringing(call: Call) -> Step:
    ring, timeout = call.plan.ring, call.order.timeout
    if call.plan.behaviour.picks_up and ring <= timeout:
        return Step("in-progress", call.since + ring)
    return Step("no-answer", call.since + min(ring, timeout))
