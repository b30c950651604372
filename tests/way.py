"""The way of a call, walked with real verbs in a database that already holds many calls.

Half of the calls are of runs that are over. The other half are of one run that goes on: every
second one of them is over, the others are queued.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from factories import FakeCarrier, claim, do, make_account, make_run, phone, record, say
from outbound import (
    accounts,
    calls,
    claims,
    hanging_up,
    progress,
    recording,
    runs,
    sessions,
    unknowns,
)
from outbound.accounts import Caller
from outbound.carriers.base import Progress
from outbound.claims import ClaimedCall
from outbound.ids import uuid7
from outbound.node import Node
from outbound.reconciler import leader, sweeps
from outbound.reconciler.sweeps import Scope
from outbound.reconciler.table import SWEEPS
from outbound.states import Evidence, Kind
from plans import Plan, explained, settle_down

PAST_RUNS = 2000
BATCH = 100
HOT = ("claim of 100", "100 answers", "100 ends", "due look", "GET run", "GET calls", "probe",
       *(f"sweep {sweep.name}" for sweep in SWEEPS))  # fmt: skip
"""Steps whose every statement docs/performance.md names."""

_PAST_RUNS = """
    INSERT INTO runs
    SELECT (jsonb_populate_record(r, jsonb_build_object(
               'id', gen_random_uuid(), 'status', 'completed', 'ended_at', now()))).*
      FROM runs r, generate_series(1, CAST(:many AS integer)) WHERE r.id = :run
"""
_CALLS = """
    WITH places AS (
        SELECT id, ended_at IS NOT NULL AS is_past,
               row_number() OVER (PARTITION BY ended_at IS NOT NULL ORDER BY id) AS place
          FROM runs WHERE account_id = :account)
    INSERT INTO calls (run_id, account_id, lead_id, phone, state, outcome, attempts, last_number)
    SELECT p.id, :account, 'lead-' || n, '+1' || (2020000000 + n),
           CASE WHEN n % 4 = 1 THEN 'queued' ELSE 'completed' END,
           CASE WHEN n % 4 = 1 THEN NULL ELSE 'answered' END,
           CASE WHEN n % 4 = 1 THEN 0 ELSE 1 END, CASE WHEN n % 4 = 1 THEN 0 ELSE 1 END
      FROM generate_series(CAST(:low AS integer), CAST(:high AS integer)) n
      JOIN places p ON p.is_past = (n % 2 = 0)
       AND p.place = CASE WHEN n % 2 = 0 THEN 1 + (n / 2) % :past ELSE 1 END
     ORDER BY p.is_past, n
"""
_ATTEMPTS = """
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier,
           carrier_call_id, state, outcome, phone_held, fence, worker_id, claimed_at, lease_until,
           occupies_until, placed_at, ended_at)
    SELECT gen_random_uuid(), id, run_id, account_id, 1, phone, '+97231234567', 'twilio',
           'CA-' || id, 'ended', 'answered', false, 1, 'x:1', now() - interval '2 hours',
           now() - interval '2 hours', now() - interval '1 hour', now(), now()
      FROM calls c
     WHERE state = 'completed' AND NOT EXISTS (SELECT FROM attempts a WHERE a.call_id = c.id)
     ORDER BY id
"""
_EVENTS = """
    INSERT INTO events (account_id, run_id, call_id, attempt_id, event, source, worker_id)
    SELECT account_id, run_id, call_id, id, 'carrier_said_' || word, 'webhook', 'x:1'
      FROM attempts a, unnest(ARRAY['ringing', 'in_progress', 'answered']) word
     WHERE NOT EXISTS (SELECT FROM events e WHERE e.run_id = a.run_id AND e.call_id = a.call_id)
"""
_COUNTERS = """
    INSERT INTO run_counters (run_id, shard)
    SELECT id, shard FROM runs, generate_series(0, 3) shard ON CONFLICT DO NOTHING
"""

# Without the foreign keys' checks, row by row.
_IN_BULK = "SET LOCAL statement_timeout = 0; SET LOCAL session_replication_role = replica"


@dataclass
class Field:
    """One account with a run that goes on, among runs that are over."""

    engine: Engine
    account: UUID
    run: UUID
    calls: int = 0

    def grow(self, calls: int) -> None:
        """Fill up to so many calls."""
        values = {"account": self.account, "low": self.calls + 1, "high": calls}
        with self.engine.begin() as connection:
            connection.execute(text(_IN_BULK))
            connection.execute(text(_CALLS), values | {"past": PAST_RUNS})
            for statement in (_ATTEMPTS, _EVENTS, _COUNTERS):
                connection.execute(text(statement))
        self.calls = calls
        settle_down(self.engine)


def make_field(engine: Engine) -> Field:
    pace = {"calls_per_second": 1e6}  # no claim of a hundred comes back with fewer
    account = make_account(engine, **pace)
    run = make_run(engine, account, status="running", **pace)
    add_past_runs(engine, run)
    return Field(engine, account, run)


def add_past_runs(engine: Engine, run: UUID) -> None:
    """Give the run's account runs that are over."""
    do(engine, _PAST_RUNS, run=run, many=PAST_RUNS)


