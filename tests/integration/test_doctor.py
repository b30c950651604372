"""`outbound doctor`: what is wrong is found, and what is right raises no alarm."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import create_engine

from factories import do, make_account, make_run, phone
from outbound import cli, db, doorbell
from outbound.cli.checks import database
from outbound.cli.checks.redis import HEARTBEATS
from outbound.cli.doctor import examine
from outbound.embedded import EmbeddedRedis
from outbound.reconciler.leader import KEY
from processes import free_port, wait_until

NAMES = {
    "database_url": "DATABASE_URL",
    "redis_url": "REDIS_URL",
    "public_base_url": "PUBLIC_BASE_URL",
    "twilio_account_sid": "TWILIO_ACCOUNT_SID",
    "twilio_auth_token": "TWILIO_AUTH_TOKEN",
}


@pytest.fixture
def environment(settings, monkeypatch):
    for attribute, name in NAMES.items():
        monkeypatch.setenv(name, getattr(settings, attribute))
    # Nobody listens there: the carrier is not what most of this is about.
    nobody = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("TWILIO_API_BASE_URL", nobody)
    monkeypatch.setenv("PUBLIC_BASE_URL", nobody)
    return monkeypatch


@pytest.fixture
def own_database(environment, fresh_database_url):
    """A database whose settings and schema a test may spoil."""
    environment.setenv("DATABASE_URL", fresh_database_url)
    url = fresh_database_url.replace("postgresql://", "postgresql+psycopg2://")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory):
    """A server whose configuration a test may spoil."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), durable=False) as server:
        yield server


