"""Reconcile on demand: the leader's sweeps, for one account, once a minute."""

from __future__ import annotations

import math
import time
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from outbound import db
from outbound.errors import Refused, Unavailable
from outbound.node import Node
from outbound.reconciler import sweeps
from outbound.reconciler.sweeps import Report, Scope
from outbound.reconciler.table import SWEEPS

ON_DEMAND_BATCHES = 50
EVERY_SECONDS = 60

_MAY_RECONCILE = text("""
    WITH before AS (SELECT reconciled_at FROM accounts WHERE id = :account)
    UPDATE accounts SET reconciled_at = clock_timestamp()
     WHERE id = :account AND (reconciled_at IS NULL
           OR reconciled_at <= clock_timestamp() - make_interval(secs => :every))
    RETURNING (SELECT reconciled_at FROM before) AS before
""")
_HOW_LONG = text("""
    SELECT extract(epoch FROM reconciled_at - clock_timestamp())::float + :every
      FROM accounts WHERE id = :account
""")
_GIVE_BACK = text("UPDATE accounts SET reconciled_at = :before WHERE id = :account")
_COMPLETED = text("""
    SELECT run_id, sum(completed)::int AS completed FROM run_counters
     WHERE run_id = ANY (CAST(:ids AS uuid[])) GROUP BY run_id
""")


def reconcile(node: Node, account_id: UUID) -> dict[str, Any]:
    """Run every sweep for one account, now. Once a minute, over all processes and hosts.

    Raises:
        Refused: it ran less than a minute ago.
        Unavailable: another sweep was in the way for over a second; the minute is given back.
    """
    started = time.monotonic()
    before = _take_minute(node, account_id)
    scope, left, reports, more = Scope(account_id=account_id), ON_DEMAND_BATCHES, [], False
    try:
        for sweep in SWEEPS:
            while True:
                report = sweeps.run_once(node, sweep, scope)
                reports.append(report)
                left -= 1
                if report.rows < sweeps.BATCH or not sweep.repeats or left <= 0:
                    break
            more = more or (report.rows >= sweeps.BATCH and sweep.repeats)
    except DBAPIError as error:
        with node.engine.begin() as connection:
            connection.execute(_GIVE_BACK, {"account": account_id, "before": before})
        if db.sqlstate(error) in ("55P03", "57014"):
            raise Unavailable("Another sweep is in the way.", retry_after=1) from error
        raise
    return _answer(node, reports, more, started)


def _take_minute(node: Node, account_id: UUID) -> Any:
    # Committed before the sweep, in PostgreSQL: emptying Redis must not reset it.
    values = {"account": account_id, "every": EVERY_SECONDS}
    with node.engine.begin() as connection:
        row = connection.execute(_MAY_RECONCILE, values).first()
        wait = None if row else connection.execute(_HOW_LONG, values).scalar_one()
    if row is None:
        raise Refused(
            "rate_limited",
            "Reconcile runs once a minute for an account.",
            status=429,
            retry_after=max(1, math.ceil(wait or 0)),
        )
    return row.before


def _answer(node: Node, reports: list[Report], more: bool, started: float) -> dict[str, Any]:
    moved = [item for report in reports for item in report.ended]
    with node.engine.connect() as connection:
        rows = connection.execute(_COMPLETED, {"ids": [run.run_id for run, _ in moved]}).all()
    completed = {row.run_id: row.completed for row in rows}
    listed = [
        {
            "run_id": str(run.run_id),
            "old_status": run.old_status,
            "new_status": run.new_status,
            "reason": reason,
            "completed_jobs": completed.get(run.run_id, 0),
            "total_leads": run.total_leads,
        }
        for run, reason in moved
    ]
    return {
        "success": True,
        "reconciled_count": len(listed),
        "runs": listed,
        "redialled": sum(report.redialled for report in reports),
        "unknown": sum(report.unknown for report in reports),
        "settled": sum(report.settled for report in reports),
        "rung": sum(len(report.rings) for report in reports),
        "more": more,
        "duration_ms": round((time.monotonic() - started) * 1000),
    }
