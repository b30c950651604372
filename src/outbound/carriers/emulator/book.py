"""All calls, in memory and in the ledger: nothing changes here that is not written there first."""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from .calls import Call, Delivery, call_from_row
from .clock import from_iso, iso
from .errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .behaviours import PhoneBook
    from .ledger import Ledger, Row
    from .order import Order


class Book:
    """Every call there was, and counts over all of them.

    Args:
        ledger: Where it is kept; what it holds already is read first.
        phones: Decides what each phone does.

    Attributes:
        calls: All calls, oldest first.
        refused: Creates that were not accepted, by reason.
        callbacks: Callbacks that are over with, by result (``sent``, ``ok``, …).

    Raises:
        EmulatorError: The ledger holds something that no emulator wrote.
    """

    def __init__(self, ledger: Ledger, phones: PhoneBook) -> None:
        self.calls: list[Call] = []
        self.refused: Counter[str] = Counter()
        self.callbacks: Counter[str] = Counter()
        self._ledger = ledger
        self._phones = phones
        self._by_sid: dict[str, Call] = {}
        self._by_to: defaultdict[str, list[Call]] = defaultdict(list)
        self._attempts: Counter[str] = Counter()
        self._live = _HighWater()
        self._replay_all()

    def accept(self, order: Order, at: float, faults: Iterable[str] = ()) -> Call:
        """Take an order: from here on there is a call.

        Raises:
            OSError: The ledger cannot be written; there is no call.
        """
        call = Call(
            sid=f"CA{uuid.uuid4().hex}",
            number=len(self.calls),
            order=order,
            plan=self._phones.plan(order.to, len(self.to(order.to))),
            accepted_at=at,
            since=at,
            faults=list(faults),
        )
        self._ledger.append(call.row())
        self._add(call)
        return call

    def move(self, call: Call, status: str, at: float) -> None:
        """Bring a call into a status."""
        self._ledger.append(
            {"event": "status", "call_sid": call.sid, "status": status, "at": iso(at)}
        )
        self._enter(call, status, at)

    def note(self, call: Call, delivery: Delivery) -> None:
        """Keep what became of a callback."""
        self._ledger.append(
            {
                "event": "callback",
                "call_sid": call.sid,
                "sequence": delivery.sequence,
                "status": delivery.status,
                "at": iso(delivery.at),
                "result": delivery.result,
                "http_status": delivery.http_status,
                "tries": delivery.tries,
                "took_ms": delivery.took_ms,
                "faults": delivery.faults,
            }
        )
        self._note(call, delivery)

    def find(self, sid: str) -> Call | None:
        """Find a call by its SID."""
        return self._by_sid.get(sid)

    def to(self, phone: str) -> Sequence[Call]:
        """Find a phone's calls, oldest first."""
        return self._by_to.get(phone, ())

    def unfinished(self) -> list[Call]:
        """Find the calls that have not ended."""
        return [call for call in self.calls if not call.ended]

    def summary(self) -> dict[str, Any]:
        """Count it all up."""
        return {
            "calls": len(self.calls),
            "distinct_attempts": len(self._attempts),
            "distinct_phones": len(self._by_to),
            "most_calls_to_one_phone": max(map(len, self._by_to.values()), default=0),
            "most_calls_per_attempt": max(self._attempts.values(), default=0),
            "live_now": self._live.now,
            "most_live_at_once": self._live.most,
            "most_live_to_one_phone": self._live.most_to_one,
            "by_status": dict(Counter(call.rest_status for call in self.calls)),
            "creates_refused": self.refused.total(),
            "creates_refused_by_reason": dict(self.refused),
        }

    def _add(self, call: Call) -> None:
        self.calls.append(call)
        self._by_sid[call.sid] = call
        self._by_to[call.order.to].append(call)
        if call.order.attempt_id is not None:
            self._attempts[call.order.attempt_id] += 1
        self._live.up(call.order.to)

    def _enter(self, call: Call, status: str, at: float) -> None:
        call.enter(status, at)
        if call.ended:
            self._live.down(call.order.to)

    def _note(self, call: Call, delivery: Delivery) -> None:
        call.deliveries.append(delivery)
        call.faults.extend(delivery.faults)
        self.callbacks[delivery.result] += 1
        if delivery.tries:
            self.callbacks["sent"] += 1
            self.callbacks["retries"] += delivery.tries - 1

    def _replay_all(self) -> None:
        for number, row in enumerate(self._ledger.replay(), start=1):
            try:
                self._replay(row)
            except (LookupError, TypeError, ValueError) as error:
                raise EmulatorError(f"ledger: entry {number} makes no sense: {error!r}") from error

    def _replay(self, row: Row) -> None:
        if row["event"] == "accepted":
            self._add(call_from_row(row, len(self.calls)))
            return
        call = self._by_sid[row["call_sid"]]
        if row["event"] == "status":
            self._enter(call, row["status"], from_iso(row["at"]))
        elif row["event"] == "callback":
            self._note(call, _delivery_from_row(row))


def _delivery_from_row(row: Row) -> Delivery:
    return Delivery(
        sequence=row["sequence"],
        status=row["status"],
        at=from_iso(row["at"]),
        result=row["result"],
        http_status=row["http_status"],
        tries=row["tries"],
        took_ms=row["took_ms"],
        faults=tuple(row["faults"]),
    )


class _HighWater:
    """How many calls are live, and were at most: over all, and to one phone."""

    def __init__(self) -> None:
        self.now = self.most = self.most_to_one = 0
        self._by_phone: Counter[str] = Counter()

    def up(self, phone: str) -> None:
        self.now += 1
        self._by_phone[phone] += 1
        self.most = max(self.most, self.now)
        self.most_to_one = max(self.most_to_one, self._by_phone[phone])

    def down(self, phone: str) -> None:
        self.now -= 1
        self._by_phone[phone] -= 1
        if not self._by_phone[phone]:
            del self._by_phone[phone]