@contextmanager
def serving(status=200, body=b"{}", **headers):
    """A web server that answers everything like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server names it

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def results():
    return {one.check: one.result for one in examine()}


def found(check):
    """The worst that a check says."""
    of_check = [one for one in examine() if one.check == check]
    return max(of_check, key=lambda one: ("ok", "info", "warn", "fail").index(one.result))


def old_run(engine, **columns):
    """A run whose work nobody took for a minute."""
    account = make_account(engine)
    run = make_run(engine, account, [phone(1)], **columns)
    do(engine, "UPDATE runs SET created_at = created_at - interval '1 minute'")
    do(engine, "UPDATE calls SET next_attempt_at = next_attempt_at - interval '1 minute'")
    return account, run


def test_a_sound_database_is_all_well(environment, engine):
    make_account(engine)
    names = ("settings", "database", "migrations", "clock", "versions", "due work", "accounts")
    seen = results()
    assert {name: seen[name] for name in names} == dict.fromkeys(names, "ok")
    assert "pgbouncer" not in seen


@pytest.mark.parametrize("status", ["pending", "running"])
def test_due_work_that_nobody_takes_is_a_failure(environment, engine, status):
    old_run(engine, status=status)
    assert results()["due work"] == "fail"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE runs SET status = 'paused'", id="paused"),
        pytest.param("UPDATE runs SET cancel_requested = true", id="being cancelled"),
        pytest.param("UPDATE account_pace SET stopped = true", id="account stopped"),
        pytest.param("UPDATE account_pace SET last_claim_at = now()", id="claimed just now"),
        pytest.param(
            "UPDATE account_pace SET not_before = now() + interval '1 minute'", id="carrier's 429"
        ),
        pytest.param(
            "UPDATE runs SET next_send_at = now() + interval '1 minute'", id="a slow pace"
        ),
        pytest.param(
            "UPDATE calls SET next_attempt_at = now() + interval '1 hour'", id="called lately"
        ),
        pytest.param("UPDATE account_pace SET max_live_calls = 0", id="no room"),
        pytest.param(
            "INSERT INTO breakers (account_id, carrier, opened_at, next_trial_at, last_error)"
            " SELECT account_id, 'twilio', now(), now() + interval '1 minute', 'x' FROM runs",
            id="breaker open",
        ),
    ],
)
def test_work_that_something_else_holds_back_is_no_failure(environment, engine, change):
    old_run(engine)
    do(engine, change)
    assert results()["due work"] == "ok"


def test_nobody_leads_until_somebody_does(environment, settings):
    assert results()["leader"] == "fail"
    client = doorbell.client(settings, read_seconds=2)
    client.set(KEY, "somebody", px=60_000)
    client.close()
    assert results()["leader"] == "ok"


def test_a_worker_that_asked_long_ago_is_no_worker(environment, settings):
    client = doorbell.client(settings, read_seconds=2)
    now = client.time()[0] * 1000
    client.zadd(HEARTBEATS, {"an old worker": now - 60_000})
    assert found("worker").result == "fail"
    client.zadd(HEARTBEATS, {"a worker": now})
    assert found("worker").detail.startswith("1 worker asked this Redis")
    client.close()


def test_a_carrier_that_does_not_answer_fails_and_the_rest_is_still_told(environment):
    assert results()["carrier"] == "fail"


def test_a_carrier_without_a_token_is_told_by_the_variables_name(environment):
    environment.delenv("TWILIO_AUTH_TOKEN")
    assert "TWILIO_AUTH_TOKEN is not set" in found("carrier").detail


def test_every_missing_setting_is_named_and_what_is_set_is_still_examined(environment):
    environment.delenv("REDIS_URL")
    environment.delenv("PUBLIC_BASE_URL")
    missing = [one.detail.split()[0] for one in examine() if one.check == "settings"]
    assert missing == ["REDIS_URL", "PUBLIC_BASE_URL"]
    assert results()["database"] == "ok"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("OUTBOUND_SENDERS", "many", "OUTBOUND_SENDERS must be a whole number"),
        ("OUTBOUND_LEASE_SECONDS", "6", "OUTBOUND_LEASE_SECONDS must be at least"),
        ("DATABASE_URL", "mysql://db/outbound", "DATABASE_URL must be a URL that starts with"),
        ("DATABASE_URL", "postgresql+asyncpg://db/x", "DATABASE_URL must be a URL that starts"),
        ("DATABASE_URL", "postgresql://db/%00", "DATABASE_URL must not hold control characters"),
        ("DATABASE_URL", "postgresql://db/x?port=abc", "DATABASE_URL must have a number as its"),
        ("REDIS_URL", "http://redis:6379", "REDIS_URL must be a URL that starts with"),
    ],
)
def test_a_malformed_setting_is_told_once_and_ends_the_examination(environment, name, value, says):
    environment.setenv(name, value)
    (finding,) = examine()
    assert finding.result == "fail"
    assert finding.detail.startswith(says)


def test_too_little_time_to_shut_down_is_a_warning(environment):
    assert found("settings").result == "ok"
    environment.setenv("OUTBOUND_SHUTDOWN_SECONDS", "12")
    assert found("settings").result == "warn"
    assert "OUTBOUND_SHUTDOWN_SECONDS" in found("settings").mend


def test_a_database_that_is_away_fails_with_a_way_to_mend_it(environment):
    environment.setenv("DATABASE_URL", "postgresql://bob:hunter2@127.0.0.1:1/x")
    assert found("database").result == "fail"
    assert "DATABASE_URL" in found("database").mend
    assert "hunter2" not in found("database").detail


def test_a_redis_that_is_stopped_fails_with_a_way_to_mend_it(environment, tmp_path):
    with EmbeddedRedis(tmp_path, durable=False) as server:
        environment.setenv("REDIS_URL", server.url)
        assert found("redis").result == "ok"
    assert found("redis").result == "fail"
    assert "REDIS_URL" in found("redis").mend


def test_a_redis_that_evicts_or_forgets_is_told(environment, own_redis):
    environment.setenv("REDIS_URL", own_redis.url)
    client = redis.Redis.from_url(own_redis.url)
    assert (results()["redis memory"], results()["redis persistence"]) == ("ok", "ok")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert results()["redis memory"] == "ok", "without a limit nothing is evicted"
    client.config_set("maxmemory", "100mb")
    assert found("redis memory").result == "warn"
    assert "noeviction" in found("redis memory").mend
    client.config_set("appendonly", "no")
    assert found("redis persistence").result == "info"
    client.close()


def test_a_database_without_our_schema_or_with_an_older_one_needs_a_migration(own_database):
    do(own_database, "UPDATE alembic_version SET version_num = '0001'")
    assert (found("migrations").result, found("migrations").mend) == (
        "fail",
        "run `outbound migrate`",
    )
    do(own_database, "DROP TABLE alembic_version")
    assert found("migrations").result == "fail"


def test_a_schema_newer_than_the_code_is_a_warning(own_database):
    do(own_database, "UPDATE alembic_version SET version_num = '9999'")
    assert found("migrations").result == "warn"
    assert "newer" in found("migrations").detail


@pytest.fixture
def pretend(own_database):
    """Let the server believe something else than is so: our names are looked up in `pretended`."""

    def replace(function, body):
        name = own_database.url.database
        do(own_database, "CREATE SCHEMA IF NOT EXISTS pretended")
        do(own_database, f"CREATE FUNCTION pretended.{function} LANGUAGE sql AS $$ {body} $$")
        path = "pretended, pg_catalog, public"
        do(own_database, f"ALTER DATABASE {name} SET search_path = {path}")

    return replace


def test_a_clock_that_differs_from_the_databases_is_a_warning(pretend):
    assert found("clock").result == "ok"
    body = "SELECT pg_catalog.clock_timestamp() - interval '7 seconds'"
    pretend("clock_timestamp() RETURNS timestamptz", body)
    assert found("clock").result == "warn"
    assert found("clock").detail.startswith("7.")


def test_a_standby_is_a_failure(pretend):
    pretend("pg_is_in_recovery() RETURNS boolean", "SELECT true")
    assert found("database").result == "fail"
    assert "standby" in found("database").detail


def test_an_account_without_caller_ids_is_a_warning_and_no_account_is_told(environment, engine):
    assert found("accounts").result == "info"
    make_account(engine)
    assert found("accounts").result == "ok"
    do(engine, "UPDATE accounts SET caller_ids = '{}', name = 'bare'")
    assert (found("accounts").result, found("accounts").detail) == ("warn", "no caller id: bare")


def test_a_process_of_another_version_is_a_warning_that_names_it(environment, settings):
    with pytest.MonkeyPatch.context() as another:
        another.setattr(db, "__version__", "0.0.9")
        engine = db.connect(settings, source="dramatiq_worker")
    with engine.connect():
        assert found("versions").result == "warn"
        assert f"0.0.9: {settings.worker_id}" in found("versions").detail
    engine.dispose()
    wait_until(lambda: found("versions").result == "ok")


def test_a_name_that_the_server_cut_off_is_no_other_version(environment, settings, monkeypatch):
    host = "a-host-with-a-name-this-long"
    monkeypatch.setenv("OUTBOUND_INSTANCE", host)
    from outbound import config

    engine = db.connect(config.read(), source="dramatiq_worker")
    with engine.connect() as connection:
        (one,) = [p for p in database.processes(connection) if p.worker_id.startswith(host)]
        assert one.version is None
    assert found("versions").result == "ok"
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("https://outbound.example.com", "ok"),
        ("http://outbound.example.com", "warn"),
        ("https://127.0.0.1:8000", "warn"),
        ("https://10.1.2.3", "warn"),
        ("https://localhost", "warn"),
        ("https://web", "warn"),
    ],
)
def test_the_public_url_must_be_https_on_a_public_host(environment, url, result):
    from outbound import config
    from outbound.cli.checks import outside

    environment.setenv("PUBLIC_BASE_URL", url)
    environment.setattr(outside, "SECONDS", 0.01)  # whether it answers is another finding
    assert next(outside.public_url(config.read())).result == result


OURS = b'{"status": "ok"}'


@pytest.mark.parametrize(
    ("answer", "result", "says"),
    [
        ({"body": OURS}, "ok", "is Outbound"),
        ({"body": b'{"status": "up"}'}, "fail", "no Outbound server"),
        ({"body": b"<html>"}, "fail", "no Outbound server"),
        ({"status": 404}, "fail", "answers 404"),
        (
            {"status": 301, "body": OURS, "Location": "https://other.example/"},
            "fail",
            "answers 301 to https://other.example/",
        ),
    ],
)
def test_what_answers_at_the_public_url_must_be_ours(environment, answer, result, says):
    with serving(**answer) as url:
        environment.setenv("PUBLIC_BASE_URL", url)
        web = found("web")
    assert web.result == result
    assert says in web.detail


def test_a_public_url_where_nobody_listens_is_a_failure(environment):
    assert found("web").result == "fail"
    assert "does not answer" in found("web").detail


def test_a_public_url_without_trustworthy_https_is_a_failure(environment):
    with serving(body=OURS) as url:
        environment.setenv("PUBLIC_BASE_URL", url.replace("http:", "https:"))
        assert "no https that can be trusted" in found("web").detail


@pytest.mark.parametrize(("year", "result"), [(None, "ok"), (2020, "warn")])
def test_a_clock_that_differs_from_the_carriers_is_a_warning(environment, year, result):
    from email.utils import formatdate

    date = f"Wed, 01 Jan {year} 00:00:00 GMT" if year else formatdate(usegmt=True)
    with serving(Date=date) as url:
        environment.setenv("TWILIO_API_BASE_URL", url)
        assert found("carrier's clock").result == result


def test_a_carrier_that_never_ends_its_answer_does_not_hold_the_doctor(environment):
    environment.setenv("OUTBOUND_CARRIER_TIMEOUT_SECONDS", "0.2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment.setenv("TWILIO_API_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert found("carrier").result == "fail"


@pytest.fixture
def pgbouncer(environment, settings, tmp_path):
    """A pooler before the database, with these lines in its configuration."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if not program:
        pytest.skip("there is no pgbouncer here")
    started = []

    def start(*lines):
        behind, port = urlsplit(settings.database_url), free_port()
        name = behind.path.lstrip("/")
        target = f"host={behind.hostname} port={behind.port} dbname={name} user={behind.username}"
        file = tmp_path / "pgbouncer.ini"
        own = [f"listen_port = {port}", "listen_addr = 127.0.0.1", "auth_type = any"]
        more = ["unix_socket_dir =", "admin_users = nobody", *lines]
        file.write_text(
            "\n".join(["[databases]", f"{name} = {target}", "[pgbouncer]", *own, *more])
        )
        # It refuses to be root, as PostgreSQL does.
        for place in (tmp_path, *tmp_path.parents):
            if place.owner() == pwd.getpwuid(os.getuid()).pw_name and place != Path("/"):
                place.chmod(place.stat().st_mode | 0o055)
        user = "nobody" if os.getuid() == 0 else None
        process = subprocess.Popen(
            [program, str(file)], user=user, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        started.append(process)

        def listens():
            assert process.poll() is None, process.stderr.read()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens)
        environment.setenv(
            "DATABASE_URL", f"postgresql://{behind.username}@127.0.0.1:{port}/{name}"
        )

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stderr.close()


