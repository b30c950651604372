"""Evidence → transition → outcome: the one place where attempts and calls change after a claim.

Answers of our own requests, callbacks, look-ups, sweeps and decisions all come through
`apply`, any number of them in one transaction, with a constant number of statements:

1. lock the runs, by id, of whatever may be queued again
2. lock the attempts, by id, then their calls, by id
3. read all of it in a statement of its own, whose snapshot is younger than the locks
4. write attempts, calls, strays, events, and last the counters

Read in one statement with the lock, a row that had to be waited for is re-checked while the
others are seen as they were: that let two last calls both see the other one as not over.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from outbound import counters, logs
from outbound.carriers.base import Progress
from outbound.states import (
    Attempt,
    AttemptState,
    Call,
    CallState,
    Decision,
    Evidence,
    Kind,
    Move,
    Outcome,
    Policy,
    RunStatus,
    judge,
    settle,
)

log = logs.get(__name__)


@dataclass
class Settled:
    """What an `apply` did, and so whom to wake once it is committed.

    Attributes:
        freed: accounts in which a slot or a phone fell free, or a call became due.
        touched: runs that may have become complete.
        hang_ups: accounts with a stray to hang up.
        moved: for each attempt that changed, its state before and after.
        redialled, unknown, ended: how many attempts went that way.
        outcomes: given to attempts, each with the source of the evidence.
        first_callbacks: seconds that calls waited for their first one.
        taken: carrier ids that another attempt has.
        tell: log lines, to be written once it is committed: dashboards believe them.
    """

    freed: set[UUID] = field(default_factory=set)
    touched: set[UUID] = field(default_factory=set)
    hang_ups: set[UUID] = field(default_factory=set)
    moved: dict[UUID, tuple[AttemptState, AttemptState]] = field(default_factory=dict)
    missing: set[UUID] = field(default_factory=set)
    strays: int = 0
    redialled: int = 0
    unknown: int = 0
    ended: int = 0
    outcomes: Counter[tuple[Outcome, str]] = field(default_factory=Counter)
    first_callbacks: list[float] = field(default_factory=list)
    taken: int = 0
    tell: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class _Row:
    """One attempt and what was read with it, under the locks."""

    account_id: UUID
    run_id: UUID
    phone: str
    carrier: str
    status: RunStatus
    run: Policy
    reopens: bool
    expired: bool
    attempt: Attempt


# LIMIT 1 keeps each row a probe by its id: joined plainly, a batch of 100 read all runs there are,
# and all attempts of a table that was analysed while it was empty.
_WHO_MAY_REQUEUE = text("""
    SELECT a.id, a.run_id, r.max_attempts, r.retry_on
      FROM attempts a
     CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = a.run_id LIMIT 1) r
     WHERE a.id = ANY (CAST(:ids AS uuid[]))
""")
LOCK_RUNS = text("""
    SELECT id FROM runs WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
""")
# The array needs all attempts, and so their locks, before the first call's.
_LOCK = text("""
    WITH locked AS MATERIALIZED (
        SELECT call_id FROM attempts WHERE id = ANY (CAST(:ids AS uuid[]))
         ORDER BY id FOR NO KEY UPDATE)
    SELECT id FROM calls WHERE id = ANY (ARRAY(SELECT call_id FROM locked))
     ORDER BY id FOR NO KEY UPDATE
