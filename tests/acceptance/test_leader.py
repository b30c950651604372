"""One reconciler leads; the next one takes over from a dead, a frozen and a polite one."""

import signal
import time

import pytest
import redis

from factories import make_account, make_run, one, phone, run_of
from outbound.reconciler.leader import KEY
from processes import wait_until


@pytest.fixture
def database_url(fresh_database_url):
    return fresh_database_url


def leaders(*processes):
    return [
        p
        for p in processes
        if p.has_logged("leader_elected")
        and len(p.has_logged("leader_elected")) > len(p.has_logged("leader_stepped_down"))
    ]


def two(stack):
    first = stack.start("reconciler")
    first.wait_for("leader_elected")
    second = stack.start("reconciler")
    second.wait_for("RECONCILER_START")
    return first, second


def epoch(engine):
    return one(engine, "SELECT epoch FROM leader_epoch")["epoch"]


def test_of_two_reconcilers_one_leads_and_a_killed_one_is_followed(stack, engine):
    first, second = two(stack)
    assert leaders(first, second) == [first]
    assert first.has_logged("leader_elected")[0]["lock_acquired"] is True
    first.kill()
    started = time.monotonic()
    second.wait_for("leader_elected", epoch=2)
    assert time.monotonic() - started < 5
    assert epoch(engine) == 2


def test_a_leader_told_to_stop_gives_way_at_once(stack):
    first, second = two(stack)
    assert first.terminate() == 0
    started = time.monotonic()
    second.wait_for("leader_elected", epoch=2)
    assert time.monotonic() - started < 2  # its lock would have lasted for 2.5
    assert first.has_logged("leader_stepped_down")[0]["lock_acquired"] is False


def test_a_leader_frozen_for_longer_than_its_lock_finds_itself_deposed(stack, engine):
    first, second = two(stack)
    first.popen.send_signal(signal.SIGSTOP)
    second.wait_for("leader_elected", epoch=2)
    first.popen.send_signal(signal.SIGCONT)
    first.wait_for("leader_stepped_down")
    assert leaders(first, second) == [second]
    assert epoch(engine) == 2


def test_redis_emptied_under_a_leader_leaves_somebody_sweeping(stack, engine, redis_url):
    first, second = two(stack)
    redis.Redis.from_url(redis_url).delete(KEY)
    account = make_account(engine)
    run = make_run(engine, account, [phone(1)], status="scheduled")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET start_at = clock_timestamp()")
    wait_until(lambda: run_of(engine, run)["status"] == "pending", 10)
    wait_until(lambda: len(leaders(first, second)) == 1, 10)


def test_an_idle_leader_writes_nothing_and_logs_nothing(stack, engine):
    first = stack.start("reconciler")
    first.wait_for("leader_elected")
    lines = len(first.lines)
    writes = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) AS n FROM pg_stat_user_tables"
    ticks = "SELECT xact_commit AS n FROM pg_stat_database WHERE datname = current_database()"
    wait_until(lambda: one(engine, writes)["n"] >= 1, 20, "the epoch, the one thing it wrote")
    ticked = one(engine, ticks)["n"]
    wait_until(lambda: one(engine, ticks)["n"] > ticked + 4, 20)
    # One, unless the machine stood still for longer than a lock is trusted.
    assert one(engine, writes)["n"] <= len(first.has_logged("leader_elected"))
    assert [line for line in first.lines[lines:] if "leader_" not in line] == []
