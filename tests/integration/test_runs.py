"""Pause, resume, cancel, expiry: what they stop, what they leave, and how a run ends."""

import pytest

from factories import (
    call_of,
    claim,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    make_run,
    one,
    phone,
    record,
    rows,
    run_of,
    say,
)
from outbound import runs
from outbound.accounts import Caller
from outbound.carriers.base import Progress
from outbound.errors import Refused
from outbound.ids import uuid7
from outbound.states import Kind


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def who(account):
    return Caller(account, uuid7(), "operator", "req-1")


def is_sending(engine, account, run):
    with engine.connect() as connection:
        return runs.is_sending(connection, account, run)


def test_after_pause_nothing_is_claimed_and_after_resume_it_goes_on(node, engine, account, who):
    run = make_run(engine, account, [phone(1), phone(2)])
    assert len(claim(node, account, most=1)) == 1
    runs.pause(node, account, run, who)
    runs.pause(node, account, run, who)
    assert run_of(engine, run)["status"] == "paused"
    assert claim(node, account) == ()
    runs.resume(node, account, run, who)
    assert run_of(engine, run)["status"] == "running"
    assert len(claim(node, account)) == 1
    assert (
        len(rows(engine, "SELECT * FROM events WHERE event LIKE 'run_%' AND actor IS NOT NULL"))
        == 2
    )


def test_pause_says_whether_a_request_is_still_on_its_way(node, engine, account, who):
    run = make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    runs.pause(node, account, run, who)
    assert is_sending(engine, account, run)
    record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
    assert not is_sending(engine, account, run)


@pytest.mark.parametrize(
    ("status", "start", "after"),
    [
        ("pending", None, "pending"),
        ("scheduled", "2099-01-01", "scheduled"),
    ],
)
def test_a_run_that_never_dialled_resumes_to_what_it_was(
    node, engine, account, who, status, start, after
):
    run = make_run(engine, account, [phone(1)], status=status, start_at=start)
    runs.pause(node, account, run, who)
    runs.resume(node, account, run, who)
    assert run_of(engine, run)["status"] == after


def test_cancel_ends_the_queued_calls_and_then_the_run(node, engine, account, who):
    run = make_run(engine, account, [phone(i) for i in range(5)])
    (call,) = claim(node, account, most=1)
    runs.cancel(node, account, run, who, hang_up=False)
    assert claim(node, account) == ()
    assert runs.end_queued(node, account) == 4
    assert run_of(engine, run)["status"] == "running"
    say(node, call.attempt_id, Progress.ANSWERED, "CA1")
    assert run_of(engine, run)["status"] == "cancelled"
    numbers = counters_of(engine, run)
    assert (numbers["cancelled"], numbers["answered"]) == (4, 1)
    assert numbers == counted_from_rows(engine, run)
    runs.cancel(node, account, run, who, hang_up=False)


def test_a_scheduled_or_paused_run_can_be_cancelled_too(node, engine, account, who):
    for status in ("scheduled", "paused"):
        run = make_run(engine, account, [phone(1)], status=status)
        runs.cancel(node, account, run, who, hang_up=False)
        runs.end_queued(node, account)
        assert run_of(engine, run)["status"] == "cancelled"


def test_a_call_that_was_busy_before_keeps_that_outcome_when_its_run_is_cancelled(
    node, engine, account, who
):
    run = make_run(engine, account, [phone(1)], max_attempts=2)
    (call,) = claim(node, account)
    say(node, call.attempt_id, Progress.BUSY, "CA1")
    runs.cancel(node, account, run, who, hang_up=False)
    runs.end_queued(node, account)
    assert call_of(engine, call.call_id)["outcome"] == "busy"
    assert run_of(engine, run)["status"] == "cancelled"


def test_an_expired_run_ends_expired_also_when_paused(node, engine, account):
    for status in ("pending", "paused"):
        run = make_run(engine, account, [phone(1)], status=status)
        do(engine, "UPDATE runs SET expires_at = clock_timestamp() WHERE id = :id", id=run)
        runs.end_queued(node, account)
        assert run_of(engine, run)["status"] == "expired"


def test_a_paused_run_whose_calls_are_over_completes_at_resume(node, engine, account, who):
    run = make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    runs.pause(node, account, run, who)
    say(node, call.attempt_id, Progress.ANSWERED, "CA1")
    assert run_of(engine, run)["status"] == "paused"
    runs.resume(node, account, run, who)
    assert run_of(engine, run)["status"] == "completed"


def test_what_the_state_forbids_is_refused(node, engine, account, who):
    done = make_run(engine, account, status="completed")
    do(engine, "UPDATE runs SET ended_at = clock_timestamp()")
    for verb in (
        lambda: runs.pause(node, account, done, who),
        lambda: runs.resume(node, account, done, who),
        lambda: runs.cancel(node, account, done, who, hang_up=False),
    ):
        with pytest.raises(Refused) as refused:
            verb()
        assert refused.value.status == 409
    going = make_run(engine, account, [phone(1)])
    runs.cancel(node, account, going, who, hang_up=False)
    with pytest.raises(Refused):
        runs.resume(node, account, going, who)


def test_another_accounts_run_does_not_exist(node, engine, account, who):
    foreign = make_run(engine, make_account(engine), [phone(1)])
    with pytest.raises(Refused) as refused:
        runs.pause(node, account, foreign, who)
    assert refused.value.status == 404
    assert one(engine, "SELECT status FROM runs")["status"] == "pending"


def test_resume_makes_the_trial_of_an_open_breaker_due(node, engine, account, who):
    run = make_run(engine, account, [phone(1)])
    do(
        engine,
        "INSERT INTO breakers VALUES (:a, 'twilio', now(), now() + interval '1 hour', 'x')",
        a=account,
    )
    runs.pause(node, account, run, who)
    runs.resume(node, account, run, who)
    assert len(claim(node, account)) == 1