""")
_READ = text(f"""
    SELECT {", ".join(f"a.{name}" for name in Attempt._fields)},
           a.account_id, a.run_id, a.phone, a.carrier, clock_timestamp() AS now,
           c.state AS call_state, c.outcome AS call_outcome, c.attempts AS call_attempts,
           c.next_attempt_at, c.waiting_for, c.cancel_requested AS call_cancelled,
           r.purge_started_at IS NOT NULL AS purged,
           r.status, r.max_attempts, r.retry_delay, r.retry_on, r.ring_timeout,
           r.ended_at IS NULL AS run_open, r.cancel_requested,
           (r.expires_at IS NULL OR r.expires_at > clock_timestamp()) AS unexpired
      FROM unnest(CAST(:calls AS bigint[])) wanted
     CROSS JOIN LATERAL (SELECT * FROM attempts WHERE call_id = wanted OFFSET 0) a
     CROSS JOIN LATERAL (SELECT * FROM calls WHERE id = wanted LIMIT 1) c
     CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = a.run_id LIMIT 1) r
     WHERE a.state <> 'released' OR a.id = ANY (CAST(:ids AS uuid[]))
     ORDER BY a.call_id, a.number
""")  # noqa: S608 - only our own column names
_ID_OWNERS = text("""
    SELECT carrier, carrier_call_id, id FROM attempts
     WHERE carrier = ANY (CAST(:carriers AS text[]))
       AND carrier_call_id = ANY (CAST(:sids AS text[]))
""")
CONTESTED = text("""
    SELECT EXISTS (
        SELECT FROM attempts me JOIN attempts o
            ON o.phone = me.phone AND o.caller_id = me.caller_id AND o.id <> me.id
         WHERE me.id = :id AND o.carrier_call_id IS NULL
           AND (o.state IN ('sending', 'unknown')
                OR (o.state IN ('ended', 'released') AND o.decision_stands)))
""")
_WRITE_ATTEMPTS = text("""
    UPDATE attempts a
       SET state = w.state, outcome = w.outcome, carrier_call_id = w.carrier_call_id,
           phone_held = w.phone_held, placed_at = w.placed_at, ringing_at = w.ringing_at,
           answered_at = w.answered_at, unknown_at = w.unknown_at, ended_at = w.ended_at,
           duration = w.duration, error = w.error, heard_at = w.heard_at,
           decision = w.decision, decided_by = w.decided_by,
           decision_stands = w.decision_stands, next_lookup_at = w.next_lookup_at,
           lookups_fail_since = w.lookups_fail_since
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
           id uuid, state text, outcome text, carrier_call_id text, phone_held boolean,
           placed_at timestamptz, ringing_at timestamptz, answered_at timestamptz,
           unknown_at timestamptz, ended_at timestamptz, duration integer, error text,
           heard_at timestamptz, decision text, decided_by text, decision_stands boolean,
           next_lookup_at timestamptz, lookups_fail_since timestamptz)
     WHERE a.id = w.id AND a.id = ANY (CAST(:ids AS uuid[]))
""")
_WRITE_CALLS = text("""
    UPDATE calls c
       SET state = w.state, outcome = w.outcome, attempts = w.attempts,
           next_attempt_at = w.next_attempt_at, waiting_for = w.waiting_for, last_error = NULL
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
           id bigint, state text, outcome text, attempts smallint,
           next_attempt_at timestamptz, waiting_for text)
     WHERE c.id = w.id AND c.id = ANY (CAST(:ids AS bigint[]))
""")
_WAKE_PHONES = text("""
    WITH waiting AS MATERIALIZED (
        SELECT c.id FROM calls c
          JOIN jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (account_id uuid, phone text)
            ON c.account_id = w.account_id AND c.phone = w.phone
         WHERE c.is_queued AND c.waiting_for = 'phone'
         ORDER BY c.id FOR NO KEY UPDATE OF c SKIP LOCKED)
    UPDATE calls SET next_attempt_at = clock_timestamp(), waiting_for = NULL
     WHERE id = ANY (ARRAY(SELECT id FROM waiting))
""")
_STRAY = text("""
    INSERT INTO stray_carrier_calls
           (account_id, attempt_id, carrier, carrier_call_id, reason, next_hang_up_at, ended_at)
    VALUES (:account_id, :attempt_id, :carrier, :carrier_call_id, :reason, clock_timestamp(),
            CASE WHEN :over THEN clock_timestamp() END)
    ON CONFLICT (carrier, carrier_call_id) DO UPDATE
       SET ended_at = coalesce(stray_carrier_calls.ended_at, excluded.ended_at)
    RETURNING (xmax = 0) AS is_new
