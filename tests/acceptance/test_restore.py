"""A database restored from a backup has forgotten calls; the carrier has not."""

import json
import os
import subprocess
import sys

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from processes import wait_until

LEADS = 60


@pytest.fixture
def database_url(fresh_database_url):
    return fresh_database_url


@pytest.fixture
def back_up(database_url, postgres_url):
    """Copy the database as it is now; nobody may be connected. Returns the copy's URL."""
    here = make_url(database_url)
    copy = here.set(database=f"{here.database}_backup")
    server = make_url(postgres_url).set(drivername="postgresql+psycopg2")
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    def back_up():
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {copy.database} TEMPLATE {here.database}"))
        return copy.render_as_string(hide_password=False)

    yield back_up
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {copy.database} WITH (FORCE)"))
    admin.dispose()


def outbound(world, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "outbound", *arguments],
        env={**os.environ, **world.stack.environment, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def called_since(world, run):
    found = json.loads(outbound(world, "audit", run, "--json").stdout)["differences"]
    assert {one["kind"] for one in found} <= {"we_do_not_know"}, found
    return [one["call_id"] for one in found]


def stop_all_but_the_carrier(world):
    for process in world.stack.started[:0:-1]:  # the workers first
        if process.popen.poll() is None:
            assert process.terminate(60) == 0


@pytest.mark.timeout(400)
def test_leads_that_were_called_after_the_backup_are_found_and_not_called_again(
    world, engine, back_up
):
    world.start(workers=1)
    key = world.account(engine)
    run = world.post_run(key, [f"+1202555{n:04d}" for n in range(LEADS)], calls_per_second=5.0)
    wait_until(lambda: world.summary()["calls"] >= 10, 60)
    stop_all_but_the_carrier(world)
    engine.dispose()
    restored = back_up()
    world.start_web()
    world.start_reconciler()
    before = world.summary()["calls"]
    worker = world.start_worker()
    wait_until(lambda: world.summary()["calls"] >= before + 20, 60)
    assert worker.terminate(60) == 0
    stop_all_but_the_carrier(world)
    called = world.summary()["calls"]
    assert called < LEADS
    # The database is lost. The steps of docs/operations.md:
    world.stack.environment["DATABASE_URL"] = restored
    world.start_web()
    outbound(world, "audit", run, "--repair")
    forgotten = called_since(world, run)
    assert len(forgotten) == called - before
    for call in forgotten:
        done = outbound(
            world, "calls", "cancel", run, call, OUTBOUND_API_KEY=key, OUTBOUND_URL=world.base
        )
        assert done.returncode == 0, done.stderr
    world.start_reconciler()
    world.start_worker()
    world.wait_for_run(key, run, 120)
    assert world.summary()["most_calls_to_one_phone"] == 1
    assert world.summary()["calls"] == LEADS
    assert sorted(called_since(world, run)) == sorted(forgotten)
