"""The repairs, each one `run_once` over at most 200 rows, under one lock.

Exactly one sweeper acts at any moment: every sweep is a short transaction that takes the sweep
lock first. Becoming leader takes the same lock, so a deposed leader that wakes up finds another
epoch and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from outbound import db, doorbell, ending, logs, metrics, recording, runs, settling
from outbound.errors import OutboundError
from outbound.node import Node
from outbound.runs import EndedRun
from outbound.settling import Settled
from outbound.states import Decision, Evidence, Kind

log = logs.get(__name__)

BATCH = 200
STATEMENT_MS = 1000
LOCK_WAIT_MS = 1000

SWEEP_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('outbound.sweep', 0))")
EPOCH = text("SELECT epoch FROM leader_epoch WHERE name = 'reconciler'")


class Deposed(OutboundError):
    """Another leader's epoch is in force; this one may write nothing."""


@dataclass
class Report:
    """What one sweep did.

    Attributes:
        rows: how many candidates it took; BATCH means that more may be left.
        ended: runs whose status changed, with the reason.
        rings: accounts to wake after the COMMIT, by actor and number of messages.
        again: whether they were rung before, as far as anybody knows.
        tell: log lines to write after it.
    """

    rows: int = 0
    redialled: int = 0
    unknown: int = 0
    settled: int = 0
    ended: list[tuple[EndedRun, str]] = field(default_factory=list)
    rings: list[tuple[str, UUID, int]] = field(default_factory=list)
    again: bool = False
    tell: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True)
class Scope:
    """Whose repairs: one account's on demand, or everybody's for a leader of that epoch."""

    account_id: UUID | None = None
    epoch: int | None = None


@dataclass(frozen=True)
class Sweep:
    """One repair.

    Attributes:
        name: for logs.
        failure: what it repairs, in words.
        candidates: SELECT of the rows to look at, without lock or limit, in the account
            `:account` or, if that is NULL, in all. Also the probe.
        act: does it, given up to BATCH rows.
        lock: a locking clause, where the candidates may be locked before all else; rows that
            somebody else holds wait for the next sweep.
        repeats: whether a full batch means that another one may do more.
    """

    name: str
    failure: str
    candidates: str
    act: Callable[[Connection, Node, list[Any]], Report]
    lock: str = ""
    repeats: bool = True


def run_once(node: Node, sweep: Sweep, scope: Scope) -> Report:
    """Run one sweep in a transaction of its own, then ring whom it concerns.

    Raises:
        Deposed: the scope's epoch is not in force any more; nothing was written.
        DBAPIError: the lock was not had in a second, or the database is away.
    """
    with node.engine.begin() as connection:
        db.set_timeouts(connection, statement_ms=STATEMENT_MS + LOCK_WAIT_MS, lock_ms=LOCK_WAIT_MS)
        connection.execute(SWEEP_LOCK)
        if scope.epoch is not None and connection.execute(EPOCH).scalar() != scope.epoch:
            raise Deposed("another leader's epoch is in force")
        ids = _candidates(connection, sweep, scope)
        report = sweep.act(connection, node, ids) if ids else Report()
    report.rows = len(ids)
    for tell in report.tell:
        tell()
    if report.again:
        node.doorbell.ring_again(report.rings)
    else:
        for actor, account_id, messages in report.rings:
            node.doorbell.ring(account_id, actor, messages)
    if ids:
        metrics.swept(sweep.name, report.rows, report.unknown)
        _tell(sweep, scope, report)
    return report


def _candidates(connection: Connection, sweep: Sweep, scope: Scope) -> list[Any]:
    statement = text(f"{sweep.candidates} LIMIT {BATCH} {sweep.lock}")
    return list(connection.execute(statement, {"account": scope.account_id}).all())


def _tell(sweep: Sweep, scope: Scope, report: Report) -> None:
    changed = report.settled or report.unknown or report.redialled or report.ended
    write = log.info if changed else log.debug
    write(
        "sweep_done",
        sweep=sweep.name,
        epoch=scope.epoch,
        rows=report.rows,
        unknown=report.unknown,
        settled=report.settled,
        redialled=report.redialled,
        ended=len(report.ended),
        rung=len(report.rings),
    )