""")
_REOPEN = text("""
    UPDATE runs SET status = 'running', ended_at = NULL
     WHERE id = ANY (CAST(:ids AS uuid[])) AND status = 'completed' RETURNING id, account_id
""")
NOTE_EXPIRY = text("""
    UPDATE runs SET expiry_ended_calls = true WHERE id = ANY (CAST(:ids AS uuid[]))
""")
_EVENTS = text("""
    INSERT INTO events (account_id, run_id, call_id, attempt_id, event, source, worker_id, actor,
                        request_id, details)
    SELECT account_id, run_id, call_id, attempt_id, event, source, worker_id, actor, request_id,
           details
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
           account_id uuid, run_id uuid, call_id bigint, attempt_id uuid, event text,
           source text, worker_id text, actor text, request_id text, details jsonb)
""")

_REQUEUES = (Kind.NOT_PROCESSED, Kind.UNSENT, Kind.DECISION)
_QUIET = ("answer",)
"""Sources whose moves the attempt's own times tell already: no event row for each."""


def apply(
    connection: Connection, evidence: list[Evidence], *, worker_id: str, source: str, shard: int
) -> Settled:
    """Apply evidence inside the caller's transaction.

    Safe to run twice: what already happened changes nothing.

    Args:
        connection: in a transaction that holds no lock later than `runs` in the lock order.
        evidence: in the order in which it came; several for one attempt are fine.
        worker_id: this process, for the events.
        source: this process's consumer_source, for the events.
        shard: which run_counters rows to add to.
    """
    if not evidence:
        return Settled()
    batch = _Batch(connection, evidence, worker_id, source)
    for item in evidence:
        batch.take(item)
    batch.write(shard)
    return batch.settled


