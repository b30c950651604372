"""Evidence, from arrival to everybody who must hear of it: commit, ring, end the run."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum, auto
from uuid import UUID

import structlog
from sqlalchemy import Connection

from outbound import db, doorbell, metrics, runs, settling
from outbound.node import Node
from outbound.settling import Settled
from outbound.states import Evidence

AT_ONCE = 100
"""Pieces of evidence that one transaction of `Together` writes at most."""


def record(node: Node, evidence: list[Evidence]) -> Settled:
    """Apply evidence in one transaction, then wake whom it concerns.

    Raises:
        DBAPIError: the database is away; nothing happened, or all of it did, and the same
            evidence may be recorded again without harm.
    """
    settled = commit(node, evidence)
    follow_up(node, settled)
    return settled


def commit(node: Node, evidence: list[Evidence]) -> Settled:
    """Apply evidence in one transaction; call follow_up() then."""

    def body(connection: Connection) -> Settled:
        return settle_in(connection, node, evidence)

    return db.transaction(node.engine, body)


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


class _Do(Enum):
    """What a thread is told that waits for its evidence to be written, if it is not."""

    WRITE = auto()
    WRITE_ALONE = auto()


@dataclass(frozen=True)
class _Waiting:
    item: Evidence
    word: Future[Settled | _Do] = field(default_factory=Future)


class Together:
    """Records what many threads bring at once in one transaction.

    One of them writes, for all who came while the one before it wrote. Side by side they would
    wait for each other's counter rows, and pay a COMMIT each. Who comes alone writes at once.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._is_writing = False

    def record(self, item: Evidence) -> Settled:
        """Return once it is committed, with all that its transaction did.

        Of one attempt there is one piece of evidence in a transaction: `moved` is about this one.

        Raises:
            DBAPIError: as record().
        """
        word = self._enter(item).word.result()
        if word is _Do.WRITE:
            word = self._write()
        # On its own thread: what holds one of them up, or ends it, is then nobody else's.
        return record(self._node, [item]) if isinstance(word, _Do) else word

    def _enter(self, item: Evidence) -> _Waiting:
        mine = _Waiting(item)
        with self._lock:
            self._waiting.append(mine)
            if not self._is_writing:
                self._is_writing = True
                mine.word.set_result(_Do.WRITE)
        return mine

    def _write(self) -> Settled | _Do:
        _, *others = batch = self._take()
        try:
            settled = commit(self._node, [waiting.item for waiting in batch])
        except BaseException as error:
            # Away it is for all of them. Else one of them is to blame, and each finds out alone.
            alone = bool(others) and not db.is_away(error)
            for waiting in others:
                if alone:
                    waiting.word.set_result(_Do.WRITE_ALONE)
                else:
                    waiting.word.set_exception(error)
            if not alone:
                raise
            return _Do.WRITE_ALONE
        else:
            for waiting in others:
                waiting.word.set_result(settled)
        finally:
            self._hand_over()
        self._follow_up(settled, len(batch))
        return settled

    def _take(self) -> list[_Waiting]:
        """Take the batch; the first of it is the writer's own."""
        batch: dict[UUID, _Waiting] = {}
        later: list[_Waiting] = []
        with self._lock:
            for waiting in self._waiting:
                attempt_id = waiting.item.attempt_id
                if attempt_id in batch or len(batch) == AT_ONCE:
                    later.append(waiting)
                else:
                    batch[attempt_id] = waiting
            self._waiting = later
        return list(batch.values())

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].word.set_result(_Do.WRITE)
            else:
                self._is_writing = False

    def _follow_up(self, settled: Settled, items: int) -> None:
        if items == 1:
            follow_up(self._node, settled)
            return

        def nameless() -> None:
            structlog.contextvars.unbind_contextvars("request_id")
            follow_up(self._node, settled)

        # Its lines are about everybody's evidence: this thread's request id would be a lie.
        contextvars.copy_context().run(nameless)
