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

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from outbound import alike, as_json, counters, db, logs
from outbound.alike import Attempts, Calls
from outbound.carriers.base import Progress
from outbound.prepared import prepared
from outbound.states import (
    Attempt,
    AttemptState,
    CallState,
    Decision,
    Evidence,
    Kind,
    Move,
    Outcome,
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
        moved: attempts whose state changed.
        redialled, unknown, ended: how many attempts went that way.
        outcomes: given to attempts, each with the source of the evidence.
        first_callbacks: seconds that calls waited for their first one.
        taken: carrier ids that another attempt has.
        tell: log lines, to be written once it is committed: dashboards believe them.
    """

    freed: set[UUID] = field(default_factory=set)
    touched: set[UUID] = field(default_factory=set)
    hang_ups: set[UUID] = field(default_factory=set)
    moved: set[UUID] = field(default_factory=set)
    missing: set[UUID] = field(default_factory=set)
    strays: int = 0
    redialled: int = 0
    unknown: int = 0
    ended: int = 0
    outcomes: Counter[tuple[Outcome, str]] = field(default_factory=Counter)
    first_callbacks: list[float] = field(default_factory=list)
    taken: int = 0
    tell: list[Callable[[], None]] = field(default_factory=list)


# LIMIT 1 keeps each row a probe by its id (alike.py).
_WHO_MAY_REQUEUE = prepared("""
    SELECT a.id, a.run_id, r.max_attempts, r.retry_on
      FROM attempts a
     CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = a.run_id LIMIT 1) r
     WHERE a.id = ANY (CAST(:ids AS uuid[]))