class _Batch:
    """The rows that some evidence is about: locked, read, moved in memory, then written once."""

    def __init__(
        self, connection: Connection, evidence: list[Evidence], worker_id: str, source: str
    ) -> None:
        self.connection = connection
        self.worker_id = worker_id
        self.source = source
        self.settled = Settled()
        self.events: list[dict[str, Any]] = []
        self.reopen: set[UUID] = set()
        self.expired: set[UUID] = set()
        self.rows: dict[UUID, _Row] = {}
        self.calls: dict[int, Call] = {}
        self.of_call: dict[int, list[_Row]] = defaultdict(list)  # by number
        self.now = datetime.min.replace(tzinfo=UTC)
        self._lock_and_read(evidence)
        self.old_attempts = {row.attempt.id: row.attempt for row in self.rows.values()}
        self.old_calls = dict(self.calls)
        self.owners = self._read_owners(evidence)

    def _lock_and_read(self, evidence: list[Evidence]) -> None:
        ids = sorted({item.attempt_id for item in evidence})
        if runs := _runs_that_may_requeue(self.connection, evidence, ids):
            self.connection.execute(LOCK_RUNS, {"ids": sorted(runs)})
        calls = self.connection.execute(_LOCK, {"ids": ids}).scalars().all()
        if not calls:
            return
        for row in self.connection.execute(_READ, {"calls": calls, "ids": ids}):
            self.now = row.now
            self.rows[row.id] = read = _read_row(row)
            self.of_call[row.call_id].append(read)
            self.calls[row.call_id] = _read_call(row)

    def _read_owners(self, evidence: list[Evidence]) -> dict[tuple[str, str], UUID]:
        # Most words are about an id that its attempt has already, and so nobody else.
        owners = {
            (row.carrier, row.attempt.carrier_call_id): row.attempt.id
            for row in self.rows.values()
            if row.attempt.carrier_call_id
        }
        said = {
            (row.carrier, item.carrier_call_id)
            for item in evidence
            if item.carrier_call_id and (row := self.rows.get(item.attempt_id))
        }
        if asked := sorted(said - owners.keys()):
            carriers, sids = ({*column} for column in zip(*asked, strict=True))
            values = {"carriers": sorted(carriers), "sids": sorted(sids)}
            for found in self.connection.execute(_ID_OWNERS, values):
                owners[found.carrier, found.carrier_call_id] = found.id
        return owners

    def take(self, item: Evidence) -> None:
        """Judge one piece of evidence against what the batch knows by now."""
        row = self.rows.get(item.attempt_id)
        if row is None:
            self.settled.missing.add(item.attempt_id)
            return
        if self._is_anothers(row, item) or (item.matched_by_number and self._is_contested(row)):
            return
        move = judge(row.attempt, item, self.now, row.run.ring_timeout)
        if move.stray:
            self._note_stray(row, item, move.stray)
        if move.attempt:
            self._move(row, item, move, move.attempt)

    def _is_anothers(self, row: _Row, item: Evidence) -> bool:
        # UNIQUE (carrier, carrier_call_id) is the judge; it is asked first, since its refusal
        # would undo everybody else's evidence of this transaction as well.
        if not item.carrier_call_id:
            return False
        key = (row.carrier, item.carrier_call_id)
        if self.owners.get(key, row.attempt.id) == row.attempt.id:
            return False
        self.settled.taken += 1
        self._tell(
            log.warning,
            "carrier_id_taken",
            dedup_conflict=True,
            attempt_id=str(item.attempt_id),
            carrier=row.carrier,
            carrier_call_id=item.carrier_call_id,
        )
        return True

    def _tell(self, say: Callable[..., Any], event: str, **known: Any) -> None:
        self.settled.tell.append(partial(say, event, **known))

    def _is_contested(self, row: _Row) -> bool:
        # Checked again here, under the attempt's lock: two attempts that nobody knows of, with
        # one To and From, cannot be told apart by numbers.
        values = {"id": row.attempt.id}
        return bool(self.connection.execute(CONTESTED, values).scalar())

    def _note_stray(self, row: _Row, item: Evidence, reason: str) -> None:
        over = bool(item.progress and item.progress.is_final)
        stray = {
            "account_id": row.account_id,
            "attempt_id": row.attempt.id,
            "carrier": row.carrier,
            "carrier_call_id": item.carrier_call_id,
            "reason": reason,
            "over": over,
        }
        if self.connection.execute(_STRAY, stray).scalar_one():
            self.settled.strays += 1
            self._event(row, item, "stray_carrier_call", {"reason": reason})
            self._tell(
                log.error,
                "stray_carrier_call",
                dedup_conflict=True,
                reason=reason,
                **_ids(row),
                carrier_call_id=item.carrier_call_id,
            )
        if not over:
            self.settled.hang_ups.add(row.account_id)

    def _move(self, row: _Row, item: Evidence, move: Move, after: Attempt) -> None:
        before, row.attempt = row.attempt, after
        if after.carrier_call_id:
            self.owners[row.carrier, after.carrier_call_id] = after.id
        call = self.calls[after.call_id]
        counted = [
            other.attempt
            for other in self.of_call[call.id]
            if other.attempt.state is not AttemptState.RELEASED
        ]
        policy = row.run
        if item.kind in _REQUEUES and row.reopens:
            policy = policy._replace(dials=True)
        settled = settle(call, after, counted, policy, self.now, move.requeue_in)
        if row.expired and settled.state is not CallState.QUEUED:
            policy = policy._replace(dials=True)
            unexpired = settle(call, after, counted, policy, self.now, move.requeue_in)
            if unexpired.state is CallState.QUEUED:
                # It would have been queued again, so its run is locked. Not noted, a run that
                # is paused would never end, and one that is not would count as completed.
                self.expired.add(row.run_id)
        self.calls[call.id] = settled
        if settled.state is CallState.QUEUED and row.status is RunStatus.COMPLETED:
            self.reopen.add(row.run_id)
        self._tally(row, before, after)
        self._measure(item, before, after)
        if any(other.number > after.number for other in counted):
            self._tell(
                log.warning,
                "late_word_on_old_attempt",
                **_ids(row),
                carrier_call_id=after.carrier_call_id,
            )
        if item.source not in _QUIET or after.state is AttemptState.UNKNOWN:
            self._event(row, item, _event_name(item, after), _details(item, before, after))

    def _tally(self, row: _Row, before: Attempt, after: Attempt) -> None:
        if before.state is after.state and before.ended_at == after.ended_at:
            return
        settled = self.settled
        settled.moved[after.id] = (settled.moved.get(after.id, (before.state,))[0], after.state)
        if after.state is AttemptState.PLACED:
            return
        settled.touched.add(row.run_id)
        settled.freed.add(row.account_id)
        if after.state is AttemptState.UNKNOWN:
            settled.unknown += 1
        elif after.decision is Decision.REDIAL and after.decision_stands:
            settled.redialled += 1
        elif after.state is AttemptState.ENDED:
            settled.ended += 1

    def _measure(self, item: Evidence, before: Attempt, after: Attempt) -> None:
        if after.outcome and after.outcome is not before.outcome:
            self.settled.outcomes[after.outcome, item.source] += 1
        if item.source == "callback" and before.heard_at is None:
            waited = self.now - (before.placed_at or self.now)  # or it overtook our own answer
            self.settled.first_callbacks.append(waited.total_seconds())

    def _event(
        self, row: _Row, item: Evidence, event: str, details: dict[str, object] | None = None
    ) -> None:
        self.events.append(
            {
                "account_id": row.account_id,
                "run_id": row.run_id,
                "call_id": row.attempt.call_id,
                "attempt_id": row.attempt.id,
                "event": event,
                "source": self.source,
                "worker_id": self.worker_id,
                "actor": item.by,
                "request_id": item.request_id,
                "details": details,
            }
        )

    def write(self, shard: int) -> None:
        """Write what moved, the counters last: everybody's lock order ends with them."""
        attempts = [
            row.attempt
            for row in self.rows.values()
            if row.attempt is not self.old_attempts[row.attempt.id]
        ]
        calls = [call for call in self.calls.values() if call != self.old_calls[call.id]]
        if self.reopen:
            self._reopen()
        if self.expired:
            self.connection.execute(NOTE_EXPIRY, {"ids": sorted(self.expired)})
        _write(self.connection, _WRITE_ATTEMPTS, attempts)
        _write(self.connection, _WRITE_CALLS, calls)
        if phones := self._freed_phones(attempts):
            self.connection.execute(_WAKE_PHONES, {"rows": _json(phones)})
        write_events(self.connection, self.events)
        run_of = {row.attempt.call_id: row.run_id for row in self.rows.values()}
        counters.add(self.connection, self._deltas(calls, run_of), shard)

    def _reopen(self) -> None:
        for run in self.connection.execute(_REOPEN, {"ids": sorted(self.reopen)}).all():
            self.events.append(
                {
                    "account_id": run.account_id,
                    "run_id": run.id,
                    "event": "run_reopened",
                    "source": self.source,
                    "worker_id": self.worker_id,
                }
            )
            names = {"run_id": str(run.id), "account_id": str(run.account_id)}
            self._tell(log.info, "run_reopened", **names)

    def _freed_phones(self, attempts: list[Attempt]) -> list[dict[str, object]]:
        return [
            {"account_id": self.rows[attempt.id].account_id, "phone": self.rows[attempt.id].phone}
            for attempt in attempts
            if self.old_attempts[attempt.id].phone_held and not attempt.phone_held
        ]

    def _deltas(self, calls: list[Call], run_of: dict[int, UUID]) -> dict[UUID, Counter[str]]:
        deltas: dict[UUID, Counter[str]] = defaultdict(Counter)
        for call in calls:
            old, delta = self.old_calls[call.id], deltas[run_of[call.id]]
            for one, sign in ((old, -1), (call, 1)):
                delta[one.state.counter] += sign
                delta["attempts"] += sign * one.attempts
                if one.outcome:
                    delta[one.outcome.counter] += sign
        return deltas


