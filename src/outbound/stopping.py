"""Stop and start: whether an account dials at all."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

from outbound import actions, db, doorbell, logs, pace
from outbound.accounts import Caller
from outbound.node import Node

log = logs.get(__name__)

_IS_STOPPED = text("SELECT stopped FROM account_pace WHERE account_id = :account")
# A moment, not a flag that a start would have to take back: what is claimed after the start must
# not be hung up, and a call of before must be, also if its carrier id comes after the start.
_STOP = text("""
    UPDATE account_pace
       SET stopped = true,
           stopped_at = CASE WHEN stopped THEN stopped_at ELSE clock_timestamp() END,
           stopped_by = CASE WHEN stopped THEN stopped_by ELSE :actor END,
           hang_up_before = CASE WHEN :hang_up THEN clock_timestamp() ELSE hang_up_before END
     WHERE account_id = :account
""")
_START = text("""
    UPDATE account_pace SET stopped = false, stopped_at = NULL, stopped_by = NULL
     WHERE account_id = :account
""")


def stop(node: Node, account_id: UUID, who: Caller, *, hang_up: bool) -> None:
    """Claim nothing more in any run, at once. Calls already handed over go on. Twice is no error.

    With `hang_up` the carrier is asked to end the account's calls that ring or talk, too.
    """
    hand = actions.by(node, who)

    def body(connection: Connection) -> None:
        pace.lock(connection, account_id)
        stopped = connection.execute(_IS_STOPPED, {"account": account_id}).scalar_one()
        values = {"account": account_id, "actor": hand.actor, "hang_up": hang_up}
        connection.execute(_STOP, values)
        if not stopped or hang_up:
            details = {"hang_up": hang_up}
            actions.record(connection, hand, account_id, "account_stopped", details=details)

    db.transaction(node.engine, body)
    log.warning("account_stopped", account_id=str(account_id), hang_up=hang_up)
    if hang_up:
        node.doorbell.ring(account_id, doorbell.HANG_UP)


def start(node: Node, account_id: UUID, who: Caller) -> None:
    """Let a stopped account dial again, at once. Twice is no error."""
    hand = actions.by(node, who)

    def body(connection: Connection) -> None:
        pace.lock(connection, account_id)
        if connection.execute(_IS_STOPPED, {"account": account_id}).scalar_one():
            connection.execute(_START, {"account": account_id})
            actions.record(connection, hand, account_id, "account_started")

    db.transaction(node.engine, body)
    log.info("account_started", account_id=str(account_id))
    node.doorbell.ring(account_id, doorbell.DIAL, 4)
