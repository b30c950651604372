# ruff: noqa: S608 - statements are put together from our own words alone
"""Moving whole runs: pause, resume, cancel, and the end.

Pause, resume and cancel take the account's pace lock, so that no claim that comes later sees
them undone. A run ends in a transaction of its own, after the one that ended its last call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from outbound import actions, counters, db, doorbell, ending, logs, pace, settling
from outbound.accounts import Caller
from outbound.errors import Refused, not_found
from outbound.node import Node
from outbound.prepared import prepared
from outbound.states import RunStatus

log = logs.get(__name__)

END_AT_ONCE = 1000
"""Queued calls of a cancelled or expired run that one transaction ends."""

_LOCK_RUN = text("""
    SELECT id FROM runs WHERE id = :run AND account_id = :account FOR NO KEY UPDATE
""")
_READ_RUN = text("""
    SELECT id, status, cancel_requested, hang_up, started_at, ended_at,
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
    SELECT EXISTS (
        SELECT FROM attempts a
         WHERE a.account_id = :account AND a.ended_at IS NULL AND a.state = 'sending'
           AND (CAST(:run AS uuid) IS NULL OR a.run_id = :run)
           AND (CAST(:call AS bigint) IS NULL OR a.call_id = :call)
           AND (CAST(:phones AS text[]) IS NULL OR a.phone = ANY (CAST(:phones AS text[]))))
""")
_DUE = text("""
    SELECT count(*) FROM (SELECT FROM calls WHERE run_id = :run AND is_queued
                             AND next_attempt_at <= clock_timestamp() LIMIT :most) due
""")
_FOR_ENDING = text("""
    SELECT r.id FROM runs r
     WHERE r.account_id = :account AND r.ended_at IS NULL
       AND (r.cancel_requested OR r.expires_at <= clock_timestamp())
       AND EXISTS (SELECT FROM calls c WHERE c.run_id = r.id AND c.is_queued)
     ORDER BY r.id
""")
# In the order of calls_due_idx: by id alone, each thousand walked past all calls of the run that
# are over. It waits for nobody's lock, so that the order of the locks is free.
_END_QUEUED = text(f"""
    WITH picked AS MATERIALIZED (
        SELECT id FROM calls WHERE run_id = :run AND is_queued
         ORDER BY next_attempt_at, id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED),
    {ending.END_PICKED}
    SELECT outcome, count(*)::int AS calls FROM over GROUP BY outcome
""")
# By the counters, which are true after each COMMIT: the rows are asked under the run's lock.
_LOOK_OVER = prepared("""
    SELECT id FROM unnest(CAST(:ids AS uuid[])) id
     WHERE (SELECT coalesce(sum(c.queued + c.in_progress), 0) FROM run_counters c
             WHERE c.run_id = id) = 0
""")
_END_RUNS = text(f"""
    WITH over AS (
        SELECT r.id, r.status AS old_status, clock_timestamp() AS now,
               CASE WHEN r.cancel_requested THEN 'cancelled'
                    WHEN r.expiry_ended_calls THEN 'expired' ELSE 'completed' END AS new_status
          FROM runs r
         WHERE r.id = ANY (CAST(:ids AS uuid[])) AND {ending.IS_OVER})
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
    hand = actions.by(node, who)

    def change(connection: Connection, run: RowMapping) -> None:
        if run["status"] == RunStatus.PAUSED:
            return
        if run["ended_at"] or run["cancel_requested"]:
            raise _wrong_state("paused", run)
        _set_status(connection, run_id, RunStatus.PAUSED)
        actions.record(connection, hand, account_id, "run_paused", run_id=run_id)

    _change(node, account_id, run_id, change)
    log.info("run_paused", account_id=str(account_id), run_id=str(run_id))


