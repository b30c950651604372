"""`outbound doctor`: what is wrong is found, and what is right raises no alarm."""

import socket

import pytest

from factories import do, make_account, make_run, phone
from outbound import doorbell
from outbound.cli.doctor import examine
from outbound.reconciler.leader import KEY

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
    with socket.socket() as probe:  # nobody listens there: the carrier is not what this is about
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("TWILIO_API_BASE_URL", f"http://127.0.0.1:{port}")
    return monkeypatch


def results():
    return {one.check: one.result for one in examine()}


def detail(check):
    return next(one.detail for one in examine() if one.check == check)


def old_run(engine, **columns):
    """A run whose work nobody took for a minute."""
    account = make_account(engine)
    run = make_run(engine, account, [phone(1)], **columns)
    do(engine, "UPDATE runs SET created_at = created_at - interval '1 minute'")
    do(engine, "UPDATE calls SET next_attempt_at = next_attempt_at - interval '1 minute'")
    return account, run


def test_a_sound_database_is_all_well(environment, engine):
    found = results()
    names = ("settings", "database", "migrations", "clock", "worker")
    assert {name: found[name] for name in names} == dict.fromkeys(names, "ok")


@pytest.mark.parametrize("status", ["pending", "running"])
def test_due_work_that_nobody_takes_is_the_workers_failure(environment, engine, status):
    old_run(engine, status=status)
    assert results()["worker"] == "fail"


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
def test_work_that_something_else_holds_back_is_no_failure_of_the_workers(
    environment, engine, change
):
    old_run(engine)
    do(engine, change)
    assert results()["worker"] == "ok"


def test_nobody_leads_until_somebody_does(environment, settings):
    assert results()["leader"] == "fail"
    client = doorbell.client(settings, read_seconds=2)
    client.set(KEY, "somebody", px=60_000)
    client.close()
    assert results()["leader"] == "ok"


def test_a_carrier_that_does_not_answer_fails_and_the_rest_is_still_told(environment):
    assert results()["carrier"] == "fail"


def test_every_missing_setting_is_named_and_what_is_set_is_still_examined(environment):
    environment.delenv("REDIS_URL")
    environment.delenv("PUBLIC_BASE_URL")
    missing = [one.detail.split()[0] for one in examine() if one.check == "settings"]
    assert missing == ["REDIS_URL", "PUBLIC_BASE_URL"]
    assert results()["database"] == "ok"


def test_a_malformed_setting_is_told_once_and_ends_the_examination(environment):
    environment.setenv("OUTBOUND_SENDERS", "many")
    (finding,) = examine()
    assert finding.result == "fail"
    assert "OUTBOUND_SENDERS must be a whole number" in finding.detail


def test_servers_that_are_away_fail_with_a_way_to_mend_it(environment):
    environment.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/x")
    environment.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    found = {one.check: one for one in examine()}
    assert (found["database"].result, found["redis"].result) == ("fail", "fail")
    assert "DATABASE_URL" in found["database"].mend
    assert "REDIS_URL" in found["redis"].mend


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("https://outbound.example.com", "ok"),
        ("http://outbound.example.com", "warn"),
        ("https://127.0.0.1:8000", "warn"),
        ("https://localhost", "warn"),
    ],
)
def test_the_public_url_must_be_https_on_a_public_host(environment, url, result):
    environment.setenv("PUBLIC_BASE_URL", url)
    assert results()["public url"] == result
