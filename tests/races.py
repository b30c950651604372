"""Two transactions at once, each held where the test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from factories import CARRIER, one
from outbound import actions, claims
from outbound.claims import Claim
from outbound.node import Node
from processes import wait_until

WAITING = """
    SELECT count(*) AS n FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def wait_for_a_waiter(engine: Engine) -> None:
    """Return once a transaction of this database waits for another one's lock."""
    wait_until(lambda: one(engine, WAITING)["n"], 60, "nobody waits for a lock")


@contextmanager
def claim_under_way(node: Node, account: UUID) -> Iterator[tuple[Claim, Callable[[], None]]]:
    """A claim that has done all its statements and not committed; with what commits it."""
    with node.engine.connect() as connection:
        one_pass = claims._Pass(node, CARRIER, account, 100, 0)
        claimed = claims._in_transaction(connection, one_pass)
        yield claimed, connection.commit


@contextmanager
def held_before_its_commit(
    monkeypatch: pytest.MonkeyPatch, verb: Callable[..., Any]
) -> Iterator[tuple[Future[Any], Callable[[], None]]]:
    """A verb that has written all but its commit, in a thread; with what lets it go on."""
    reached, go_on, record = threading.Event(), threading.Event(), actions.record

    def hold(*given: Any, **known: Any) -> None:
        record(*given, **known)
        reached.set()
        assert go_on.wait(60)

    monkeypatch.setattr(actions, "record", hold)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(verb)
        try:
            assert reached.wait(60)
            yield future, go_on.set
        finally:
            go_on.set()


@contextmanager
def in_background(verb: Callable[..., Any], *given: Any, **known: Any) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(verb, *given, **known)