def write_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Store events; each a mapping of the events table's columns."""
    if events:
        connection.execute(_EVENTS, {"rows": _json(events)})


def _runs_that_may_requeue(
    connection: Connection, evidence: list[Evidence], ids: list[UUID]
) -> set[UUID]:
    # Only these take their run's lock, before all others: if every settle did, a run's
    # callbacks would stand in line for one row.
    said: dict[UUID, set[str]] = defaultdict(set)
    for item in evidence:
        if item.kind in _REQUEUES:
            said[item.attempt_id].add("*")
        elif item.progress and item.progress.is_final:
            said[item.attempt_id].add(str(item.progress))
    if not said:
        return set()
    found = connection.execute(_WHO_MAY_REQUEUE, {"ids": ids}).all()
    return {
        row.run_id
        for row in found
        if "*" in said[row.id] or (row.max_attempts > 1 and said[row.id] & set(row.retry_on))
    }


def _read_row(row: Row[Any]) -> _Row:
    attempt = Attempt._make(row[: len(Attempt._fields)])
    # A call that somebody cancelled, or whose phone was purged, is never queued again.
    wanted = not (row.cancel_requested or row.call_cancelled or row.purged)
    return _Row(
        account_id=row.account_id,
        run_id=row.run_id,
        phone=row.phone,
        carrier=row.carrier,
        status=RunStatus(row.status),
        run=Policy(
            dials=row.run_open and wanted and row.unexpired,
            max_attempts=row.max_attempts,
            retry_delay=row.retry_delay,
            retry_on=tuple(row.retry_on),
            ring_timeout=row.ring_timeout,
        ),
        expired=row.run_open and wanted and not row.unexpired,
        reopens=row.status == RunStatus.COMPLETED and wanted and row.unexpired,
        attempt=attempt._replace(
            state=AttemptState(attempt.state),
            outcome=Outcome(attempt.outcome) if attempt.outcome else None,
            decision=Decision(attempt.decision) if attempt.decision else None,
        ),
    )