class Walk:
    """Every step of a call, and what sweeps do, each statement explained as it runs."""

    def __init__(self, node: Node, field: Field) -> None:
        self.node = node
        self.field = field
        self.steps: dict[str, list[Plan]] = {}
        self.side = make_account(node.engine)

    def walk(self) -> dict[str, list[Plan]]:
        """Walk all of it; returns the plans of each step."""
        self._dial()
        self._show()
        self._try_again()
        self._find_out()
        self._end_what_is_cancelled()
        self._sweep()
        return self.steps

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        with explained(self.node.engine) as plans:
            yield
        self.steps[name] = plans

    def _dial(self) -> None:
        account = self.field.account
        with self._step("claim of 1"):
            (one,) = claim(self.node, account, most=1)
        with self._step("claim of 100"):
            many = claim(self.node, account, most=BATCH)
        assert len(many) == BATCH
        with self._step("answer"):
            recording.record(self.node, [accepted(one)])
        with self._step("100 answers"):
            recording.record(self.node, [accepted(call) for call in many])
        for word in (Progress.RINGING, Progress.IN_PROGRESS, Progress.ANSWERED):
            with self._step(f"callback {word}"):
                say(self.node, one.attempt_id, word, sid(one))
        with self._step("100 ends"):
            recording.record(self.node, [said(call, Progress.ANSWERED) for call in many])
        with self._step("due look"), self.node.engine.connect() as connection:
            claims.seconds_until_due(connection, account, now(connection))

    def _show(self) -> None:
        account, run = self.field.account, self.field.run
        with self.node.engine.begin() as connection:
            key_id, key = accounts.create_key(connection, account, "viewer")
            cookie = sessions.start(connection, Caller(account, key_id, "viewer", "req-1"))
        with self._step("GET run"), self.node.engine.connect() as connection:
            for who, digest in (
                (accounts.WHO, accounts.digest(key)),
                (sessions.WHO, sessions.digest(cookie)),
            ):
                assert progress.run_and_asker(connection, who, digest, run)["id"] == run
        for state in (None, "in_progress"):
            name = "GET calls" + (f"?state={state}" if state else "")
            with self._step(name), self.node.engine.connect() as connection:
                calls.page(connection, account, run, state, None, None, None)

    def _try_again(self) -> None:
        """A busy callee is called again; who waits for the same phone is woken."""
        columns = {"max_attempts": 2, "status": "running"}
        make_run(self.node.engine, self.side, [phone(1)], **columns)
        (call,) = claim(self.node, self.side)
        waiting = make_run(self.node.engine, self.side, [phone(1), phone(5)])
        do(
            self.node.engine,
            "INSERT INTO suppressions (account_id, phone, actor) VALUES (:account, :phone, 'me')",
            account=self.side,
            phone=phone(5),
        )
        with self._step("claim of a held and a suppressed phone"):
            assert not claim(self.node, self.side)
        recording.record(self.node, [accepted(call)])
        with self._step("retry"):
            recording.record(self.node, [said(call, Progress.BUSY)])
        who = Caller(self.side, uuid7(), "operator", "req-1")
        runs.pause(self.node, self.side, waiting, who)
        with self._step("resume"):
            runs.resume(self.node, self.side, waiting, who)

    def _find_out(self) -> None:
        make_run(self.node.engine, self.side, [phone(2), phone(3)], hang_up=True)
        unknown, placed = claim(self.node, self.side)
        record(self.node, unknown.attempt_id, Kind.AMBIGUOUS)
        recording.record(self.node, [accepted(placed)])
        carrier = FakeCarrier()
        with self._step("look-up"):
            assert unknowns.look_up_due(self.node, carrier, self.side)
        with self._step("hang-up"):
            assert hanging_up.hang_up_due(self.node, carrier, self.side)

    def _end_what_is_cancelled(self) -> None:
        make_run(self.node.engine, self.side, [phone(4)], cancel_requested=True)
        with self._step("ending a cancelled run"):
            assert runs.end_queued(self.node, self.side)

    def _sweep(self) -> None:
        # Whatever the time that the walk took by now, work is due and nobody claims it.
        do(self.node.engine, "UPDATE account_pace SET last_claim_at = NULL, next_send_at = NULL")
        do(self.node.engine, "UPDATE runs SET next_send_at = NULL WHERE next_send_at IS NOT NULL")
        engine = self.node.engine.execution_options(isolation_level="AUTOCOMMIT")
        with self._step("probe"), engine.connect() as connection:
            connection.execute(leader._probe_of(SWEEPS), {"account": None}).one()
        for sweep in SWEEPS:
            with self._step(f"sweep {sweep.name}"):
                sweeps.run_once(self.node, sweep, Scope())


def hot(steps: dict[str, list[Plan]]) -> dict[tuple[str, str], Plan]:
    """Pick the statements on a call's way, by step and name, and each sweep's candidates."""
    return {(step, plan.name): plan for step in HOT for plan in steps[step] if plan.is_ours}


def sid(call: ClaimedCall) -> str:
    return f"CA{call.attempt_id.hex}"


def accepted(call: ClaimedCall) -> Evidence:
    """The carrier's answer to our own request."""
    return Evidence(
        call.attempt_id, Kind.WORD, "answer", progress=Progress.QUEUED, carrier_call_id=sid(call)
    )


def said(call: ClaimedCall, word: Progress) -> Evidence:
    """The carrier's callback."""
    return Evidence(
        call.attempt_id, Kind.WORD, "callback", progress=word, carrier_call_id=sid(call)
    )


def now(connection: Connection) -> object:
    return connection.execute(text("SELECT clock_timestamp()")).scalar_one()
