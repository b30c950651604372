# ruff: noqa: S608 - statements are put together from our own words alone
"""Cancelling one call: the customer phoned in."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from outbound import actions, counters, db, doorbell, ending, logs, runs, settling
from outbound.accounts import Caller
from outbound.errors import Refused, not_found
from outbound.node import Node
from outbound.states import CallState

log = logs.get(__name__)

OPEN = (CallState.DIALING, CallState.LIVE)
CANCELLED = "cancelled_by_operator"

_OWNS = text("""
    SELECT EXISTS (SELECT FROM runs WHERE id = :run AND account_id = :account) AS run,
           EXISTS (SELECT FROM calls WHERE id = :call AND run_id = :run
                      AND account_id = :account) AS call
""")
_LOCK_ATTEMPTS = text("""
    SELECT id FROM attempts WHERE call_id = :call ORDER BY id FOR NO KEY UPDATE
""")
_LOCK_CALL = text("SELECT id FROM calls WHERE id = :call FOR NO KEY UPDATE")
_READ = text("""
    SELECT c.state, c.cancel_requested,
           EXISTS (SELECT FROM attempts a WHERE a.call_id = c.id AND a.hang_up) AS hang_up
      FROM calls c WHERE c.id = :call
""")
_REQUEST = text("UPDATE calls SET cancel_requested = true WHERE id = :call")
_HANG_UP = text("""
    UPDATE attempts SET hang_up = true
     WHERE id = ANY (ARRAY(SELECT id FROM attempts WHERE call_id = :call)) AND NOT hang_up
""")
_END = text(f"""
    WITH picked AS (SELECT id FROM calls WHERE id = :call AND state = 'queued'),
    {ending.END_PICKED}
    SELECT outcome FROM over
""")


def cancel(
    node: Node, account_id: UUID, run_id: UUID, call_id: int, who: Caller, *, hang_up: bool
) -> None:
    """Dial this lead no more in this run. Twice is no error.

    A queued call ends at once. One that is being dialled, or live, is hung up if that is asked
    for; what became of it is the carrier's word, and it is never retried.

    Raises:
        Refused: there is no such call; it is over; it goes on and `hang_up` was not asked for;
            or it is unknown, which only the carrier's word or a decision can end.
    """
    hand = actions.by(node, who)

    def body(connection: Connection) -> None:
        call = _locked(connection, account_id, run_id, call_id)
        if not _is_new(call, hang_up=hang_up):
            return
        state = CallState(call["state"])
        connection.execute(_REQUEST, {"call": call_id})
        if hang_up:
            connection.execute(_HANG_UP, {"call": call_id})
        if state is CallState.QUEUED:
            outcome = connection.execute(_END, {"call": call_id, "why": CANCELLED}).scalar_one()
        actions.record(
            connection,
            hand,
            account_id,
            "call_cancel_requested",
            run_id=run_id,
            call_id=call_id,
            details={"hang_up": hang_up, "from": state},
        )
        if state is CallState.QUEUED:
            counters.add(connection, {run_id: ending.deltas({outcome: 1})}, node.shard)

    db.transaction(node.engine, body)
    ids = {"account_id": str(account_id), "run_id": str(run_id), "call_id": str(call_id)}
    log.info("call_cancel_requested", **ids, hang_up=hang_up)
    if hang_up:
        node.doorbell.ring(account_id, doorbell.HANG_UP)
    runs.advance(node, {run_id})


def _locked(connection: Connection, account_id: UUID, run_id: UUID, call_id: int) -> RowMapping:
    values = {"account": account_id, "run": run_id, "call": call_id}
    owns = connection.execute(_OWNS, values).one()
    if not owns.call:
        raise not_found("call" if owns.run else "run")
    # The run first: a claim holds it, so that no attempt is made between the next two locks.
    connection.execute(settling.LOCK_RUNS, {"ids": [run_id]})
    connection.execute(_LOCK_ATTEMPTS, values)
    connection.execute(_LOCK_CALL, values)
    # In a statement of its own, whose snapshot is younger than the locks.
    return connection.execute(_READ, values).mappings().one()


def _is_new(call: RowMapping, *, hang_up: bool) -> bool:
    """Tell whether there is anything to do. Raises Refused if it cannot be done."""
    state = CallState(call["state"])
    if state is CallState.UNKNOWN:
        raise Refused(
            "wrong_state",
            "Nobody knows whether this call took place. Look-ups go on; if you know, resolve it.",
        )
    if state is CallState.CANCELLED or (
        call["cancel_requested"] and (call["hang_up"] or not hang_up)
    ):
        return False
    if state in OPEN and not hang_up:
        raise Refused("wrong_state", f"The call is {state}; send hang_up: true to end it.")
    if state is CallState.QUEUED or state in OPEN:
        return True
    if call["cancel_requested"]:
        return False
    raise Refused("wrong_state", f"The call is {state} and can no longer be cancelled.")