""")
LOCK_RUNS = prepared("""
    SELECT id FROM runs WHERE id = ANY (CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE
""")
# The array needs all attempts, and so their locks, before the first call's.
_LOCK = prepared("""
    WITH locked AS MATERIALIZED (
        SELECT call_id FROM attempts WHERE id = ANY (CAST(:ids AS uuid[]))
         ORDER BY id FOR NO KEY UPDATE)
    SELECT id FROM calls WHERE id = ANY (ARRAY(SELECT call_id FROM locked))
     ORDER BY id FOR NO KEY UPDATE
""")
# Each id is looked for by itself. Asked for all at once, PostgreSQL 15 planned, while there were no
# attempts, to read every one of the carrier's.
_ID_OWNERS = prepared("""
    SELECT o.carrier, o.carrier_call_id, o.id
      FROM unnest(CAST(:carriers AS text[]), CAST(:sids AS text[])) AS w (carrier, sid)
     CROSS JOIN LATERAL (
        SELECT carrier, carrier_call_id, id FROM attempts
         WHERE carrier = w.carrier AND carrier_call_id = w.sid LIMIT 1) o
""")
CONTESTED = text("""
    SELECT EXISTS (
        SELECT FROM attempts me JOIN attempts o
            ON o.phone = me.phone AND o.caller_id = me.caller_id AND o.id <> me.id
         WHERE me.id = :id AND o.carrier_call_id IS NULL
           AND (o.state IN ('sending', 'unknown')
                OR (o.state IN ('ended', 'released') AND o.decision_stands)))
""")
# Each phone is looked for by itself: joined plainly, a batch read all 50,000 calls that had begun
# to wait since the table was analysed.
_WAKE_PHONES = prepared("""
    WITH waiting AS MATERIALIZED (
        SELECT c.id
          FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (account_id uuid, phones text[])
         CROSS JOIN unnest(w.phones) AS freed
         CROSS JOIN LATERAL (
            SELECT id FROM calls
             WHERE account_id = w.account_id AND phone = freed
               AND is_queued AND waiting_for = 'phone'
               FOR NO KEY UPDATE SKIP LOCKED) c)
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
_EVENTS = prepared("""
    INSERT INTO events (account_id, run_id, call_id, attempt_id, event, source, worker_id, actor,
                        request_id, details)
    SELECT account_id, run_id, call_id, attempt_id, event, source, worker_id, actor, request_id,
           details
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
           account_id uuid, run_id uuid, call_id bigint, attempt_id uuid, event text,
           source text, worker_id text, actor text, request_id text, details jsonb)
""")

_REQUEUES = (Kind.NOT_PROCESSED, Kind.UNSENT, Kind.DECISION)
_WHOSE = ("attempt_id", "carrier_call_id")
_SAYS = attrgetter(*(name for name in Evidence._fields if name not in _WHOSE))
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
    for row, words in batch.what_is_said(evidence):
        batch.take(row, words)
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
        self.rows: dict[UUID, Attempts] = {}
        self.moved: dict[UUID, Attempts] = {}
        self.now = datetime.min.replace(tzinfo=UTC)
        self._lock_and_read(evidence)
        self.owners = self._read_owners(evidence)

    def _lock_and_read(self, evidence: list[Evidence]) -> None:
        ids = [*dict.fromkeys(item.attempt_id for item in evidence)]
        if runs := _runs_that_may_requeue(self.connection, evidence, ids):
            self.connection.execute(LOCK_RUNS, {"ids": sorted(runs)})
        calls = list(self.connection.execute(_LOCK, {"ids": db.array(ids)}).scalars())
        if calls:
            self.now, self.rows = alike.read(self.connection, ids, calls, _apart(evidence))

    def _read_owners(self, evidence: list[Evidence]) -> dict[tuple[str, str], UUID]:
        # Most words are about an id that its attempt has already, and so nobody else.
        owners = {
            (row.carrier, row.was.carrier_call_id): row.was.id
            for row in self.rows.values()
            if row.was.carrier_call_id
        }
        said = {
            (row.carrier, item.carrier_call_id)
            for item in evidence
            if item.carrier_call_id and (row := self.rows.get(item.attempt_id))
        }
        if asked := sorted(said - owners.keys()):
            carriers, sids = map(list, zip(*asked, strict=True))
            values = {"carriers": carriers, "sids": sids}
            for found in self.connection.execute(_ID_OWNERS, values):
                owners[found.carrier, found.carrier_call_id] = found.id
        return owners

    def what_is_said(self, evidence: list[Evidence]) -> Iterator[tuple[Attempts, list[Evidence]]]:
        """Put together what says the same of attempts that are alike, else in its order."""
        said: dict[Hashable, list[Evidence]] = defaultdict(list)
        for number, item in enumerate(evidence):
            row = self.rows.get(item.attempt_id)
            if row is None:
                self.settled.missing.add(item.attempt_id)
            elif len(row.members) == 1:
                said[number].append(item)
            else:
                said[id(row), item.carrier_call_id is None, *_SAYS(item)].append(item)
        for words in said.values():
            yield self.rows[words[0].attempt_id], words

    def take(self, row: Attempts, words: list[Evidence]) -> None:
        """Judge what is said of some attempts of a row against what the batch knows by now."""
        words = [item for item in words if not self._is_anothers(row, item)]
        if not words or (words[0].matched_by_number and self._is_contested(row)):
            return
        row = row.part(item.attempt_id for item in words)
        move = judge(row.now, words[0], self.now, row.run.ring_timeout)
        if move.stray:
            for item in words:
                self._note_stray(row, item, move.stray)
        if move.attempt:
            self._move(row, words, move, move.attempt)

    def _is_anothers(self, row: Attempts, item: Evidence) -> bool:
        # UNIQUE (carrier, carrier_call_id) is the judge; it is asked first, since its refusal
        # would undo everybody else's evidence of this transaction as well.
        if not item.carrier_call_id:
            return False
        key = (row.carrier, item.carrier_call_id)
        if self.owners.get(key, item.attempt_id) == item.attempt_id:
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

    def _is_contested(self, row: Attempts) -> bool:
        # Checked again here, under the attempt's lock: two attempts that nobody knows of, with
        # one To and From, cannot be told apart by numbers.
        return bool(self.connection.execute(CONTESTED, {"id": row.was.id}).scalar())

    def _note_stray(self, row: Attempts, item: Evidence, reason: str) -> None:
        over = bool(item.progress and item.progress.is_final)
        stray = {
            "account_id": row.account_id,
            "attempt_id": item.attempt_id,
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
                **_ids(row, item),
                carrier_call_id=item.carrier_call_id,
            )
        if not over:
            self.settled.hang_ups.add(row.account_id)

    def _move(self, row: Attempts, words: list[Evidence], move: Move, after: Attempt) -> None:
        item, before, row.now = words[0], row.now, after
        self.moved[row.was.id] = row
        if after.carrier_call_id != before.carrier_call_id:
            row.carrier_call_ids = [one.carrier_call_id for one in words]
        for attempt_id, sid in zip(row.members, row.carrier_call_ids, strict=True):
            if sid:
                self.owners[row.carrier, sid] = attempt_id
        self._settle(row, item, move)
        self._tally(row, before, after)
        self._measure(row, words, before, after)
        if any(other.number > after.number for other in row.calls.counted):
            self._tell(
                log.warning,
                "late_word_on_old_attempt",
                **_ids(row, item),
                carrier_call_id=after.carrier_call_id,
            )
        if item.source not in _QUIET or after.state is AttemptState.UNKNOWN:
            for one in words:
                self._event(row, one, _event_name(one, after), _details(one, before, after))

    def _settle(self, row: Attempts, item: Evidence, move: Move) -> None:
        calls, counted, policy = row.calls, row.calls.counted, row.run
        if item.kind in _REQUEUES and row.reopens:
            policy = policy._replace(dials=True)
        settled = settle(calls.now, row.now, counted, policy, self.now, move.requeue_in)
        if row.expired and settled.state is not CallState.QUEUED:
            policy = policy._replace(dials=True)
            unexpired = settle(calls.now, row.now, counted, policy, self.now, move.requeue_in)
            if unexpired.state is CallState.QUEUED:
                # It would have been queued again, so its run is locked. Not noted, a run that
                # is paused would never end, and one that is not would count as completed.
                self.expired.add(row.run_id)
        calls.now = settled
        if settled.state is CallState.QUEUED and row.status is RunStatus.COMPLETED:
            self.reopen.add(row.run_id)

    def _tally(self, row: Attempts, before: Attempt, after: Attempt) -> None:
        if before.state is after.state and before.ended_at == after.ended_at:
            return
        settled, many = self.settled, len(row.members)
        settled.moved.update(row.members)
        if after.state is AttemptState.PLACED:
            return
        settled.touched.add(row.run_id)
        settled.freed.add(row.account_id)
        if after.state is AttemptState.UNKNOWN:
            settled.unknown += many
        elif after.decision is Decision.REDIAL and after.decision_stands:
            settled.redialled += many
        elif after.state is AttemptState.ENDED:
            settled.ended += many

    def _measure(
        self, row: Attempts, words: list[Evidence], before: Attempt, after: Attempt
    ) -> None:
        source = words[0].source
        if after.outcome and after.outcome is not before.outcome:
            self.settled.outcomes[after.outcome, source] += len(row.members)
        if source == "callback" and before.heard_at is None:
            waited = self.now - (before.placed_at or self.now)  # or it overtook our own answer
            self.settled.first_callbacks += [waited.total_seconds()] * len(row.members)

    def _event(
        self, row: Attempts, item: Evidence, event: str, details: dict[str, object] | None = None
    ) -> None:
        self.events.append(
            {
                "account_id": row.account_id,
                "run_id": row.run_id,
                "call_id": row.members[item.attempt_id].call_id,
                "attempt_id": item.attempt_id,
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
        attempts = [*self.moved.values()]
        calls = {row.calls.was.id: row.calls for row in attempts if row.calls.now != row.calls.was}
        if self.reopen:
            self._reopen()
        if self.expired:
            self.connection.execute(NOTE_EXPIRY, {"ids": sorted(self.expired)})
        alike.write(self.connection, attempts, [*calls.values()])
        if phones := alike.freed_phones(attempts):
            self.connection.execute(_WAKE_PHONES, {"rows": as_json.dumps(phones)})
        write_events(self.connection, self.events)
        counters.add(self.connection, _deltas(calls.values()), shard)

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


def write_events(connection: Connection, events: list[dict[str, Any]]) -> None:
    """Store events; each a mapping of the events table's columns."""
    if events:
        connection.execute(_EVENTS, {"rows": as_json.dumps(events)})


def _apart(evidence: list[Evidence]) -> list[UUID] | None:
    """Find the attempts of which more is said than one thing, or something doubtful.

    None stands for all of them: a callback is about a call of the carrier's own, and no other.
    """
    if all(item.source == "callback" for item in evidence):
        return None
    again = _repeated(item.attempt_id for item in evidence)
    shared = _repeated(item.carrier_call_id for item in evidence if item.carrier_call_id)
    return [
        item.attempt_id
        for item in evidence
        if item.matched_by_number
        or (again and item.attempt_id in again)
        or (shared and item.carrier_call_id in shared)
    ]


def _repeated(values: Iterable[Hashable]) -> set[Hashable]:
    return {value for value, times in Counter(values).items() if times > 1}


def _deltas(moved: Iterable[Calls]) -> dict[UUID, Counter[str]]:
    deltas: dict[UUID, Counter[str]] = defaultdict(Counter)
    for calls in moved:
        delta = deltas[calls.attempts[0].run_id]
        for one, many in ((calls.was, -len(calls.ids)), (calls.now, len(calls.ids))):
            delta[one.state.counter] += many
            delta["attempts"] += many * one.attempts
            if one.outcome:
                delta[one.outcome.counter] += many
    return deltas


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
    found = connection.execute(_WHO_MAY_REQUEUE, {"ids": db.array(ids)}).all()
    return {
        row.run_id
        for row in found
        if "*" in said[row.id] or (row.max_attempts > 1 and said[row.id] & set(row.retry_on))
    }


def _ids(row: Attempts, item: Evidence) -> dict[str, str]:
    return {
        "account_id": str(row.account_id),
        "run_id": str(row.run_id),
        "call_id": str(row.members[item.attempt_id].call_id),
        "attempt_id": str(item.attempt_id),
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