IGNORE = "ignore_startup_parameters = extra_float_digits, options"


def test_a_pooler_that_refuses_our_settings_is_told_with_the_line_that_mends_it(pgbouncer):
    pgbouncer("pool_mode = transaction")
    assert found("pgbouncer").result == "fail"
    assert IGNORE in found("pgbouncer").mend
    assert "database" not in results()


def test_a_pooler_in_statement_mode_is_a_failure(pgbouncer):
    pgbouncer("pool_mode = statement", IGNORE)
    assert found("pgbouncer").result == "fail"
    assert "pool_mode = transaction" in found("pgbouncer").mend


def test_a_pooler_that_drops_our_settings_is_a_warning(pgbouncer):
    pgbouncer("pool_mode = transaction", IGNORE)
    assert found("pgbouncer").result == "warn"
    assert "statement_timeout" in found("pgbouncer").mend
    assert results()["migrations"] == "ok"


def doctor(capsys, *arguments):
    with pytest.raises(SystemExit) as exited:
        cli.main(["doctor", *arguments])
    return exited.value.code, capsys.readouterr().out


def test_it_says_each_finding_in_a_line_and_how_to_mend_it_in_another(environment, capsys):
    code, out = doctor(capsys)
    assert code == 1
    assert "fail  leader: no reconciler leads\n     → start `outbound reconciler`\n" in out
    assert "\x1b" not in out


def test_for_programs_it_is_json(environment, capsys):
    code, out = doctor(capsys, "--json")
    assert code == 1
    assert {one["check"]: one["result"] for one in json.loads(out)} == results()
    assert all(one["mend"] or one["result"] == "ok" for one in json.loads(out))


def test_warnings_alone_are_no_failure(monkeypatch, capsys):
    from outbound.cli import doctor as module
    from outbound.cli.checks import Finding

    monkeypatch.setattr(module, "examine", lambda: [Finding("a", "warn", "b", "c")])
    assert doctor(capsys)[0] == 0
