"""The operator's commands, over HTTP and on the database."""

import json
import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import click.testing
import pytest

from factories import FakeCarrier, do, make_account, make_run, one, phone, rows, run_of
from outbound import accounts
from outbound.api.app import create_app
from outbound.cli import cli


class Quiet(WSGIRequestHandler):
    def log_message(self, *given):
        pass


@pytest.fixture
def url(node):
    with make_server(
        "127.0.0.1", 0, create_app(node, FakeCarrier()), handler_class=Quiet
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(20)


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def outbound(url, engine, account, settings):
    with engine.begin() as connection:
        _, key = accounts.create_key(connection, account, "operator")
    env = {
        "OUTBOUND_URL": url,
        "OUTBOUND_API_KEY": key,
        "DATABASE_URL": settings.database_url,
    }

    def run(*arguments, code=0):
        done = click.testing.CliRunner().invoke(cli, [*arguments, "--json"], env=env)
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout) if code == 0 else done

    return run


def test_stop_and_start(outbound):
    assert outbound("account", "stop")["stopped"] is True
    assert outbound("account", "stop", "--hang-up")["stopped"] is True
    assert outbound("account", "start")["stopped"] is False


def test_cancel_a_call(outbound, engine, account):
    run = make_run(engine, account, [phone(1)])
    call = one(engine, "SELECT id FROM calls")["id"]
    assert outbound("calls", "cancel", str(run), str(call))["state"] == "cancelled"
    assert run_of(engine, run)["status"] == "completed"


def test_suppressions_from_arguments_and_a_file(outbound, engine, tmp_path, monkeypatch):
    monkeypatch.setattr("outbound.cli.suppressions.MAX_SUPPRESSIONS", 2)
    file = tmp_path / "never.txt"
    file.write_text(f"{phone(2)}\n\nnonsense\n{phone(3)}\n")
    added = outbound("suppressions", "add", phone(1), "--file", str(file), "--reason", "asked")
    assert added == {
        "added": 3,
        "in_flight": 0,
        "rejections": [{"index": 2, "code": "invalid_phone"}],
    }
    listed = outbound("suppressions", "list")["items"]
    assert [item["phone"] for item in listed] == [phone(3), phone(2), phone(1)]
    assert {item["reason"] for item in listed} == {"asked"}
    assert outbound("suppressions", "remove", phone(2)) == {"phone": phone(2), "removed": True}
    assert outbound("suppressions", "list", "--phone", phone(2))["items"] == []
    outbound("suppressions", "remove", phone(2), code=1)
    outbound("suppressions", "add", code=2)
    outbound("suppressions", "add", "--file", str(tmp_path / "missing"), code=1)


def test_a_part_that_is_refused_says_how_far_it_came(outbound, engine, monkeypatch):
    monkeypatch.setattr("outbound.cli.suppressions.MAX_SUPPRESSIONS", 1)
    refused = outbound("suppressions", "add", phone(1), "nonsense", phone(2), code=1)
    assert refused.stderr.startswith("error: after 1 numbers: ")
    assert [row["phone"] for row in rows(engine, "SELECT phone FROM suppressions")] == [phone(1)]


def test_purge(outbound, engine, account):
    run = make_run(engine, account, [phone(1)], status="completed", name="Dana")
    do(engine, "UPDATE calls SET state = 'completed', outcome = 'answered'")
    do(engine, "UPDATE runs SET ended_at = clock_timestamp() - interval '91 days'")
    assert outbound("purge", "--older-than", "13w", "--account", str(make_account(engine))) == {
        "runs": 0,
        "calls": 0,
    }
    assert outbound("purge", "--older-than", "90d") == {"runs": 1, "calls": 1}
    assert run_of(engine, run)["name"] is None


@pytest.mark.parametrize("age", ["", "90", "-3d", "0d", "90x", "d", "99999d"])
def test_an_age_that_is_none_purges_nothing(outbound, age):
    outbound("purge", "--older-than", age, code=2)