def evidence_sweep(kind: Kind, **known: Any) -> Callable[[Connection, Node, list[Any]], Report]:
    """Build a sweep that hands the same evidence in about every candidate attempt."""

    def act(connection: Connection, node: Node, rows: list[Any]) -> Report:
        items = [Evidence(row.id, kind, "sweep", **known) for row in rows]
        return _report(recording.settle_in(connection, node, items))

    return act


def _report(settled: Settled) -> Report:
    return Report(
        redialled=settled.redialled,
        unknown=settled.unknown,
        settled=settled.ended,
        rings=[(doorbell.DIAL, account_id, 1) for account_id in sorted(settled.freed)],
        tell=settled.tell,
    )


_STILL_DIALLING = text(f"""
    SELECT r.id FROM runs r WHERE r.id = ANY (CAST(:ids AS uuid[])) AND {ending.STILL_DIALS}
""")  # noqa: S608 - our own words


def redial(connection: Connection, node: Node, rows: list[Any]) -> Report:
    """Carry out the decision that the run's author recorded beforehand."""
    # Whatever may requeue locks its runs first, and looks at them in a statement of its own.
    ids = {"ids": sorted({row.run_id for row in rows})}
    connection.execute(settling.LOCK_RUNS, ids)
    dialling = set(connection.execute(_STILL_DIALLING, ids).scalars())
    items = [
        Evidence(
            row.id,
            Kind.DECISION,
            "policy",
            decision=Decision.REDIAL,
            by="on_unknown",
            note="redialled as the run's author decided",
        )
        for row in rows
        if row.run_id in dialling
    ]
    return _report(recording.settle_in(connection, node, items))


def end_runs(connection: Connection, node: Node, rows: list[Any]) -> Report:
    """End runs whose last call is over and whose end a crash kept from being written."""
    ended = runs.advance_in(connection, node, {row.id for row in rows})
    return Report(ended=[(run, "all calls are over") for run in ended])


_START = text("""
    UPDATE runs SET status = 'pending'
     WHERE id = ANY (ARRAY(SELECT id FROM runs WHERE id = ANY (CAST(:ids AS uuid[]))
                            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED))
       AND status = 'scheduled'
    RETURNING id, account_id, total_leads
""")


def start_scheduled(connection: Connection, node: Node, rows: list[Any]) -> Report:
    """Make runs whose time has come pending."""
    started = connection.execute(_START, {"ids": [row.id for row in rows]}).all()
    report = Report()
    for run in started:
        moved = EndedRun(run.id, run.account_id, "scheduled", "pending", run.total_leads)
        messages = doorbell.messages_for(run.total_leads, node.settings.senders)
        report.ended.append((moved, "its start time has come"))
        report.rings.append((doorbell.DIAL, run.account_id, messages))
    return report


def ring(actor: str) -> Callable[[Connection, Node, list[Any]], Report]:
    """Build a sweep that only wakes workers: it writes nothing."""

    def act(_: Connection, node: Node, rows: list[Any]) -> Report:
        senders = node.settings.senders
        return Report(
            rings=[
                (actor, row.account_id, doorbell.messages_for(getattr(row, "due", 1), senders))
                for row in rows
            ],
            again=True,
        )

    return act


_PURGE = text("""
    DELETE FROM idempotency_keys k USING unnest(CAST(:accounts AS uuid[]), CAST(:keys AS text[]))
           AS old (account_id, key)
     WHERE k.account_id = old.account_id AND k.key = old.key
""")


def purge_keys(connection: Connection, node: Node, rows: list[Any]) -> Report:
    """Delete idempotency keys that are older than a day."""
    del node
    values = {"accounts": [row.account_id for row in rows], "keys": [row.key for row in rows]}
    connection.execute(_PURGE, values)
    return Report()
