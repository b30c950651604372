"""Rows to test with, made the way the product makes them, and carriers that tests control."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, insert, select, text

from outbound import claims, models, recording
from outbound.carriers.base import Answer, CarrierCall, PlaceRequest, Progress, Verdict
from outbound.claims import ClaimedCall
from outbound.ids import uuid7
from outbound.node import Node
from outbound.settling import Settled
from outbound.states import Evidence, Kind

CARRIER = "twilio"
CALLER_ID = "+97231234567"


def phone(n: int) -> str:
    return f"+1202555{n:04d}"


def make_account(engine: Engine, **pace: Any) -> UUID:
    """An account whose limits are out of the way unless a test names them."""
    account = uuid7()
    limits = {"max_live_calls": 1000, "calls_per_second": 1000.0, "min_seconds_between_calls": 0}
    with engine.begin() as connection:
        connection.execute(
            insert(models.accounts).values(id=account, name=str(account), caller_ids=[CALLER_ID])
        )
        connection.execute(
            insert(models.account_pace).values(account_id=account, **(limits | pace))
        )
    return account


def make_run(engine: Engine, account: UUID, phones: Iterable[str] = (), **columns: Any) -> UUID:
    """A pending run with one queued call for each phone."""
    phones = list(phones)
    run = uuid7()
    values: dict[str, Any] = {
        "id": run,
        "account_id": account,
        "status": "pending",
        "total_leads": len(phones),
        "concurrency": 1000,
        "calls_per_second": 1000.0,
        "caller_id": CALLER_ID,
        "twiml": "<Response/>",
        "ring_timeout": 30,
        "max_call_duration": 3600,
        "max_attempts": 1,
        "retry_delay": 600,
        "retry_on": ["busy", "no_answer"],
        "on_unknown": "hold",
        "body_hash": run.bytes,
    }
    with engine.begin() as connection:
        connection.execute(insert(models.runs).values(values | columns))
        connection.execute(
            insert(models.run_counters).values(run_id=run, shard=0, queued=len(phones))
        )
        for number, one in enumerate(phones):
            connection.execute(
                insert(models.calls).values(
                    run_id=run, account_id=account, lead_id=f"lead-{number}", phone=one
                )
            )
    return run


def claim(node: Node, account: UUID, most: int = 100, scan: int = 0) -> tuple[ClaimedCall, ...]:
    return claims.claim(node, CARRIER, account, most, scan).calls


def record(node: Node, attempt: UUID, kind: Kind, **known: Any) -> Settled:
    return recording.record(node, [Evidence(attempt, kind, known.pop("source", "answer"), **known)])


def say(node: Node, attempt: UUID, progress: Progress, sid: str, **known: Any) -> Settled:
    """The carrier's callback."""
    return record(
        node, attempt, Kind.WORD, source="callback", progress=progress, carrier_call_id=sid, **known
    )


def rows(engine: Engine, statement: str, **values: Any) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(statement), values).mappings())


def one(engine: Engine, statement: str, **values: Any) -> Any:
    (row,) = rows(engine, statement, **values)
    return row


def do(engine: Engine, statement: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def attempt_of(engine: Engine, attempt: UUID) -> Any:
    return one(engine, "SELECT * FROM attempts WHERE id = :id", id=attempt)


def call_of(engine: Engine, call: int) -> Any:
    return one(engine, "SELECT * FROM calls WHERE id = :id", id=call)


def run_of(engine: Engine, run: UUID) -> Any:
    return one(engine, "SELECT * FROM runs WHERE id = :id", id=run)


def counters_of(engine: Engine, run: UUID) -> dict[str, int]:
    sums = ", ".join(f"sum({name})::int AS {name}" for name in models.COUNTERS)
    return dict(one(engine, f"SELECT {sums} FROM run_counters WHERE run_id = :run", run=run))


def counted_from_rows(engine: Engine, run: UUID) -> dict[str, int]:
    """What the counters must say, counted from the calls themselves."""
    from outbound.states import CallState, Outcome

    counted = dict.fromkeys(models.COUNTERS, 0)
    with engine.connect() as connection:
        found = connection.execute(
            select(models.calls.c.state, models.calls.c.outcome, models.calls.c.attempts).where(
                models.calls.c.run_id == run
            )
        ).all()
    for row in found:
        counted[CallState(row.state).counter] += 1
        counted["attempts"] += row.attempts
        if row.outcome:
            counted[Outcome(row.outcome).counter] += 1
    return counted


class FakeCarrier:
    """A carrier of the tests' own: answers as told, and remembers what it was asked."""

    name = CARRIER

    def __init__(self, answer: Callable[[PlaceRequest], Answer] | None = None) -> None:
        self.requests: list[PlaceRequest] = []
        self.hung_up: list[str] = []
        self.calls: dict[str, CarrierCall] = {}
        self.tags: dict[str, UUID] = {}
        self._answer = answer or self.accept
        self._lock = threading.Lock()

    def accept(self, request: PlaceRequest) -> Answer:
        return Answer(Verdict.ACCEPTED, f"CA{request.attempt_id.hex}")

    def place(self, request: PlaceRequest) -> Answer:
        with self._lock:
            self.requests.append(request)
        return self._answer(request)

    def look_up(self, carrier_call_id: str) -> CarrierCall | None:
        return self.calls.get(carrier_call_id)

    def find(self, *, to: str, caller_id: str, since: Any) -> list[CarrierCall]:
        return [c for c in self.calls.values() if (c.to, c.caller_id) == (to, caller_id)]

    def attempt_of(self, carrier_call_id: str) -> UUID | None:
        return self.tags.get(carrier_call_id)

    def hang_up(self, carrier_call_id: str) -> None:
        self.hung_up.append(carrier_call_id)