def resume(node: Node, account_id: UUID, run_id: UUID, who: Caller) -> None:
    """Let a paused run go on. An open breaker gets a trial call at once. Twice is no error.

    Raises:
        Refused: there is no such run, or it has ended or is being cancelled.
    """
    hand = actions.by(node, who)

    def change(connection: Connection, run: RowMapping) -> None:
        if run["ended_at"] or run["cancel_requested"]:
            raise _wrong_state("resumed", run)
        connection.execute(_TRIAL_NOW, {"account": account_id})
        if run["status"] != RunStatus.PAUSED:
            return
        fresh = RunStatus.SCHEDULED if run["is_early"] else RunStatus.PENDING
        _set_status(connection, run_id, RunStatus.RUNNING if run["started_at"] else fresh)
        actions.record(connection, hand, account_id, "run_resumed", run_id=run_id)

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
    hand = actions.by(node, who)

    def change(connection: Connection, run: RowMapping) -> None:
        if run["status"] == RunStatus.CANCELLED:
            return
        if run["ended_at"]:
            raise _wrong_state("cancelled", run)
        connection.execute(_SET_CANCEL, {"run": run_id, "hang_up": hang_up})
        if not run["cancel_requested"] or (hang_up and not run["hang_up"]):
            details = {"hang_up": hang_up}
            action = "run_cancel_requested"
            actions.record(connection, hand, account_id, action, run_id=run_id, details=details)

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
        pace.lock(connection, account_id)
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


def is_sending(
    connection: Connection,
    account_id: UUID,
    run_id: UUID | None = None,
    call_id: int | None = None,
    phones: Sequence[str] | None = None,
) -> bool:
    """Tell whether such a request may be on its way to the carrier right now.

    Args:
        connection: seeing what is committed now.
        account_id: whose requests; all of them, unless one of the following narrows it.
        run_id: only this run's.
        call_id: only this call's.
        phones: only those to one of these phones.
    """
    values = {
        "account": account_id,
        "run": run_id,
        "call": call_id,
        "phones": None if phones is None else list(phones),
    }
    return bool(connection.execute(_IS_SENDING, values).scalar())


def end_queued(node: Node, account_id: UUID) -> int:
    """End the queued calls of the account's cancelled and expired runs, then those runs.

    Each call keeps its last outcome, or is `cancelled` if it had none. Done whatever their due
    time, also when the run is paused or there is no room to dial.

    Returns:
        How many calls it ended.
    """
    total = 0
    with db.reading(node.engine) as connection:
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
    values = {"run": run_id, "most": END_AT_ONCE, "why": None}
    outcomes = {row.outcome: row.calls for row in connection.execute(_END_QUEUED, values)}
    if not outcomes:
        return 0
    if not run["cancel_requested"]:
        connection.execute(settling.NOTE_EXPIRY, {"ids": [run_id]})
    counters.add(connection, {run_id: ending.deltas(outcomes)}, node.shard)
    return sum(outcomes.values())


def advance(node: Node, run_ids: set[UUID]) -> list[EndedRun]:
    """End those of the runs whose last call is over, each in its one right way.

    Call it after the COMMIT of whatever may have been a run's last move. In that transaction
    itself, two last calls would both see the other one as not over, and the run would never end.
    In one UPDATE with NOT EXISTS, a wait for the row's lock re-checks the row but not the
    sub-query, and would end a run that has a queued call.

    Only runs that look over are locked, or all callbacks of a run would stand in line for its
    row. None is missed: who commits last looks after its own COMMIT, and so sees all the others.
    """
    if not run_ids or not (over := _look_over(node, run_ids)):
        return []
    return db.transaction(node.engine, lambda connection: advance_in(connection, node, over))


def _look_over(node: Node, run_ids: set[UUID]) -> set[UUID]:
    # One statement, whose snapshot is younger than the caller's COMMIT.
    with db.reading(node.engine) as connection:
        return set(connection.execute(_LOOK_OVER, {"ids": sorted(run_ids)}).scalars())


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
