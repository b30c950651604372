"""Every fault that the mixed run draws from, each as one thing that is done and undone.

A fault is a generator: what stands before its `yield` hurts, what stands after it heals, and
both raise DidNotHappen if nothing really happened. `hand` says what it hurts: two faults of one
hand never overlap, those of different hands do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg2
import redis

from chaos.fleet import LEASE, LOCK_TTL, Fleet, Member
from chaos.proxy import Proxy
from processes import wait_until

Act = Callable[[Fleet, Random], Iterator[None]]
LONG = bool(os.environ.get("LONG"))
CARRIER_PAUSE = 60.0 if LONG else 12.0


class DidNotHappen(AssertionError):
    """The fault hurt nobody: the run proves nothing about it."""


def happened(condition: object, what: str) -> None:
    if not condition:
        raise DidNotHappen(what)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        seconds: how long it lasts.
        calls: how many leads a scenario of it needs, at 40 a second.
    """

    name: str
    hand: str
    seconds: float
    calls: int
    act: Callable[[Fleet, Random], AbstractContextManager[None]]


FAULTS: dict[str, Fault] = {}


def fault(hand: str, seconds: float = 0.3, calls: int = 120) -> Callable[[Act], Act]:
    def keep(act: Act) -> Act:
        name = act.__name__.replace("_", " ")
        FAULTS[name] = Fault(name, hand, seconds, calls, contextmanager(act))
        return act

    return keep


# Processes.


def _kill(fleet: Fleet, member: Member) -> None:
    happened(member.is_alive, f"{member.role} was dead already")
    member.process.kill_with_children()
    happened(member.process.popen.returncode == -signal.SIGKILL, "it ended otherwise")
    fleet.replace(member)


@fault("processes")
def a_worker_is_killed(fleet, draw):
    _kill(fleet, draw.choice(fleet.of("worker")))
    yield


@fault("processes")
def both_workers_are_killed(fleet, draw):
    for member in fleet.of("worker"):
        _kill(fleet, member)
    yield


@fault("processes")
def a_web_process_is_killed(fleet, draw):
    _kill(fleet, draw.choice(fleet.of("web")))
    yield


@fault("processes")
def the_leader_is_killed(fleet, draw):
    _kill(fleet, fleet.leader())
    yield


@fault("processes")
def the_follower_is_killed(fleet, draw):
    _kill(fleet, fleet.follower())
    yield


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _state(pid) == "T", 5, "the process to stop")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _freeze(member: Member) -> AbstractContextManager[None]:
    happened(member.is_alive, f"{member.role} was dead already")
    return frozen(member.process.popen.pid)


@fault("processes", LEASE + 0.7)
def a_worker_is_frozen_past_its_lease(fleet, draw):
    with _freeze(draw.choice(fleet.of("worker"))):
        yield


@fault("processes", LOCK_TTL + 1)
def the_leader_is_frozen_past_its_lock(fleet, draw):
    leader = fleet.leader()
    with _freeze(leader):
        yield
        happened([one for one in fleet.leaders if one is not leader], "nobody else led")


@fault("processes", 2)
def a_web_process_is_frozen(fleet, draw):
    with _freeze(draw.choice(fleet.of("web"))):
        yield


@fault("processes", 0.1, 300)
def everything_is_restarted_in_turn(fleet, draw):
    for member in list(fleet.members):
        happened(member.is_alive, f"{member.role} was dead already")
        happened(member.process.terminate() == 0, f"{member.role} did not stop cleanly")
        fleet.replace(member)
        fleet.ready()
    yield


