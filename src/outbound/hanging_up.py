"""Asking the carrier to end calls: of cancelled runs and calls, of a stopped account, and strays.

Only asks. What became of a call is the carrier's word, by callback or look-up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from sqlalchemy import text

from outbound import db, logs, policy
from outbound.carriers.base import Carrier, CarrierUnavailable
from outbound.node import Node

log = logs.get(__name__)

AT_ONCE = 100
THREADS = 8

DUE_HANG_UPS = """
    SELECT a.id FROM attempts a JOIN runs r ON r.id = a.run_id
      JOIN account_pace p ON p.account_id = a.account_id
     WHERE a.ended_at IS NULL AND a.carrier_call_id IS NOT NULL
       AND (r.hang_up OR a.hang_up OR a.claimed_at <= p.hang_up_before)
       AND a.hang_ups < :most
       AND (a.next_hang_up_at IS NULL OR a.next_hang_up_at <= clock_timestamp())
"""
_TAKE = text(f"""
    WITH due AS MATERIALIZED (
        {DUE_HANG_UPS} AND a.account_id = :account
         ORDER BY a.id LIMIT :limit FOR NO KEY UPDATE OF a SKIP LOCKED)
    UPDATE attempts SET hang_ups = hang_ups + 1, next_hang_up_at = clock_timestamp() + :every
     WHERE id = ANY (ARRAY(SELECT id FROM due))
    RETURNING carrier_call_id, hang_ups, id AS attempt_id
""")  # noqa: S608 - our own words
_TAKE_STRAYS = text("""
    WITH due AS MATERIALIZED (
        SELECT id FROM stray_carrier_calls
         WHERE account_id = :account AND ended_at IS NULL AND hang_ups < :most
           AND next_hang_up_at <= clock_timestamp()
         ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE stray_carrier_calls
       SET hang_ups = hang_ups + 1, next_hang_up_at = clock_timestamp() + :every
     WHERE id = ANY (ARRAY(SELECT id FROM due))
    RETURNING carrier_call_id, hang_ups, attempt_id
""")


def hang_up_due(node: Node, carrier: Carrier, account_id: UUID) -> int:
    """Ask the carrier to end what of this account is due to be ended; returns how many."""
    values = {
        "account": account_id,
        "most": policy.MAX_HANG_UPS,
        "limit": AT_ONCE,
        "every": policy.HANG_UP_EVERY,
    }
    due = db.transaction(
        node.engine,
        lambda connection: [
            dict(row)
            for statement in (_TAKE, _TAKE_STRAYS)
            for row in connection.execute(statement, values).mappings()
        ],
    )
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda row: _ask(carrier, account_id, row), due))
    return len(due)


def _ask(carrier: Carrier, account_id: UUID, row: dict[str, Any]) -> None:
    names = {
        "account_id": str(account_id),
        "attempt_id": str(row["attempt_id"]),
        "carrier_call_id": row["carrier_call_id"],
        "tried": row["hang_ups"],
    }
    try:
        carrier.hang_up(row["carrier_call_id"])
    except CarrierUnavailable as error:
        log.warning("hang_up_failed", **names, error=str(error))
    else:
        log.info("hang_up_asked", **names)
    if row["hang_ups"] >= policy.MAX_HANG_UPS:
        log.error("hang_up_given_up", **names)