def _read_call(row: Row[Any]) -> Call:
    return Call(
        id=row.call_id,
        state=CallState(row.call_state),
        outcome=Outcome(row.call_outcome) if row.call_outcome else None,
        attempts=row.call_attempts,
        next_attempt_at=row.next_attempt_at,
        waiting_for=row.waiting_for,
    )


def _write(connection: Connection, statement: Any, rows: list[Any]) -> None:
    if rows:
        values = [row._asdict() for row in rows]
        connection.execute(statement, {"rows": _json(values), "ids": [row.id for row in rows]})


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, default=str)


def _ids(row: _Row) -> dict[str, str]:
    return {
        "account_id": str(row.account_id),
        "run_id": str(row.run_id),
        "call_id": str(row.attempt.call_id),
        "attempt_id": str(row.attempt.id),
        "carrier": row.carrier,
    }


def _event_name(item: Evidence, after: Attempt) -> str:
    if item.kind is Kind.WORD:
        return f"carrier_said_{item.progress or Progress.QUEUED}"
    if item.kind is Kind.DECISION:
        return f"decided_{item.decision}"
    return f"attempt_{after.state}"


def _details(item: Evidence, before: Attempt, after: Attempt) -> dict[str, object]:
    known = {
        "from": before.state,
        "to": after.state,
        "by": item.source,
        "note": item.note,
        "error": item.error,
        "outcome": after.outcome,
        "carrier_call_id": item.carrier_call_id,
    }
    return {name: value for name, value in known.items() if value is not None}
