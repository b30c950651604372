"""The whole system behind a real pgbouncer that shares connections by transaction."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from outbound import config, db
from processes import Stack, World, free_port, wait_until

SHIPPED = Path(__file__).parents[2] / "deploy/pgbouncer"
FEW = 4
"""Server connections: fewer than the processes have, so that they really share them."""


def phones(n):
    return [f"+1202555{i:04d}" for i in range(n)]


@pytest.fixture
def role(database_url):
    """A role as an installation has it: not a superuser, with a password, set up by role.sql."""
    server = make_url(database_url).set(drivername="postgresql+psycopg2")
    name, password = f"outbound_{secrets.token_hex(4)}", secrets.token_hex(16)
    set_up = (SHIPPED / "role.sql").read_text()
    target = f"ROLE {name} IN DATABASE {server.database} "
    assert set_up.count("ROLE outbound IN DATABASE outbound ") == 5
    engine = create_engine(server, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET password_encryption = 'scram-sha-256'"))
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"))
        connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"))
        connection.execute(text(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}"))
        connection.exec_driver_sql(set_up.replace("ROLE outbound IN DATABASE outbound ", target))
    yield name, password
    with engine.begin() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :name"),
            {"name": name},
        )
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))
    engine.dispose()


@pytest.fixture
def pooled_url(database_url, role):
    """The database's URL through the shipped pgbouncer.ini, but for addresses and file names."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("no pgbouncer on this machine (Debian's package pgbouncer)")
    server, port = make_url(database_url), free_port()
    where = f"host={server.host} port={server.port or 5432} dbname={server.database}"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # pgbouncer refuses to be root
        users, ini = Path(directory) / "userlist.txt", Path(directory) / "pgbouncer.ini"
        users.write_text('"{}" "{}"\n'.format(*role))
        shipped = (SHIPPED / "pgbouncer.ini").read_text()
        for ours, theirs in {
            "host=127.0.0.1 port=5432 dbname=outbound": where,
            "listen_port = 6432": f"listen_port = {port}",
            "/etc/pgbouncer/userlist.txt": str(users),
            "default_pool_size = 20": f"default_pool_size = {FEW}",
        }.items():
            assert ours in shipped
            shipped = shipped.replace(ours, theirs)
        ini.write_text(shipped)
        user = ["-u", "nobody"] if Path("/proc/self").stat().st_uid == 0 else []
        with (Path(directory) / "log").open("w") as log:
            process = subprocess.Popen([program, *user, str(ini)], stdout=log, stderr=log)
        url = server.set(
            username=role[0], password=role[1], host="127.0.0.1", port=port, database="outbound"
        ).render_as_string(hide_password=False)
        try:
            wait_until(lambda: _answers(url), 20, "pgbouncer")
            yield url
        finally:
            process.kill()
            process.wait(10)


def _answers(url):
    try:
        psycopg2.connect(url, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


@pytest.fixture
def stack(pooled_url, redis_url):
    built = Stack(
        {
            "DATABASE_URL": pooled_url,
            "REDIS_URL": redis_url,
            "PUBLIC_BASE_URL": "http://127.0.0.1:8000",
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "test-token-of-the-emulator",
        }
    )
    yield built
    built.stop()


@pytest.fixture
def world(stack, tmp_path):
    return World(stack, tmp_path / "ledger.ndjson")


SETTINGS = "SELECT name, setting FROM pg_settings"


def asked_for(engine):
    """What a connection asked for by itself, and the server's own word on it."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT name, setting FROM pg_settings WHERE source = 'client'")
        )
        return {n: s for n, s in rows if n not in ("application_name", "client_encoding")}


def in_force(engine, names):
    with engine.connect() as connection:
        found = text(f"{SETTINGS} WHERE name = ANY (:names)")
        return dict(connection.execute(found, {"names": list(names)}).all())


def test_every_setting_that_a_direct_connection_asks_for_is_in_force_through_pgbouncer(
    engine, pooled_url
):
    direct = asked_for(engine)
    assert direct["statement_timeout"] == "10000"
    pooled = db.connect(config.read(environ={"DATABASE_URL": pooled_url}))
    assert asked_for(pooled) == {}
    assert in_force(pooled, direct) == direct
    pooled.dispose()


def doctor_on_the_pooler(stack):
    done = subprocess.run(
        [sys.executable, "-m", "outbound", "doctor", "--json"],
        env={**os.environ, **stack.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    assert [one for one in found if one["check"] == "database"], found
    return [one for one in found if one["check"] == "pgbouncer"]


def test_doctor_tells_a_role_without_time_outs_from_one_with_them(stack, engine, role):
    assert doctor_on_the_pooler(stack) == []
    name, database = role[0], engine.url.database
    with engine.begin() as connection:
        connection.execute(text(f"ALTER ROLE {name} IN DATABASE {database} RESET ALL"))
        # pgbouncer's own connections are still set up as before.
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :name"),
            {"name": name},
        )
    (finding,) = doctor_on_the_pooler(stack)
    assert "ALTER ROLE" in finding["mend"]


@pytest.mark.timeout(240)
def test_behind_pgbouncer_a_killed_worker_and_a_killed_leader_cost_no_lead_and_double_none(
    world, engine, role
):
    first, _ = world.start("--mix", "answered=0.7,busy=0.2,no_answer=0.1")
    (leader,) = [p for p in world.stack.started if p.name == "reconciler"]
    leader.wait_for("leader_elected", 30)
    follower = world.start_reconciler()
    key = world.account(engine)
    run = world.post_run(key, phones(200), ring_timeout=5, calls_per_second=40.0)
    wait_until(lambda: world.summary()["calls"] >= 100, 60)
    first.kill()
    leader.kill()
    follower.wait_for("leader_elected", 30)
    done = world.wait_for_run(key, run, 90)
    known = {row["to"] for row in world.ledger()}
    # What the carrier knows we know, by its callback or by look-up; nobody can know the rest.
    done = wait_until(lambda: (b := world.run(key, run))["unknown"] == 200 - len(known) and b, 60)
    assert sum(done["outcomes"].values()) == len(known) >= 200 - 8
    assert world.summary()["most_calls_to_one_phone"] == 1
    with engine.connect() as connection:
        shared = "SELECT count(*) FROM pg_stat_activity WHERE usename = :role"
        assert 0 < connection.execute(text(shared), {"role": role[0]}).scalar_one() <= FEW
