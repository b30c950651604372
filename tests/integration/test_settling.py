"""What the carrier says, and what it does to attempts, calls and runs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

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
from outbound import recording, runs, settling
from outbound.carriers.base import Progress
from outbound.states import Decision, Evidence, Kind, Outcome
from races import in_background, wait_for_a_waiter


@pytest.fixture
def account(engine):
    return make_account(engine)


def one_claimed(node, engine, account, **columns):
    run = make_run(engine, account, [phone(1)], **columns)
    (call,) = claim(node, account)
    return run, call


def state_of(engine, call):
    return call_of(engine, call.call_id)["state"], attempt_of(engine, call.attempt_id)["state"]


def word(call, progress=Progress.BUSY):
    return Evidence(call.attempt_id, Kind.WORD, "callback", progress=progress)


def decide(node, call, decision, outcome=None):
    return record(
        node,
        call.attempt_id,
        Kind.DECISION,
        source="operator",
        decision=decision,
        outcome=outcome,
        by="somebody",
    )


def test_a_call_lives_through_ringing_and_answer_to_its_outcome(node, engine, account):
    run, call = one_claimed(node, engine, account)
    record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
    assert state_of(engine, call) == ("live", "placed")
    say(node, call.attempt_id, Progress.RINGING, "CA1")
    say(node, call.attempt_id, Progress.IN_PROGRESS, "CA1")
    assert counters_of(engine, run)["in_progress"] == 1
    say(node, call.attempt_id, Progress.ANSWERED, "CA1", duration=12)
    attempt = attempt_of(engine, call.attempt_id)
    assert state_of(engine, call) == ("completed", "ended")
    assert attempt["outcome"] == "answered"
    assert attempt["duration"] == 12
    assert attempt["ringing_at"] <= attempt["answered_at"] <= attempt["ended_at"]
    assert run_of(engine, run)["status"] == "completed"
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_callback_that_overtakes_the_answer_settles_the_attempt(node, engine, account):
    run, call = one_claimed(node, engine, account)
    say(node, call.attempt_id, Progress.BUSY, "CA1")
    assert state_of(engine, call) == ("completed", "ended")
    record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
    assert state_of(engine, call) == ("completed", "ended")
    assert call_of(engine, call.call_id)["outcome"] == "busy"
    assert run_of(engine, run)["status"] == "completed"


def test_a_final_word_absorbs_replays_older_words_and_other_endings(node, engine, account):
    run, call = one_claimed(node, engine, account)
    say(node, call.attempt_id, Progress.NO_ANSWER, "CA1")
    before = rows(engine, "SELECT * FROM events"), attempt_of(engine, call.attempt_id)
    for word in (Progress.NO_ANSWER, Progress.RINGING, Progress.IN_PROGRESS, Progress.ANSWERED):
        assert not say(node, call.attempt_id, word, "CA1").moved
    assert (rows(engine, "SELECT * FROM events"), attempt_of(engine, call.attempt_id)) == before
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_lost_answer_makes_an_unknown_and_nothing_but_the_carriers_word_moves_it(
    node, engine, account
):
    run, call = one_claimed(node, engine, account)
    record(node, call.attempt_id, Kind.AMBIGUOUS, error="timeout")
    assert state_of(engine, call) == ("unknown", "unknown")
    assert counters_of(engine, run)["unknown"] == 1
    for kind in (Kind.AMBIGUOUS, Kind.LEASE_RAN_OUT, Kind.SILENT):
        assert not record(node, call.attempt_id, kind, fence=call.fence).moved
    assert claim(node, account) == ()
    say(node, call.attempt_id, Progress.ANSWERED, "CA1")
    assert state_of(engine, call) == ("completed", "ended")
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_late_answer_to_our_own_request_leaves_the_unknown(node, engine, account):
    _, call = one_claimed(node, engine, account)
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")
    record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep")
    assert state_of(engine, call) == ("unknown", "unknown")
    record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
    assert state_of(engine, call) == ("live", "placed")


def test_a_worker_that_woke_after_the_sweep_gives_back_what_it_never_sent(node, engine, account):
    run, call = one_claimed(node, engine, account)
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")
    record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep")
    assert not record(node, call.attempt_id, Kind.UNSENT, fence=call.fence - 1).moved
    record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
    assert state_of(engine, call) == ("queued", "released")
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_a_late_not_processed_gives_the_unknown_back(node, engine, account):
    _, call = one_claimed(node, engine, account)
    record(node, call.attempt_id, Kind.AMBIGUOUS)
    record(node, call.attempt_id, Kind.NOT_PROCESSED)
    assert state_of(engine, call) == ("queued", "released")


def test_a_lease_that_has_not_run_out_is_not_swept(node, engine, account):
    _, call = one_claimed(node, engine, account)
    assert not record(node, call.attempt_id, Kind.LEASE_RAN_OUT, source="sweep").moved


def test_only_the_holder_of_the_fence_releases_what_it_never_sent(node, engine, account):
    run, call = one_claimed(node, engine, account)
    assert not record(node, call.attempt_id, Kind.UNSENT, fence=call.fence - 1).moved
    assert state_of(engine, call) == ("dialing", "sending")
    record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
    assert state_of(engine, call) == ("queued", "released")
    assert call_of(engine, call.call_id)["attempts"] == 0
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_after_a_release_the_next_claim_takes_the_next_number(node, engine, account):
    _, call = one_claimed(node, engine, account)
    record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
    do(engine, "UPDATE calls SET next_attempt_at = clock_timestamp()")
    (again,) = claim(node, account)
    assert again.number == 2
    assert call_of(engine, call.call_id)["attempts"] == 1


def test_a_number_refused_for_ever_fails_and_is_never_retried(node, engine, account):
    run, call = one_claimed(node, engine, account, max_attempts=5, retry_on=["failed"])
    record(node, call.attempt_id, Kind.REFUSED_CALLEE, error="21211")
    assert state_of(engine, call) == ("failed", "ended")
    assert run_of(engine, run)["status"] == "completed"


def test_busy_is_retried_as_its_own_attempt_after_the_delay(node, engine, account):
    run, call = one_claimed(node, engine, account, max_attempts=2, retry_delay=60)
    say(node, call.attempt_id, Progress.BUSY, "CA1")
    waiting = one(engine, "SELECT *, next_attempt_at - clock_timestamp() AS wait FROM calls")
    assert (waiting["state"], waiting["waiting_for"]) == ("queued", "retry")
    assert 58 < waiting["wait"].total_seconds() <= 60
    assert claim(node, account) == ()
    do(engine, "UPDATE calls SET next_attempt_at = clock_timestamp()")
    (second,) = claim(node, account)
    assert second.number == 2
    say(node, second.attempt_id, Progress.BUSY, "CA2")
    assert state_of(engine, second) == ("completed", "ended")
    assert counters_of(engine, run)["attempts"] == 2
    assert counters_of(engine, run) == counted_from_rows(engine, run)
    assert run_of(engine, run)["status"] == "completed"


def test_a_late_callback_of_attempt_1_never_ends_attempt_2(node, engine, account):
    run, first = one_claimed(node, engine, account, max_attempts=2, retry_delay=0)
    say(node, first.attempt_id, Progress.BUSY, "CA1")
    (second,) = claim(node, account)
    for word in (Progress.RINGING, Progress.ANSWERED, Progress.FAILED):
        say(node, first.attempt_id, word, "CA1")
    assert state_of(engine, second) == ("dialing", "sending")
    assert counters_of(engine, run)["in_progress"] == 1


def test_a_retry_of_a_run_that_no_longer_dials_takes_its_outcome(node, engine, account):
    run, call = one_claimed(node, engine, account, max_attempts=3)
    do(engine, "UPDATE runs SET cancel_requested = true")
    say(node, call.attempt_id, Progress.BUSY, "CA1")
    assert call_of(engine, call.call_id)["outcome"] == "busy"
    assert run_of(engine, run)["status"] == "cancelled"


def test_a_release_in_a_cancelled_run_cancels_the_call(node, engine, account):
    run, call = one_claimed(node, engine, account)
    do(engine, "UPDATE runs SET cancel_requested = true")
    record(node, call.attempt_id, Kind.NOT_PROCESSED)
    assert call_of(engine, call.call_id)["outcome"] == "cancelled"
    assert run_of(engine, run)["status"] == "cancelled"
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_another_carrier_id_for_the_same_attempt_is_a_stray_and_changes_nothing(
    node, engine, account
):
    _, call = one_claimed(node, engine, account)
    say(node, call.attempt_id, Progress.RINGING, "CA1")
    settled = say(node, call.attempt_id, Progress.RINGING, "CA2")
    assert settled.strays == 1
    assert settled.hang_ups == {account}
    assert attempt_of(engine, call.attempt_id)["carrier_call_id"] == "CA1"
    assert say(node, call.attempt_id, Progress.ANSWERED, "CA2").strays == 0
    stray = one(engine, "SELECT * FROM stray_carrier_calls")
    assert (stray["carrier_call_id"], stray["ended_at"] is not None) == ("CA2", True)


def test_a_word_on_a_released_attempt_is_a_stray(node, engine, account):
    _, call = one_claimed(node, engine, account)
    record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
    assert say(node, call.attempt_id, Progress.RINGING, "CA1").strays == 1
    assert state_of(engine, call) == ("queued", "released")


def test_a_carrier_id_that_another_attempt_has_is_a_conflict_and_dropped(node, engine, account):
    make_run(engine, account, [phone(1), phone(2)])
    first, second = claim(node, account)
    say(node, first.attempt_id, Progress.RINGING, "CA1")
    settled = recording.record(
        node,
        [
            Evidence(
                second.attempt_id,
                Kind.WORD,
                "callback",
                carrier_call_id="CA1",
                progress=Progress.ANSWERED,
            ),
            Evidence(
                first.attempt_id,
                Kind.WORD,
                "callback",
                carrier_call_id="CA1",
                progress=Progress.ANSWERED,
            ),
        ],
    )
    assert set(settled.moved) == {first.attempt_id}
    assert attempt_of(engine, second.attempt_id)["state"] == "sending"


def test_a_carriers_call_belongs_to_one_attempt_also_when_two_hear_of_it_at_once(
    node, engine, account
):
    make_run(engine, account, [phone(1), phone(2)])
    first, second = claim(node, account)
    word = {"carrier_call_id": "CA1", "progress": Progress.RINGING}
    with engine.connect() as earlier:
        transaction = earlier.begin()
        recording.settle_in(
            earlier, node, [Evidence(first.attempt_id, Kind.WORD, "callback", **word)]
        )
        with ThreadPoolExecutor(1) as pool:
            later = pool.submit(say, node, second.attempt_id, Progress.RINGING, "CA1")
            waiting = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            while not one(engine, waiting)["n"]:
                pass
            transaction.commit()
            assert not later.result(10).moved
    assert attempt_of(engine, first.attempt_id)["state"] == "placed"
    assert attempt_of(engine, second.attempt_id)["carrier_call_id"] is None


def test_the_last_two_calls_of_a_run_that_end_at_once_complete_it(node, engine, account):
    for round_ in range(10):
        run = make_run(engine, account, [phone(2 * round_), phone(2 * round_ + 1)])
        calls = claim(node, account)
        barrier = threading.Barrier(2)

        def end(call, barrier=barrier):
            barrier.wait()
            say(node, call.attempt_id, Progress.ANSWERED, f"CA{call.attempt_id}")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(end, calls))
        assert run_of(engine, run)["status"] == "completed"


def test_a_run_is_not_completed_while_a_transaction_that_queues_its_call_is_open(
    node, engine, account
):
    # A decision holds the run's lock. In one UPDATE with NOT EXISTS, the waiting completion would
    # re-check the row but not the sub-query, and complete a run that has a queued call.
    run, call = one_claimed(node, engine, account)
    with engine.begin() as crashed:  # before it could end the run, which looks over since
        recording.settle_in(
            crashed, node, [Evidence(call.attempt_id, Kind.AMBIGUOUS, "answer", error="timeout")]
        )
    not_placed = Evidence(
        call.attempt_id, Kind.DECISION, "operator", decision=Decision.NOT_PLACED, by="somebody"
    )
    with engine.connect() as decision:
        transaction = decision.begin()
        recording.settle_in(decision, node, [not_placed])
        with in_background(runs.advance, node, {run}) as ending:
            wait_for_a_waiter(engine)
            transaction.commit()
            assert ending.result(10) == []
    assert run_of(engine, run)["status"] == "running"


def test_two_last_calls_that_commit_before_either_looks_complete_their_run_once(
    node, engine, account, monkeypatch
):
    run = make_run(engine, account, [phone(1), phone(2)])
    calls = claim(node, account)
    both_committed, look = threading.Barrier(2), runs._look_over

    def look_late(*given):
        both_committed.wait(60)
        return look(*given)

    monkeypatch.setattr(runs, "_look_over", look_late)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda call: say(node, call.attempt_id, Progress.BUSY, None), calls))
    assert run_of(engine, run)["status"] == "completed"
    assert len(rows(engine, "SELECT * FROM events WHERE event = 'run_completed'")) == 1


def test_a_last_call_that_sees_another_one_open_leaves_the_end_to_its_committer(
    node, engine, account
):
    run = make_run(engine, account, [phone(1), phone(2)])
    first, last = claim(node, account)
    with engine.connect() as later:
        transaction = later.begin()
        # As another process: two of this one would take turns at its counters' row.
        here = {"worker_id": node.worker_id, "source": node.source, "shard": node.shard ^ 1}
        settling.apply(later, [word(last)], **here)
        assert say(node, first.attempt_id, Progress.BUSY, None).touched == {run}
        assert run_of(engine, run)["status"] == "running"
        transaction.commit()
    assert [ended.run_id for ended in runs.advance(node, {run})] == [run]


def test_a_call_that_ends_while_others_of_its_run_are_open_waits_for_no_lock_of_the_run(
    node, engine, account
):
    run = make_run(engine, account, [phone(1), phone(2)])
    first, _ = claim(node, account)
    with engine.begin() as holder:
        holder.execute(settling.LOCK_RUNS, {"ids": [run]})
        with in_background(say, node, first.attempt_id, Progress.BUSY, None) as settled:
            assert settled.result(4).touched == {run}  # a wait for the lock is given up after 5 s


def test_parallel_callbacks_of_one_call_count_once(node, engine, account):
    run, call = one_claimed(node, engine, account)
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: say(node, call.attempt_id, Progress.ANSWERED, "CA1"), range(10)))
    assert counters_of(engine, run)["answered"] == 1
    assert len(rows(engine, "SELECT * FROM events WHERE call_id IS NOT NULL")) == 1


def test_the_counters_add_up_while_everything_moves_at_once(node, engine, account):
    run = make_run(engine, account, [phone(i) for i in range(60)], max_attempts=2, retry_delay=0)
    words = [Progress.ANSWERED, Progress.BUSY, Progress.NO_ANSWER, Progress.FAILED]

    def work(seed):
        for turn in range(12):
            for call in claim(node, account, most=3):
                word = words[(seed + turn) % 4]
                say(node, call.attempt_id, Progress.RINGING, f"CA{call.attempt_id}")
                say(node, call.attempt_id, word, f"CA{call.attempt_id}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert counters_of(engine, run) == counted_from_rows(engine, run)
    assert (
        sum(
            counters_of(engine, run)[n]
            for n in ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")
        )
        == 60
    )


class TestDecisions:
    def test_placed_settles_with_the_outcome_given(self, node, engine, account):
        run, call = one_claimed(node, engine, account, max_attempts=3)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        decide(node, call, Decision.PLACED, Outcome.BUSY)
        assert state_of(engine, call) == ("completed", "ended")
        assert run_of(engine, run)["status"] == "completed"

    def test_not_placed_does_not_count_and_the_call_is_queued_again(self, node, engine, account):
        _, call = one_claimed(node, engine, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        decide(node, call, Decision.NOT_PLACED)
        assert state_of(engine, call) == ("queued", "released")
        assert call_of(engine, call.call_id)["attempts"] == 0

    def test_redial_counts_and_the_call_is_dialled_once_more(self, node, engine, account):
        _, call = one_claimed(node, engine, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        settled = decide(node, call, Decision.REDIAL)
        assert settled.redialled == 1
        assert attempt_of(engine, call.attempt_id)["outcome"] is None
        (again,) = claim(node, account)
        assert call_of(engine, again.call_id)["attempts"] == 2

    def test_a_completed_run_is_reopened_by_a_requeueing_decision(self, node, engine, account):
        run, call = one_claimed(node, engine, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        assert run_of(engine, run)["status"] == "completed"
        decide(node, call, Decision.NOT_PLACED)
        assert run_of(engine, run)["status"] == "running"
        assert run_of(engine, run)["ended_at"] is None
        assert len(claim(node, account)) == 1

    def test_in_a_cancelled_run_the_call_takes_its_last_outcome(self, node, engine, account):
        run, call = one_claimed(node, engine, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        do(engine, "UPDATE runs SET cancel_requested = true, status = 'cancelled'")
        decide(node, call, Decision.REDIAL)
        assert call_of(engine, call.call_id)["outcome"] == "cancelled"
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    @pytest.mark.parametrize("decision", [Decision.PLACED, Decision.NOT_PLACED, Decision.REDIAL])
    def test_the_carriers_later_word_corrects_a_decision(self, node, engine, account, decision):
        run, call = one_claimed(node, engine, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        decide(node, call, decision, Outcome.BUSY if decision is Decision.PLACED else None)
        say(node, call.attempt_id, Progress.RINGING, "CA1")
        assert state_of(engine, call) == ("live", "placed")
        say(node, call.attempt_id, Progress.ANSWERED, "CA1")
        assert state_of(engine, call) == ("completed", "ended")
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["outcome"], attempt["decision_stands"]) == ("answered", False)
        assert attempt["decided_by"] == "somebody"
        assert attempt["phone_held"] is False
        assert claim(node, account) == ()
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_a_late_answered_of_an_older_attempt_ends_a_call_that_waits_for_its_retry(
        self, node, engine, account
    ):
        run, first = one_claimed(node, engine, account, max_attempts=3)
        record(node, first.attempt_id, Kind.AMBIGUOUS)
        decide(node, first, Decision.REDIAL)
        (second,) = claim(node, account)
        say(node, second.attempt_id, Progress.BUSY, "CA2")
        assert state_of(engine, second)[0] == "queued"
        say(node, first.attempt_id, Progress.ANSWERED, "CA1")
        assert call_of(engine, first.call_id)["outcome"] == "answered"
        assert run_of(engine, run)["status"] == "completed"
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_evidence_against_a_redial_leaves_the_later_attempt_alone(self, node, engine, account):
        run, first = one_claimed(node, engine, account)
        record(node, first.attempt_id, Kind.AMBIGUOUS)
        decide(node, first, Decision.REDIAL)
        (second,) = claim(node, account)
        say(node, first.attempt_id, Progress.ANSWERED, "CA1")
        assert state_of(engine, second) == ("dialing", "sending")
        assert attempt_of(engine, first.attempt_id)["outcome"] == "answered"
        say(node, second.attempt_id, Progress.ANSWERED, "CA2")
        assert counters_of(engine, run) == counted_from_rows(engine, run)
        assert run_of(engine, run)["status"] == "completed"
