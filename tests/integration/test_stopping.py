"""Stop: no new dial in any run, at once; start: it goes on."""

from functools import partial

import falcon.testing
import pytest

from factories import (
    FakeCarrier,
    claim,
    make_account,
    make_run,
    phone,
    record,
    rows,
    say,
)
from outbound import accounts, hanging_up, stopping
from outbound.api import quiet
from outbound.api.app import create_app
from outbound.carriers.base import Progress
from outbound.states import Kind
from races import claim_under_way, held_before_its_commit, in_background, wait_for_a_waiter

API = "/api/outbound"


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def key(engine, account):
    with engine.begin() as connection:
        return accounts.create_key(connection, account, "operator", "Dana's key")


@pytest.fixture
def who(account, key):
    return accounts.Caller(account, key[0], "operator", "req-1")


@pytest.fixture
def ask(node, key):
    http = falcon.testing.TestClient(create_app(node, FakeCarrier()))

    def send(method, path, body=None):
        headers = {"Authorization": f"Bearer {key[1]}"}
        return http.simulate_request(method, API + path, headers=headers, json=body or {})

    return send


def test_a_stopped_account_claims_nothing_in_any_run_until_it_is_started(
    node, engine, account, who
):
    for n in range(3):
        make_run(engine, account, [phone(n)])
    stopping.stop(node, account, who, hang_up=False)
    assert claim(node, account) == ()
    stopping.start(node, account, who)
    assert sum(len(claim(node, account)) for _ in range(3)) == 3


def test_other_accounts_dial_on(node, engine, account, who):
    other = make_account(engine)
    make_run(engine, other, [phone(1)])
    stopping.stop(node, account, who, hang_up=False)
    assert len(claim(node, other)) == 1


def test_it_says_who_stopped_it_and_when_and_forgets_that_at_the_start(ask, key, engine):
    stopped = ask("POST", "/account/stop").json
    assert (stopped["stopped"], stopped["stopped_by"]) == (True, str(key[0]))
    assert (stopped["stopped_by_name"], stopped["stopped_at"][-1]) == ("Dana's key", "Z")
    assert ask("GET", "/account").json == stopped
    again = ask("POST", "/account/stop")
    assert (again.status_code, again.json) == (200, stopped)
    started = ask("POST", "/account/start").json
    assert [started[name] for name in ("stopped", "stopped_at", "stopped_by")] == [
        False,
        None,
        None,
    ]
    assert ask("POST", "/account/start").status_code == 200
    events = [row["event"] for row in rows(engine, "SELECT event FROM events ORDER BY id")]
    assert events == ["account_stopped", "account_started"]


def test_the_answer_is_202_while_a_request_of_any_run_may_be_on_its_way(
    ask, node, engine, account, monkeypatch
):
    monkeypatch.setattr(quiet, "SETTLE_SECONDS", 0.0)
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    waiting = ask("POST", "/account/stop")
    assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "1")
    assert waiting.json["stopped"] is True
    record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
    assert ask("POST", "/account/stop").status_code == 200


def test_a_call_waits_for_the_start_and_says_so(ask, node, engine, account, who):
    run = make_run(engine, account, [phone(1)])
    stopping.stop(node, account, who, hang_up=False)
    (call,) = ask("GET", f"/runs/{run}/calls").json["items"]
    assert call["waiting_for"] == "stopped"


def test_the_start_rings(ask, node, monkeypatch):
    ask("POST", "/account/stop")
    rung = []
    monkeypatch.setattr(type(node.doorbell), "ring", lambda _, account, *a: rung.append(account))
    ask("POST", "/account/start")
    assert len(rung) == 1


class TestHangUp:
    @pytest.fixture
    def carrier(self):
        return FakeCarrier()

    def test_every_call_of_before_is_hung_up_and_none_of_after_the_start(
        self, node, engine, account, who, carrier
    ):
        make_run(engine, account, [phone(n) for n in range(3)])
        first, late = (claim(node, account, most=1)[0] for _ in range(2))
        say(node, first.attempt_id, Progress.RINGING, "CA1")
        stopping.stop(node, account, who, hang_up=True)
        assert hanging_up.hang_up_due(node, carrier, account) == 1
        stopping.start(node, account, who)
        say(node, late.attempt_id, Progress.RINGING, "CA2")
        (after,) = claim(node, account)
        say(node, after.attempt_id, Progress.RINGING, "CA3")
        hanging_up.hang_up_due(node, carrier, account)
        assert carrier.hung_up == ["CA1", "CA2"]

    def test_a_plain_stop_lets_calls_go_on(self, node, engine, account, who, carrier):
        make_run(engine, account, [phone(1)])
        (call,) = claim(node, account)
        say(node, call.attempt_id, Progress.RINGING, "CA1")
        stopping.stop(node, account, who, hang_up=False)
        assert hanging_up.hang_up_due(node, carrier, account) == 0
        stopping.stop(node, account, who, hang_up=True)
        assert hanging_up.hang_up_due(node, carrier, account) == 1


class TestRace:
    def test_a_claim_that_came_first_is_waited_for_and_told_of(
        self, ask, node, engine, account, monkeypatch
    ):
        monkeypatch.setattr(quiet, "SETTLE_SECONDS", 0.0)
        make_run(engine, account, [phone(1)])
        with (
            claim_under_way(node, account) as (claimed, commit),
            in_background(ask, "POST", "/account/stop") as stop,
        ):
            assert len(claimed.calls) == 1
            wait_for_a_waiter(engine)
            assert not stop.done()
            commit()
            assert stop.result(60).status_code == 202

    def test_a_claim_that_comes_later_sees_the_stop(self, node, engine, account, who, monkeypatch):
        make_run(engine, account, [phone(1)])
        stop = partial(stopping.stop, node, account, who, hang_up=False)
        with (
            held_before_its_commit(monkeypatch, stop) as (_, go_on),
            in_background(claim, node, account) as claimed,
        ):
            wait_for_a_waiter(engine)
            go_on()
            assert claimed.result(60) == ()
