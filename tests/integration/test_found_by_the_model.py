"""What the work on the model (test_model.py) brought to light, kept as plain tests."""

from datetime import UTC, datetime, timedelta

import pytest

from factories import call_of, claim, do, make_account, make_run, phone, record, run_of, say
from outbound.carriers.base import Progress
from outbound.states import Kind

SOON = timedelta(hours=1)


def expire(engine):
    do(engine, "UPDATE runs SET expires_at = clock_timestamp() - interval '1 second'")


def in_a_run_that_expires(node, engine, **columns):
    account = make_account(engine)
    at = datetime.now(UTC) + SOON
    run = make_run(engine, account, [phone(1)], expires_at=at, **columns)
    (call,) = claim(node, account)
    return run, call


@pytest.mark.parametrize("status", ["running", "paused"])
class TestARunWhoseLastCallExpiryKeptFromBeingQueuedAgain:
    """As one whose queued call expiry ended: it is expired, and a pause does not hold it."""

    def test_is_expired_when_its_attempt_is_given_back(self, node, engine, status):
        run, call = in_a_run_that_expires(node, engine)
        do(engine, "UPDATE runs SET status = :status", status=status)
        expire(engine)
        record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
        assert call_of(engine, call.call_id)["outcome"] == "cancelled"
        assert run_of(engine, run)["status"] == "expired"

    def test_is_expired_when_no_retry_is_left_to_it(self, node, engine, status):
        run, call = in_a_run_that_expires(node, engine, max_attempts=2)
        do(engine, "UPDATE runs SET status = :status", status=status)
        expire(engine)
        say(node, call.attempt_id, Progress.BUSY, "CA1")
        assert call_of(engine, call.call_id)["outcome"] == "busy"
        assert run_of(engine, run)["status"] == "expired"
