"""A claim: the intent is written under limits and unique constraints before anything is sent."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from factories import (
    attempt_of,
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
from outbound import claims, clock, pace, unknowns
from outbound.accounts import Caller
from outbound.carriers.base import Progress
from outbound.states import Decision, Kind, Outcome
from races import in_background, wait_for_a_waiter


def phones(n: int, start: int = 0) -> list[str]:
    return [phone(i) for i in range(start, start + n)]


def test_a_claim_commits_the_intent_before_anything_is_sent(node, engine):
    account = make_account(engine)
    run = make_run(engine, account, phones(3))

    claimed = claim(node, account)

    assert sorted(c.phone for c in claimed) == phones(3)
    for call in claimed:
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["state"], attempt["number"], attempt["phone_held"]) == ("sending", 1, True)
        assert attempt["fence"] == call.fence
        assert call_of(engine, call.call_id)["state"] == "dialing"
    assert run_of(engine, run)["status"] == "running"
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_run_is_pending_until_a_worker_makes_it_running(node, engine):
    account = make_account(engine)
    run = make_run(engine, account, phones(1))
    assert run_of(engine, run)["status"] == "pending"
    assert run_of(engine, run)["started_at"] is None

    claim(node, account)

    assert run_of(engine, run)["status"] == "running"
    assert run_of(engine, run)["started_at"] is not None


def test_calls_are_claimed_in_the_order_of_the_body(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(5))
    do(engine, "UPDATE calls SET next_attempt_at = '2026-01-01'")
    assert [c.phone for c in claim(node, account, most=2)] == phones(2)
    assert [c.phone for c in claim(node, account, most=2)] == phones(2, 2)


def test_ten_parallel_claimers_never_have_more_live_than_the_account_allows(node, engine):
    account = make_account(engine, max_live_calls=5)
    run = make_run(engine, account, phones(60))
    barrier = threading.Barrier(10)

    def work(_: int) -> int:
        barrier.wait()
        return len(claim(node, account, most=3))

    with ThreadPoolExecutor(10) as pool:
        claimed = sum(pool.map(work, range(10)))

    assert claimed == 5
    live = one(engine, "SELECT count(*) AS n FROM attempts WHERE ended_at IS NULL")["n"]
    assert live == 5
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_runs_own_concurrency_holds_beside_the_accounts(node, engine):
    account = make_account(engine, max_live_calls=10)
    make_run(engine, account, phones(9), concurrency=2)
    assert len(claim(node, account)) == 2
    assert claim(node, account) == ()


def test_a_slot_that_falls_free_is_used_again(node, engine):
    account = make_account(engine, max_live_calls=1)
    make_run(engine, account, phones(2))
    (first,) = claim(node, account)
    assert claim(node, account) == ()
    say(node, first.attempt_id, Progress.ANSWERED, "CA1")
    assert len(claim(node, account)) == 1


def test_a_lowered_limit_lets_calls_run_on_and_claims_nothing(node, engine):
    account = make_account(engine, max_live_calls=5)
    make_run(engine, account, phones(10))
    assert len(claim(node, account)) == 5
    do(engine, "UPDATE account_pace SET max_live_calls = 2")
    assert claim(node, account) == ()


def test_an_unknown_occupies_its_slot_until_its_call_would_be_over(node, engine):
    account = make_account(engine, max_live_calls=1)
    make_run(engine, account, phones(2))
    (first,) = claim(node, account)
    record(node, first.attempt_id, Kind.AMBIGUOUS)
    assert claim(node, account) == ()
    do(engine, "UPDATE attempts SET occupies_until = clock_timestamp() - interval '1 s'")
    assert len(claim(node, account)) == 1


def test_the_pace_of_the_run_and_of_the_account_both_hold(node, engine):
    account = make_account(engine, calls_per_second=100.0)
    make_run(engine, account, phones(50), calls_per_second=10.0)
    claimed = claim(node, account)
    # 200 ms ahead at 10 a second: now, +0.1 s, +0.2 s, and one that a late claim may catch up.
    assert 2 <= len(claimed) <= 4
    assert claim(node, account) == ()
    waits = sorted(c.send_at for c in claimed)
    assert all(later - earlier > 0.05 for earlier, later in itertools.pairwise(waits))


def test_one_phone_is_held_by_one_attempt_at_a_time(node, engine):
    account = make_account(engine)
    first = make_run(engine, account, phones(1))
    second = make_run(engine, account, phones(1))

    assert len(claim(node, account)) + len(claim(node, account)) == 1

    waiting = one(engine, "SELECT * FROM calls WHERE state = 'queued'")
    assert waiting["waiting_for"] == "phone"
    assert {waiting["run_id"]} < {first, second}


def test_the_end_of_an_attempt_makes_those_who_wait_for_its_phone_due(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(1))
    (first,) = claim(node, account)
    make_run(engine, account, phones(1))
    assert claim(node, account) == ()
    say(node, first.attempt_id, Progress.BUSY, "CA1")
    (second,) = claim(node, account)
    assert second.phone == first.phone


def test_a_phone_that_another_run_called_lately_waits(node, engine):
    account = make_account(engine, min_seconds_between_calls=3600)
    make_run(engine, account, phones(1))
    (first,) = claim(node, account)
    say(node, first.attempt_id, Progress.ANSWERED, "CA1")
    second = make_run(engine, account, phones(1))

    assert claim(node, account) == ()

    waiting = one(
        engine,
        "SELECT *, next_attempt_at - clock_timestamp() AS wait FROM calls WHERE run_id = :run",
        run=second,
    )
    assert waiting["waiting_for"] == "recent_call"
    assert 3500 < waiting["wait"].total_seconds() < 3600


def test_a_released_attempt_does_not_count_as_a_recent_call(node, engine):
    account = make_account(engine, min_seconds_between_calls=3600)
    run = make_run(engine, account, phones(1))
    (first,) = claim(node, account)
    record(node, first.attempt_id, Kind.NOT_PROCESSED)
    do(engine, "UPDATE runs SET status = 'paused' WHERE id = :run", run=run)
    make_run(engine, account, phones(1))
    assert len(claim(node, account)) == 1


def test_held_phones_are_moved_aside_in_one_pass_and_the_free_ones_behind_them_are_claimed(
    node, engine
):
    account = make_account(engine)
    make_run(engine, account, phones(30))
    assert len(claim(node, account)) == 30
    make_run(engine, account, phones(40))
    do(engine, "UPDATE calls SET next_attempt_at = '2026-01-01' WHERE state = 'queued'")

    first = claims.claim(node, "twilio", account, 5, 0)
    second = claims.claim(node, "twilio", account, 5, claims.SET_ASIDE)

    assert (len(first.calls), first.aside) == (0, 5)
    assert (len(second.calls), second.aside) == (5, 25)


def test_two_runs_of_an_account_take_turns(node, engine):
    account = make_account(engine)
    first = make_run(engine, account, phones(4))
    second = make_run(engine, account, phones(4, 100))
    served = [claim(node, account, most=1)[0].run_id for _ in range(4)]
    assert served[0] != served[1]
    assert sorted(served) == sorted([first, second] * 2)


@pytest.mark.parametrize(
    "state",
    [
        "status = 'paused'",
        "status = 'scheduled'",
        "cancel_requested = true",
        "expires_at = clock_timestamp() - interval '1 s'",
        "ended_at = clock_timestamp()",
    ],
)
def test_nothing_is_claimed_from_a_run_that_may_not_dial(node, engine, state):
    account = make_account(engine)
    make_run(engine, account, phones(1))
    do(engine, f"UPDATE runs SET {state}")
    assert claim(node, account) == ()


@pytest.mark.parametrize(
    "state",
    [
        "stopped = true",
        "not_before = clock_timestamp() + interval '1 minute'",
    ],
)
def test_nothing_is_claimed_for_an_account_that_may_not_dial(node, engine, state):
    account = make_account(engine)
    make_run(engine, account, phones(1))
    do(engine, f"UPDATE account_pace SET {state}")
    assert claim(node, account) == ()


def test_an_open_breaker_lets_one_trial_call_through_when_it_is_due(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(5))
    do(
        engine,
        "INSERT INTO breakers VALUES (:a, 'twilio', now(), now() + interval '1 minute', 'x')",
        a=account,
    )
    assert claim(node, account) == ()
    do(engine, "UPDATE breakers SET next_trial_at = now()")
    (trial,) = claim(node, account)
    assert trial.is_trial
    assert claim(node, account) == ()


def test_calls_that_another_claim_has_locked_are_skipped_not_waited_for(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(3))
    do(engine, "UPDATE calls SET next_attempt_at = '2026-01-01'")
    with engine.connect() as other:
        other.execute(text("SELECT FROM calls ORDER BY id LIMIT 1 FOR UPDATE"))
        claimed = claim(node, account)
        other.rollback()
    assert [c.phone for c in claimed] == phones(2, 1)


class TestHead:
    """A claim looks for due calls from where the one before it found the first."""

    A_SECOND_AGO = "UPDATE runs SET last_served_at = last_served_at - interval '1 second'"
    WAKE = "UPDATE calls SET next_attempt_at = '2026-01-01' WHERE phone = :phone"

    @pytest.fixture
    def account(self, engine):
        account = make_account(engine)
        make_run(engine, account, phones(4))
        do(engine, "UPDATE calls SET next_attempt_at = '2026-02-01'")
        self.wait(engine, phone(3))
        return account

    def wait(self, engine, phone):
        do(engine, "UPDATE calls SET next_attempt_at = '2126-01-01' WHERE phone = :p", p=phone)

    def claim(self, node, account):
        return [call.phone for call in claim(node, account, most=1)]

    def test_a_call_that_was_woken_meanwhile_is_claimed_when_no_other_is_due(
        self, node, engine, account
    ):
        with engine.connect() as other:
            other.execute(text(self.WAKE), {"phone": phone(3)})
            assert self.claim(node, account) == [phone(0)]
            other.commit()
        dialled = {self.claim(node, account)[0] for _ in range(3)}
        assert dialled == {phone(1), phone(2), phone(3)}
        assert self.claim(node, account) == []

    def test_and_a_second_later_though_others_are_due(self, node, engine, account):
        self.claim(node, account)
        do(engine, self.WAKE, phone=phone(3))
        do(engine, self.A_SECOND_AGO)
        assert self.claim(node, account) == [phone(3)]

    def test_a_look_at_what_is_due_finds_it_too(self, node, engine, account):
        self.claim(node, account)
        for n in (1, 2):
            self.wait(engine, phone(n))
        do(engine, self.WAKE, phone=phone(3))
        with engine.connect() as connection:
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            assert claims.seconds_until_due(connection, account, now) < 0

    def test_a_call_that_was_locked_is_the_next_one(self, node, engine, account):
        with engine.connect() as other:
            other.execute(text("SELECT FROM calls ORDER BY id LIMIT 1 FOR UPDATE"))
            assert self.claim(node, account) == [phone(1)]
            other.rollback()
        assert self.claim(node, account) == [phone(0)]

    def test_a_claim_that_is_rolled_back_leaves_its_calls_in_the_queue(self, node, account):
        one_pass = claims._Pass(node, "twilio", account, 2, 0)
        with node.engine.connect() as connection:
            assert len(claims._in_transaction(connection, one_pass).calls) == 2
            connection.rollback()
        assert [self.claim(node, account)[0] for _ in range(3)] == phones(3)


class TestWhatIsLive:
    """Each occupies its slot until it is over, however many were claimed and ended since."""

    @pytest.fixture
    def account(self, engine):
        return make_account(engine, max_live_calls=2)

    def dial(self, node, account):
        """Claim one, and have it answered."""
        for call in claim(node, account, most=1):
            say(node, call.attempt_id, Progress.ANSWERED, f"CA-{call.call_id}")

    def has_room_for(self, node, account):
        return len(claim(node, account, most=9))

    def test_a_long_call_is_counted(self, node, engine, account):
        make_run(engine, account, phones(9))
        claim(node, account, most=1)
        for _ in range(3):
            self.dial(node, account)
        assert self.has_room_for(node, account) == 1

    def test_an_old_unknown_is_counted(self, node, engine, account):
        make_run(engine, account, phones(9))
        (old,) = claim(node, account, most=1)
        record(node, old.attempt_id, Kind.AMBIGUOUS)
        for _ in range(3):
            self.dial(node, account)
        assert self.has_room_for(node, account) == 1

    def test_an_unknown_whose_run_has_ended_is_counted(self, node, engine, account):
        run = make_run(engine, account, phones(1))
        (old,) = claim(node, account)
        record(node, old.attempt_id, Kind.AMBIGUOUS)
        assert run_of(engine, run)["status"] == "completed"
        make_run(engine, account, phones(9, 100))
        assert self.has_room_for(node, account) == 1

    def test_a_call_that_was_held_to_be_over_and_rings_is_counted(self, node, engine, account):
        run = make_run(engine, account, phones(9))
        (old,) = claim(node, account, most=1)
        record(node, old.attempt_id, Kind.AMBIGUOUS)
        person = Caller(account, UUID(int=7), "operator", "r")
        unknowns.resolve(
            node, account, run, old.call_id, Decision.PLACED,
            outcome=Outcome.ANSWERED, note=None, force=True, who=person,
        )  # fmt: skip
        for _ in range(3):
            self.dial(node, account)
        say(node, old.attempt_id, Progress.RINGING, "CA-late")
        assert attempt_of(engine, old.attempt_id)["ended_at"] is None
        assert self.has_room_for(node, account) == 1

    def test_when_fences_begin_anew_after_a_restore_calls_are_counted(self, node, engine, account):
        make_run(engine, account, phones(9))
        do(engine, "SELECT setval('fence_seq', 1000000)")
        claim(node, account, most=1)
        do(engine, "SELECT setval('fence_seq', 1)")
        assert self.has_room_for(node, account) == 1
        assert self.has_room_for(node, account) == 0

    def test_calls_of_a_run_that_is_paused_are_counted(self, node, engine, account):
        run = make_run(engine, account, phones(9))
        claim(node, account, most=1)
        do(engine, "UPDATE runs SET status = 'paused' WHERE id = :run", run=run)
        make_run(engine, account, phones(9, 100))
        assert self.has_room_for(node, account) == 1


def test_one_number_of_a_call_can_be_dialled_once(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(1))
    claim(node, account)
    copy = (
        "INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id,"
        " carrier, state, phone_held, fence, worker_id, lease_until, claimed_at, occupies_until)"
        " SELECT gen_random_uuid(), call_id, run_id, account_id, number, phone, caller_id,"
        " carrier, state, :held, fence, worker_id, lease_until, claimed_at, occupies_until"
        " FROM attempts"
    )
    with pytest.raises(IntegrityError, match="attempts_call_id_number_key"):
        do(engine, copy, held=False)
    with pytest.raises(IntegrityError, match=r"attempts_one_held_phone|call_id_number"):
        do(engine, copy, held=True)


def test_a_run_has_each_lead_and_each_phone_once(node, engine):
    account = make_account(engine)
    run = make_run(engine, account, phones(1))
    add = "INSERT INTO calls (run_id, account_id, lead_id, phone) VALUES (:r, :a, :lead, :phone)"
    with pytest.raises(IntegrityError, match="calls_run_id_lead_id_key"):
        do(engine, add, r=run, a=account, lead="lead-0", phone=phone(9))
    with pytest.raises(IntegrityError, match="calls_run_id_phone_key"):
        do(engine, add, r=run, a=account, lead="lead-9", phone=phone(0))


def test_the_next_due_time_is_known_when_time_alone_holds_an_account_back(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(3), calls_per_second=1.0)
    claim(node, account)
    held = claims.claim(node, "twilio", account, 5, 0)
    assert held.calls == ()
    with engine.connect() as connection:
        seconds = claims.seconds_until_due(connection, account, held.seen_at)
    assert 0 < seconds < 1


def test_fences_only_ever_grow(node, engine):
    account = make_account(engine)
    make_run(engine, account, phones(4))
    fences = [claim(node, account, most=1)[0].fence for _ in range(4)]
    assert fences == sorted(set(fences))
    assert len(rows(engine, "SELECT DISTINCT fence FROM attempts")) == 4


def test_the_wait_for_another_claim_of_the_account_is_not_spent_from_the_lease(node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    with engine.connect() as other:
        pace.lock(other, account)
        with in_background(claim, node, account) as claimed:
            wait_for_a_waiter(engine)
            waited_until = clock.boot_seconds()
            other.rollback()
            (call,) = claimed.result(20)
    assert call.lease_ends >= waited_until + node.settings.lease
