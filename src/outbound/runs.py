"""Moving whole runs: pause, resume, cancel, and the end.

Pause, resume and cancel take the account's pace lock, so that no claim that comes later sees
them undone. A run ends in a transaction of its own, after the one that ended its last call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from outbound import counters, db, doorbell, logs, settling
from outbound.accounts import Caller
from outbound.errors import Refused, not_found
from outbound.node import Node
from outbound.states import Outcome, RunStatus

log = logs.get(__name__)

END_AT_ONCE = 1000
"""Queued calls of a cancelled or expired run that one transaction ends."""

LOCK_PACE = text(
    "SELECT account_id FROM account_pace WHERE account_id = :account FOR NO KEY UPDATE"
)
_LOCK_RUN = text("""
    SELECT id FROM runs WHERE id = :run AND account_id = :account FOR NO KEY UPDATE
""")
_READ_RUN = text("""
    SELECT id, status, cancel_requested, started_at, ended_at,
           start_at IS NOT NULL AND start_at > clock_timestamp() AS is_early
      FROM runs WHERE id = :run
""")
_SET_STATUS = text("UPDATE runs SET status = :status WHERE id = :run")
_SET_CANCEL = text("""
    UPDATE runs SET cancel_requested = true, hang_up = hang_up OR :hang_up WHERE id = :run
""")
_TRIAL_NOW = text("""
    UPDATE breakers SET next_trial_at = clock_timestamp() WHERE account_id = :account
""")
_IS_SENDING = text("""
    SELECT EXISTS (SELECT FROM attempts a WHERE a.run_id = :run AND a.account_id = :account
                      AND a.ended_at IS NULL AND a.state = 'sending')
""")
_DUE = text("""
    SELECT count(*) FROM (SELECT FROM calls WHERE run_id = :run AND state = 'queued'
                             AND next_attempt_at <= clock_timestamp() LIMIT :most) due
""")
_FOR_ENDING = text("""
    SELECT r.id FROM runs r
     WHERE r.account_id = :account AND r.ended_at IS NULL
       AND (r.cancel_requested OR r.expires_at <= clock_timestamp())
       AND EXISTS (SELECT FROM calls c WHERE c.run_id = r.id AND c.state = 'queued')
     ORDER BY r.id
""")
_END_QUEUED = text("""
    WITH picked AS MATERIALIZED (
        SELECT id FROM calls WHERE run_id = :run AND state = 'queued'
         ORDER BY id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED),
    ended AS MATERIALIZED (
        SELECT p.id, coalesce(last.outcome, 'cancelled') AS outcome FROM picked p
          LEFT JOIN LATERAL (
            SELECT a.outcome FROM attempts a
             WHERE a.call_id = p.id AND a.state <> 'released'
             ORDER BY a.number DESC LIMIT 1) last ON true)
    UPDATE calls c
       SET outcome = ended.outcome, waiting_for = NULL,
           state = CASE ended.outcome WHEN 'failed' THEN 'failed'
                        WHEN 'cancelled' THEN 'cancelled' ELSE 'completed' END
      FROM ended WHERE c.id = ended.id AND c.id = ANY (ARRAY(SELECT id FROM ended))
    RETURNING c.outcome
""")
_NOTE_EXPIRY = text("UPDATE runs SET expiry_ended_calls = true WHERE id = :run")
_END_RUNS = text("""
    WITH asked AS (SELECT r.*, clock_timestamp() AS now FROM runs r
                    WHERE r.id = ANY (CAST(:ids AS uuid[])) AND r.ended_at IS NULL),
    over AS (
        SELECT r.id, r.status AS old_status, r.now,
               CASE WHEN r.cancel_requested THEN 'cancelled'
                    WHEN r.expiry_ended_calls THEN 'expired' ELSE 'completed' END AS new_status
          FROM asked r
         WHERE (r.status IN ('pending', 'running', 'paused') OR r.cancel_requested)
           AND NOT (r.status = 'paused' AND NOT r.cancel_requested AND NOT r.expiry_ended_calls)
           AND NOT EXISTS (SELECT FROM calls c WHERE c.run_id = r.id AND c.state = 'queued')
           AND NOT EXISTS (
               SELECT FROM attempts a JOIN calls c ON c.id = a.call_id
                WHERE a.account_id = r.account_id AND a.run_id = r.id AND a.ended_at IS NULL
                  AND (c.state IN ('dialing', 'live')
                       OR (c.state = 'unknown' AND a.state = 'unknown'
                           AND r.on_unknown = 'redial' AND a.carrier_call_id IS NULL
                           AND a.heard_at IS NULL AND c.attempts < r.max_attempts
                           AND NOT r.cancel_requested
                           AND (r.expires_at IS NULL OR r.expires_at > r.now)))))
    UPDATE runs r SET status = over.new_status, ended_at = over.now
      FROM over WHERE r.id = over.id
    RETURNING r.id, r.account_id, over.old_status, over.new_status, r.total_leads, r.request_id