def _other_clock(fleet: Fleet, draw: Random, *, seconds: int, monotonic: bool) -> None:
    library = libfaketime()
    happened(library, "no libfaketime on this machine")
    member = draw.choice(fleet.of("worker"))
    environment = {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s"}
    if not monotonic:
        environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    member.process.kill()
    process = fleet.replace(member, **environment).process
    line = process.wait_for("WORKER_START", 60)
    ahead = _seconds(line["timestamp"]) - time.time()
    happened(abs(ahead - seconds) < 60, f"its clock is {ahead:.0f} s ahead")


def _seconds(timestamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(timestamp).timestamp()


def libfaketime() -> Path | None:
    """Find the library: of the PyPI package, or Debian's."""
    import importlib.util

    spec = importlib.util.find_spec("libfaketime")
    inside = Path(spec.origin).parent / "vendor/libfaketime/src" if spec and spec.origin else None
    places = [inside] if inside else []
    places += list(Path("/usr/lib").glob("*/faketime"))
    return next((p / "libfaketime.so.1" for p in places if (p / "libfaketime.so.1").exists()), None)


def _own_clock_again(fleet: Fleet) -> None:
    for member in fleet.of("worker"):
        if "FAKETIME" in member.environment:
            # With a monotonic clock that lies it need not hear: its timed waits do not end.
            member.process.kill()
            member.environment = {}
            fleet.replace(member)


@fault("processes", 2)
def a_workers_clock_is_300_s_ahead(fleet, draw):
    _other_clock(fleet, draw, seconds=300, monotonic=False)
    yield
    _own_clock_again(fleet)


@fault("processes", 2)
def a_workers_clock_is_300_s_behind(fleet, draw):
    _other_clock(fleet, draw, seconds=-300, monotonic=False)
    yield
    _own_clock_again(fleet)


@fault("processes", 2)
def a_workers_clocks_are_all_300_s_ahead(fleet, draw):
    _other_clock(fleet, draw, seconds=300, monotonic=True)
    yield
    _own_clock_again(fleet)


# Redis.


@fault("redis")
def redis_is_emptied(fleet, draw):
    with redis.Redis.from_url(fleet.redis.url) as client:
        happened(client.dbsize(), "it was empty")
        client.flushall()
    yield


@fault("redis")
def redis_is_restarted(fleet, draw):
    before = fleet.redis.pid
    fleet.kept(fleet.redis.stop)
    fleet.kept(fleet.redis.start)
    happened(fleet.redis.pid != before, "it is the same process")
    yield


@fault("redis", 10, 300)
def redis_is_away(fleet, draw):
    fleet.kept(fleet.redis.kill)
    happened(not fleet.redis.running, "it runs")
    yield
    fleet.kept(fleet.redis.start)


@contextmanager
def _set(proxy: Proxy, **faults: Any) -> Iterator[None]:
    """Put faults on a line, and see that they were met."""
    healthy = {name: type(value)() for name, value in faults.items()}
    before = {name: proxy.hits[name] for name in faults}
    for name, value in faults.items():
        setattr(proxy, name, value)
    try:
        yield
    finally:
        for name, value in healthy.items():
            setattr(proxy, name, value)
    for name, hits in before.items():
        happened(proxy.hits[name] > hits, f"nothing met {name}")


@fault("redis", 3)
def redis_answers_get_lost(fleet, draw):
    with _set(fleet.redis_line, drop_replies=True):
        fleet.redis_line.cut()
        yield


@fault("redis", 5, 200)
def redis_is_a_black_hole(fleet, draw):
    with _set(fleet.redis_line, black_hole=True):
        yield
    fleet.redis_line.cut()


# PostgreSQL.


def _restart(fleet: Fleet, number: signal.Signals | None) -> None:
    before = fleet.postgres.pid
    if number is None:
        fleet.kept(fleet.postgres.stop)
    else:
        os.kill(before, number)
        wait_until(lambda: not fleet.postgres.running, 20, "PostgreSQL to end")
    fleet.kept(fleet.postgres.start)
    happened(fleet.postgres.pid != before, "it is the same process")


@fault("postgres")
def postgresql_is_restarted_fast(fleet, draw):
    _restart(fleet, None)
    yield


@fault("postgres")
def postgresql_is_restarted_at_once(fleet, draw):
    _restart(fleet, signal.SIGQUIT)
    yield


@fault("postgres", 10, 300)
def postgresql_is_away(fleet, draw):
    fleet.kept(fleet.postgres.kill)
    happened(not fleet.postgres.running, "it runs")
    yield
    fleet.kept(fleet.postgres.start)


def _lose_commits(fleet: Fleet, when: str) -> None:
    line = fleet.database_line
    before = line.hits[f"commit {when}"]
    for _ in range(8):
        line.commits.append(when)
    wait_until(lambda: line.hits[f"commit {when}"] >= before + 8, 20, f"8 COMMITs lost {when}")


@fault("postgres")
def answers_to_commit_get_lost(fleet, draw):
    _lose_commits(fleet, "after")
    yield


@fault("postgres")
def commits_get_lost(fleet, draw):
    _lose_commits(fleet, "before")
    yield


@fault("postgres")
def connections_to_postgresql_are_reset(fleet, draw):
    happened(fleet.database_line.cut(), "there was no connection")
    yield


@fault("postgres", 3)
def postgresql_has_no_connection_left(fleet, draw):
    taken = []
    try:
        fleet.database_line.cut()
        with pytest_raises_too_many():
            while True:
                taken.append(psycopg2.connect(fleet.postgres.url))
        fleet.database_line.cut()
        yield
    finally:
        for connection in taken:
            connection.close()


@contextmanager
def pytest_raises_too_many() -> Iterator[None]:
    try:
        yield
    except psycopg2.OperationalError as error:
        happened("too many clients" in str(error) or "remaining connection" in str(error), error)
    else:
        happened(False, "the server took every connection")


@fault("postgres", 3)
def somebody_else_holds_a_lock(fleet, draw):
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT txid_current(), count(*) FROM calls")
        cursor.execute(_LOCK_A_RUN)
        happened(cursor.rowcount, "no row to lock")
        yield
        connection.rollback()
    connection.close()


_LOCK_A_RUN = "SELECT id FROM runs WHERE ended_at IS NULL FOR UPDATE"


# The carrier.


@contextmanager
def _carrier(fleet: Fleet, **faults: float) -> Iterator[None]:
    names = [name for name in faults if not name.endswith("_seconds")]
    before = fleet.summary()["faults"]
    fleet.faults(**faults)
    try:
        yield
        wait_until(
            lambda: all(fleet.summary()["faults"].get(n, 0) > before.get(n, 0) for n in names),
            15,
            f"{names} to hit",
        )
    finally:
        fleet.faults()


def _carrier_fault(name: str, seconds: float = 2, calls: int = 120, **faults: float) -> None:
    def act(fleet: Fleet, draw: Random) -> Iterator[None]:
        with _carrier(fleet, **faults):
            yield

    act.__name__ = name.replace(" ", "_")
    fault("carrier", seconds, calls)(act)


_carrier_fault("a create is accepted and times out", accept_then_timeout=20, timeout_seconds=2)
_carrier_fault("a create is accepted and reset", accept_then_reset=20)
_carrier_fault("a create is accepted and answered 500", accept_then_500=20)
_carrier_fault("a create is accepted and answered rubbish", accept_then_rubbish=20)
_carrier_fault("creates are refused with 429", refuse_429=60, retry_after_seconds=1)
_carrier_fault("creates are refused with 503", refuse_503=15)
_carrier_fault("the carrier takes nothing and says nothing", hang_without_accepting=20)
_carrier_fault("callbacks get lost", 2, 60, callbacks_lost=40)
_carrier_fault("callbacks come twice", callbacks_doubled=100)
_carrier_fault("callbacks come ten times at once", callbacks_tenfold=100)
_carrier_fault("callbacks come in the wrong order", callbacks_reordered=100)
_carrier_fault("callbacks are forged", callbacks_forged=100)
_carrier_fault(
    "callbacks come long after the end", 2, 60, callbacks_delayed=30, callback_delay_seconds=25
)
_carrier_fault("look-ups fail", 3, 60, accept_then_reset=30, callbacks_lost=100, lookup_500=100)


@fault("carrier", CARRIER_PAUSE)
def the_carrier_stands_still(fleet, draw):
    with frozen(fleet.carrier.popen.pid):
        yield


@fault("carrier", 2)
def the_token_is_wrong(fleet, draw):
    with _carrier(fleet, answer_401=100):
        yield


@fault("carrier", 2)
def connections_to_the_carrier_are_reset(fleet, draw):
    happened(fleet.carrier_line.cut(), "there was no connection")
    with _set(fleet.carrier_line, refuse=True):
        yield


@fault("carrier", 2)
def answers_of_the_carrier_get_lost(fleet, draw):
    with _set(fleet.carrier_line, drop_replies=True):
        yield


# The network.


@fault("network", 3)
def every_line_is_slow(fleet, draw):
    lines = (fleet.database_line, fleet.redis_line, fleet.carrier_line, fleet.front)
    for line in lines:
        line.latency = 0.03
    try:
        yield
    finally:
        for line in lines:
            line.latency = 0.0
    happened(fleet.database_line.hits["latency"], "nothing was slow")
