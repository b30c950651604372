"""Evidence, from arrival to everybody who must hear of it: commit, ring, end the run."""

from __future__ import annotations

from sqlalchemy import Connection

from outbound import db, doorbell, metrics, runs, settling
from outbound.node import Node
from outbound.settling import Settled
from outbound.states import Evidence


def record(node: Node, evidence: list[Evidence]) -> Settled:
    """Apply evidence in one transaction, then wake whom it concerns.

    Raises:
        DBAPIError: the database is away; nothing happened, or all of it did, and the same
            evidence may be recorded again without harm.
    """

    def body(connection: Connection) -> Settled:
        return settle_in(connection, node, evidence)

    settled = db.transaction(node.engine, body)
    follow_up(node, settled)
    return settled


def settle_in(connection: Connection, node: Node, evidence: list[Evidence]) -> Settled:
    """Apply evidence inside the caller's transaction; call follow_up() after its COMMIT."""
    return settling.apply(
        connection, evidence, worker_id=node.worker_id, source=node.source, shard=node.shard
    )


def follow_up(node: Node, settled: Settled) -> None:
    """Tell what happened, ring for what fell free, and end the runs whose last call is over."""
    for tell in settled.tell:
        tell()
    for account_id in settled.freed:
        node.doorbell.ring(account_id)
    for account_id in settled.hang_ups:
        node.doorbell.ring(account_id, doorbell.HANG_UP)
    metrics.settled(settled)
    runs.advance(node, settled.touched)