""")


@dataclass(frozen=True)
class EndedRun:
    """One run that advance() ended."""

    run_id: UUID
    account_id: UUID
    old_status: str
    new_status: str
    total_leads: int


def pause(node: Node, account_id: UUID, run_id: UUID, who: Caller) -> None:
    """Stop claims from a run, at once. Calls already handed over go on. Twice is no error.

    Raises:
        Refused: there is no such run, or it has ended or is being cancelled.
    """

    def change(connection: Connection, run: RowMapping) -> None:
        if run["status"] == RunStatus.PAUSED:
            return
        if run["ended_at"] or run["cancel_requested"]:
            raise _wrong_state("paused", run)
        _set_status(connection, run_id, RunStatus.PAUSED)
        _event(connection, node, account_id, run_id, "run_paused", who)

    _change(node, account_id, run_id, change)
    log.info("run_paused", account_id=str(account_id), run_id=str(run_id))


def resume(node: Node, account_id: UUID, run_id: UUID, who: Caller) -> None:
    """Let a paused run go on. An open breaker gets a trial call at once. Twice is no error.

    Raises:
        Refused: there is no such run, or it has ended or is being cancelled.
    """

    def change(connection: Connection, run: RowMapping) -> None:
        if run["ended_at"] or run["cancel_requested"]:
            raise _wrong_state("resumed", run)
        connection.execute(_TRIAL_NOW, {"account": account_id})
        if run["status"] != RunStatus.PAUSED:
            return
        fresh = RunStatus.SCHEDULED if run["is_early"] else RunStatus.PENDING
        _set_status(connection, run_id, RunStatus.RUNNING if run["started_at"] else fresh)
        _event(connection, node, account_id, run_id, "run_resumed", who)

    _change(node, account_id, run_id, change)
    log.info("run_resumed", account_id=str(account_id), run_id=str(run_id))
    with node.engine.connect() as connection:
        most = node.settings.senders * 4
        due = connection.execute(_DUE, {"run": run_id, "most": most}).scalar_one()
    node.doorbell.ring(account_id, messages=doorbell.messages_for(due, node.settings.senders))
    advance(node, {run_id})


def cancel(node: Node, account_id: UUID, run_id: UUID, who: Caller, *, hang_up: bool) -> None:
    """End a run: nothing more is claimed, at once; a worker ends its queued calls.

    With `hang_up` the carrier is asked to end the run's calls that are ringing or talking, too.

    Raises:
        Refused: there is no such run, or it ended otherwise.
    """

    def change(connection: Connection, run: RowMapping) -> None:
        if run["status"] == RunStatus.CANCELLED:
            return
        if run["ended_at"]:
            raise _wrong_state("cancelled", run)
        connection.execute(_SET_CANCEL, {"run": run_id, "hang_up": hang_up})
        if not run["cancel_requested"]:
            _event(connection, node, account_id, run_id, "run_cancel_requested", who)

    _change(node, account_id, run_id, change)
    log.info(
        "run_cancel_requested", account_id=str(account_id), run_id=str(run_id), hang_up=hang_up
    )
    node.doorbell.ring(account_id)
    if hang_up:
        node.doorbell.ring(account_id, doorbell.HANG_UP)
    advance(node, {run_id})


def _change(
    node: Node,
    account_id: UUID,
    run_id: UUID,
    change: Callable[[Connection, RowMapping], None],
) -> None:
    def body(connection: Connection) -> None:
        connection.execute(LOCK_PACE, {"account": account_id})
        found = connection.execute(_LOCK_RUN, {"run": run_id, "account": account_id}).first()
        if found is None:
            raise not_found("run")
        change(connection, connection.execute(_READ_RUN, {"run": run_id}).mappings().one())

    db.transaction(node.engine, body)


def _wrong_state(verb: str, run: RowMapping) -> Refused:
    now = "being cancelled" if not run["ended_at"] else run["status"]
    return Refused("wrong_state", f"The run is {now} and can no longer be {verb}.")


def _set_status(connection: Connection, run_id: UUID, status: RunStatus) -> None:
    connection.execute(_SET_STATUS, {"run": run_id, "status": status})


def _event(
    connection: Connection, node: Node, account_id: UUID, run_id: UUID, event: str, who: Caller
) -> None:
    row = {
        "account_id": account_id,
        "run_id": run_id,
        "event": event,
        "source": node.source,
        "worker_id": node.worker_id,
        "actor": str(who.key_id),
        "request_id": who.request_id,
    }
    settling.write_events(connection, [row])


def is_sending(connection: Connection, account_id: UUID, run_id: UUID) -> bool:
    """Tell whether a request of this run may be on its way to the carrier right now."""
    return bool(connection.execute(_IS_SENDING, {"run": run_id, "account": account_id}).scalar())


def end_queued(node: Node, account_id: UUID) -> int:
    """End the queued calls of the account's cancelled and expired runs, then those runs.

    Each call keeps its last outcome, or is `cancelled` if it had none. Done whatever their due
    time, also when the run is paused or there is no room to dial.

    Returns:
        How many calls it ended.
    """
    total = 0
    with node.engine.connect() as connection:
        runs = connection.execute(_FOR_ENDING, {"account": account_id}).scalars().all()
    for run_id in runs:
        while ended := db.transaction(node.engine, partial(_end_some, node, run_id)):
            total += ended
            if ended < END_AT_ONCE:
                break
    if runs:
        log.info("queued_calls_ended", account_id=str(account_id), calls=total, runs=len(runs))
        advance(node, set(runs))
    return total


def _end_some(node: Node, run_id: UUID, connection: Connection) -> int:
    connection.execute(settling.LOCK_RUNS, {"ids": [run_id]})
    run = connection.execute(_READ_RUN, {"run": run_id}).mappings().one()
    if run["ended_at"]:
        return 0
    outcomes = connection.execute(_END_QUEUED, {"run": run_id, "most": END_AT_ONCE}).scalars().all()
    if not outcomes:
        return 0
    if not run["cancel_requested"]:
        connection.execute(_NOTE_EXPIRY, {"run": run_id})
    delta: Counter[str] = Counter(queued=-len(outcomes))
    for outcome in map(Outcome, outcomes):
        delta[outcome.call_state.counter] += 1
        delta[outcome.counter] += 1
    counters.add(connection, {run_id: delta}, node.shard)
    return len(outcomes)


def advance(node: Node, run_ids: set[UUID]) -> list[EndedRun]:
    """End those of the runs whose last call is over, each in its one right way.

    In the transaction of the settle itself, two last calls would both see the other one as not
    over, and the run would never end. In one UPDATE with NOT EXISTS, a wait for the row's lock
    re-checks the row but not the sub-query, and would end a run that has a queued call.
    """
    if not run_ids:
        return []
    return db.transaction(node.engine, lambda connection: advance_in(connection, node, run_ids))


def advance_in(connection: Connection, node: Node, run_ids: set[UUID]) -> list[EndedRun]:
    """Do the same inside the caller's transaction, which must hold no later lock."""
    ids = sorted(run_ids)
    connection.execute(settling.LOCK_RUNS, {"ids": ids})
    ended = [
        EndedRun(row.id, row.account_id, row.old_status, row.new_status, row.total_leads)
        for row in connection.execute(_END_RUNS, {"ids": ids})
    ]
    settling.write_events(connection, [_ended_event(node, run) for run in ended])
    for run in ended:
        log.info(
            _EVENT_OF[run.new_status],
            account_id=str(run.account_id),
            run_id=str(run.run_id),
            old_status=run.old_status,
            total_leads=run.total_leads,
        )
    return ended


_EVENT_OF = {
    "completed": "run_completed",
    "cancelled": "run_cancelled",
    "expired": "run_expired",
}


def _ended_event(node: Node, run: EndedRun) -> dict[str, Any]:
    return {
        "account_id": run.account_id,
        "run_id": run.run_id,
        "event": _EVENT_OF[run.new_status],
        "source": node.source,
        "worker_id": node.worker_id,
        "details": {"from": run.old_status},
    }
