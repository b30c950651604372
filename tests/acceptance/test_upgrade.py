"""Two versions beside each other on one database, which is what an upgrade without a stop is."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from processes import free_port, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database_url(fresh_database_url):
    return fresh_database_url


def phones(start, n=60):
    return [f"+1202555{i:04d}" for i in range(start, start + n)]


def outbound(stack, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "outbound", *arguments],
        env={**os.environ, **stack.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def is_ready(base):
    return requests.get(f"{base}/health/ready", timeout=5).status_code == 200


# A migration for each of the tables that calls need, in an order that is none of theirs.
NEXT = """
from alembic import op

revision, down_revision = "{revision}", "{before}"


def upgrade():
    op.execute("ALTER TABLE {table} ADD COLUMN later text NOT NULL DEFAULT ''")
"""
ALTERED = ("runs", "attempts", "account_pace", "run_counters", "calls")


@pytest.fixture
def next_version(tmp_path):
    """This code with five migrations more, which only add, as deploy/test_migrations.py wants."""
    shutil.copytree(ROOT / "src", tmp_path / "next")
    versions = tmp_path / "next/outbound/migrations/versions"
    before = max(path.name for path in versions.glob("[0-9]*.py")).split("_")[0]
    for n, table in enumerate(ALTERED):
        migration = NEXT.format(revision=f"next{n}", before=before, table=table)
        (versions / f"next{n}.py").write_text(migration)
        before = f"next{n}"
    return {"PYTHONPATH": str(tmp_path / "next")}


def revision(engine):
    with engine.connect() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()


@pytest.fixture
def world(world):
    # Processes start and stop all the time here: a slow machine must not look like a fault.
    world.stack.environment |= {
        "OUTBOUND_CARRIER_TIMEOUT_SECONDS": "8",
        "OUTBOUND_RECORD_MARGIN_SECONDS": "5",
        "OUTBOUND_LEASE_SECONDS": "15",
    }
    return world


def is_done(world, key, run, leads):
    done = world.wait_for_run(key, run, 120, status="completed", unknown=0)
    assert done["outcomes"]["answered"] == leads
    assert world.summary()["most_calls_to_one_phone"] == 1


@pytest.mark.timeout(400)
def test_the_next_versions_migration_in_the_middle_of_a_run_disturbs_nobody(
    world, engine, next_version
):
    (worker,) = world.start(workers=1)
    key = world.account(engine)
    run = world.post_run(key, phones(0, 300), calls_per_second=30.0)
    wait_until(lambda: world.summary()["calls"] >= 30, 30)
    migrated = outbound(world.stack, "migrate", **next_version)
    assert (migrated.returncode, revision(engine)) == (0, "next4"), migrated.stderr
    assert is_ready(world.base), "a load balancer would take the serving version out"
    is_done(world, key, run, 300)
    # The next version beside this one, and then alone.
    run = world.post_run(key, phones(300, 60), calls_per_second=15.0)
    newer = world.stack.start("worker", **next_version)
    newer.wait_for("WORKER_START", 60)
    assert worker.terminate(60) == 0
    is_done(world, key, run, 60)
    assert newer.terminate(60) == 0
    # A step back: this version's start on the next one's schema.
    back = outbound(world.stack, "migrate")
    assert (back.returncode, revision(engine)) == (0, "next4"), back.stderr
    world.start_worker()
    is_done(world, key, world.post_run(key, phones(400, 20)), 20)


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'runs'::regclass"


@pytest.mark.timeout(180)
def test_a_migration_makes_nobody_wait_for_long_behind_a_table_that_is_held(
    stack, engine, next_version
):
    def waits():
        with engine.connect() as connection:
            return connection.execute(text(WAITING)).scalar_one()

    with engine.connect() as holder:  # as a backup does, or somebody's open psql
        holder.execute(text("LOCK TABLE runs IN ACCESS SHARE MODE"))
        migrating = stack.start("migrate", **next_version)
        wait_until(waits, 60, "the migration to ask for its table")
        # It gives up, and those behind it get on; then it asks again.
        wait_until(lambda: not waits(), 20)
        wait_until(waits, 20)
        assert migrating.popen.poll() is None
        holder.rollback()
    assert migrating.popen.wait(60) == 0
    assert revision(engine) == "next4"


@pytest.fixture
def last_release(tmp_path):
    """The code of UPGRADE_FROM, or of the newest tag, without its own environment."""
    git = ["git", "-C", str(ROOT)]
    tag = [*git, "describe", "--tags", "--abbrev=0", "--match", "v*"]
    told = os.environ.get("UPGRADE_FROM")
    found = told or subprocess.run(tag, capture_output=True, text=True).stdout.strip()
    if not found:
        pytest.skip("no release to upgrade from (a tag v…, or a commit in UPGRADE_FROM)")
    archive = tmp_path / "old.tar"
    subprocess.run([*git, "archive", "-o", str(archive), found, "src"], check=True, timeout=60)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    return str(tmp_path / "src")


def emptied(database_url):
    engine = create_engine(
        database_url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=NullPool
    )
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    engine.dispose()


@pytest.mark.timeout(500)
def test_the_last_release_and_this_version_work_side_by_side_and_a_step_back_too(
    world, engine, database_url, last_release
):
    old = {"PYTHONPATH": last_release}
    emptied(database_url)
    world.stack.environment |= old
    assert outbound(world.stack, "migrate").returncode == 0
    (old_worker,) = world.start(workers=1)
    old_web, old_reconciler = world.web, world.stack.started[2]
    key = made_by_the_command_line(world)
    run = world.post_run(key, phones(0, 300), calls_per_second=15.0)
    wait_until(lambda: world.summary()["calls"] >= 30, 60)
    # The way docs/operations.md tells it: migrate under the old version, then the new beside it.
    del world.stack.environment["PYTHONPATH"]
    migrated = outbound(world.stack, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert is_ready(world.base), "the old version is taken out of the load balancer"
    second_port = free_port()
    new_web = world.stack.start("web", PORT=str(second_port))
    new_web.wait_for("web_ready", 60)
    wait_until(lambda: is_ready(f"http://127.0.0.1:{second_port}"), 60)
    new_worker, new_reconciler = world.start_worker(), world.start_reconciler()
    is_done(world, key, run, 300)
    # Out with the old one, process by process, in the middle of a run.
    run = world.post_run(key, phones(400, 100), calls_per_second=15.0)
    wait_until(lambda: world.summary()["calls"] >= 310, 60)
    assert old_worker.terminate(60) == 0
    assert old_reconciler.terminate(60) == 0
    new_reconciler.wait_for("leader_elected", 60)
    assert old_web.terminate(60) == 0
    world.start_web()
    is_done(world, key, run, 100)
    # And a step back: the old code on the new schema, with what the new one has written.
    run = world.post_run(key, phones(500, 60), calls_per_second=15.0)
    wait_until(lambda: world.summary()["calls"] >= 410, 60)
    assert new_worker.terminate(60) == 0
    world.stack.environment |= old
    world.start_worker()
    is_done(world, key, run, 60)


def made_by_the_command_line(world):
    """An account and its key by the version under test: this test's own code may be too new."""
    limits = [
        "--max-live-calls",
        "1000",
        "--calls-per-second",
        "1000",
        "--default-twiml",
        "<Response/>",
    ]
    made = outbound(
        world.stack, "account", "create", "test", "--caller-id", "+97231234567", *limits, "--json"
    )
    account = json.loads(made.stdout)["account_id"]
    key = outbound(world.stack, "key", "create", "--account", account, "--role", "admin", "--json")
    return json.loads(key.stdout)["key"]
