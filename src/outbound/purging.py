"""Deleting people's data when its time is over; counts and outcomes stay.

No hash of a phone is kept: there are so few numbers that anybody could try them all, and nobody
asks for it any more. What stays in a phone's and lead's place is `purged-` and the call's id, so
that each lead and each phone is still there once in its run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from outbound import actions, db, logs, settling
from outbound.actions import Operator

log = logs.get(__name__)

BATCH = 1000
"""Rows that one transaction changes."""

UNKNOWN_FOR = timedelta(days=30)
"""So long an unknown is looked up by its phone, and may be decided on."""

# A run is left alone while one of its attempts may still be found out about, and while its calls
# keep others from calling the same phone again.
_DUE = text("""
    SELECT r.id, r.account_id FROM runs r JOIN account_pace p ON p.account_id = r.account_id
     WHERE r.purged_at IS NULL AND (CAST(:account AS uuid) IS NULL OR r.account_id = :account)
       AND r.ended_at < clock_timestamp() - greatest(
               CAST(:older_than AS interval),
               make_interval(secs => p.min_seconds_between_calls))
       AND NOT EXISTS (
           SELECT FROM attempts a
            WHERE a.account_id = r.account_id AND a.run_id = r.id AND a.ended_at IS NULL
              AND (a.state <> 'unknown' OR a.phone_held
                   OR a.unknown_at > clock_timestamp() - CAST(:unknown_for AS interval)))
       AND (CAST(:run AS uuid) IS NULL OR r.id = :run)
     ORDER BY r.ended_at, r.id
""")
_BEGIN = text("""
    UPDATE runs SET purge_started_at = coalesce(purge_started_at, clock_timestamp())
     WHERE id = :run
""")
_CALLS = text("""
    SELECT id FROM calls WHERE run_id = :run AND id > :after ORDER BY id LIMIT :most
""")
_LOCK_ATTEMPTS = text("""
    SELECT id FROM attempts WHERE call_id = ANY (CAST(:calls AS bigint[]))
     ORDER BY id FOR NO KEY UPDATE
""")
# Phone and lead are keys, so an UPDATE of them locks more strongly: asked for at once.
_LOCK_CALLS = text("""
    SELECT id FROM calls WHERE id = ANY (CAST(:calls AS bigint[])) ORDER BY id FOR UPDATE
""")
_PURGE_ATTEMPTS = text("""
    UPDATE attempts SET phone = 'purged-' || call_id, error = NULL
     WHERE call_id = ANY (CAST(:calls AS bigint[]))
""")
_PURGE_CALLS = text("""
    UPDATE calls SET phone = 'purged-' || id, lead_id = 'purged-' || id, variables = NULL
     WHERE id = ANY (CAST(:calls AS bigint[]))
""")
# What people wrote, and what the carrier did: both may name somebody.
_PURGE_EVENTS = text("""
    UPDATE events SET details = details - ARRAY['note', 'error']
     WHERE id = ANY (ARRAY(
         SELECT id FROM events WHERE run_id = :run AND details ?| ARRAY['note', 'error']
          ORDER BY id LIMIT :most))
""")
_PURGE_REJECTIONS = text("""
    UPDATE rejections SET lead_id = NULL WHERE run_id = :run AND index = ANY (ARRAY(
        SELECT index FROM rejections WHERE run_id = :run AND lead_id IS NOT NULL
         ORDER BY index LIMIT :most))
""")
_FINISH = text("""
    UPDATE runs
       SET name = NULL, twiml = NULL, answer_url = NULL, metadata = '{}',
           purged_at = clock_timestamp()
     WHERE id = :run AND purged_at IS NULL
""")
_PURGE_ACTIONS = text("""
    UPDATE events SET details = details - 'phone'
     WHERE id = ANY (ARRAY(
         SELECT id FROM events
          WHERE actor <> 'on_unknown' AND event = 'suppression_removed'
            AND (CAST(:account AS uuid) IS NULL OR account_id = :account)
            AND at < clock_timestamp() - CAST(:older_than AS interval) AND details ? 'phone'
          ORDER BY id LIMIT :most))
""")


@dataclass(frozen=True)
class Purged:
    """How much was purged."""

    runs: int = 0
    calls: int = 0


def purge(
    engine: Engine, operator: Operator, older_than: timedelta, account_id: UUID | None = None
) -> Purged:
    """Delete the personal data of runs that ended longer ago than that.

    Interrupted, it may be run again: it goes on where it was. Suppressions stay.

    Args:
        engine: where.
        operator: who asked for it.
        older_than: since the end of a run; longer if an account lets no phone be called again
            for longer.
        account_id: only this account's runs.
    """
    limits = {"account": account_id, "older_than": older_than, "unknown_for": UNKNOWN_FOR}
    with engine.connect() as connection:
        due = connection.execute(_DUE, limits | {"run": None}).all()
    runs = calls = 0
    for run in due:
        if (found := _purge_run(engine, operator, run, limits)) is not None:
            runs, calls = runs + 1, calls + found
    _repeat(engine, _PURGE_ACTIONS, {"account": account_id, "older_than": older_than})
    log.info("purged", runs=runs, calls=calls, older_than_days=older_than / timedelta(days=1))
    return Purged(runs, calls)


def _purge_run(engine: Engine, operator: Operator, run: Any, limits: dict[str, Any]) -> int | None:
    """Purge one run; returns how many calls it has, None if it may not be purged any more."""
    values = {"run": run.id}
    # First of all, and for good: without its phones, no call of it may ever be queued again.
    if not db.transaction(engine, partial(_begin, run.id, limits)):
        return None
    total, after = 0, 0
    while calls := db.transaction(engine, partial(_purge_some, run.id, after)):
        total, after = total + len(calls), calls[-1]
    for statement in (_PURGE_EVENTS, _PURGE_REJECTIONS):
        _repeat(engine, statement, values)

    def finish(connection: Connection) -> None:
        connection.execute(settling.LOCK_RUNS, {"ids": [run.id]})
        if connection.execute(_FINISH, values).rowcount:
            details = {"calls": total}
            actions.record(
                connection, operator, run.account_id, "run_purged", run_id=run.id, details=details
            )

    db.transaction(engine, finish)
    log.info("run_purged", account_id=str(run.account_id), run_id=str(run.id), calls=total)
    return total


def _begin(run_id: UUID, limits: dict[str, Any], connection: Connection) -> bool:
    # Judged again, now that whatever may re-open the run has to wait.
    connection.execute(settling.LOCK_RUNS, {"ids": [run_id]})
    if connection.execute(_DUE, limits | {"run": run_id}).first() is None:
        return False
    connection.execute(_BEGIN, {"run": run_id})
    return True


def _purge_some(run_id: UUID, after: int, connection: Connection) -> list[int]:
    values = {"run": run_id, "after": after, "most": BATCH}
    calls = list(connection.execute(_CALLS, values).scalars())
    if calls:
        for statement in (_LOCK_ATTEMPTS, _LOCK_CALLS, _PURGE_ATTEMPTS, _PURGE_CALLS):
            connection.execute(statement, {"calls": calls})
    return calls


def _repeat(engine: Engine, statement: Any, values: dict[str, Any]) -> None:
    def body(connection: Connection) -> int:
        return connection.execute(statement, values | {"most": BATCH}).rowcount

    while db.transaction(engine, body):
        pass
