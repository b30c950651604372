"""Attempts that are alike are judged once, and each gets what was said of it."""

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
    phone,
    rows,
    run_of,
)
from outbound import recording, states
from outbound.carriers.base import Progress
from outbound.states import Evidence, Kind, Outcome

CALLS = 9
RETRIES = {"max_attempts": 3, "retry_on": ["busy"], "retry_delay": 0}


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def run(engine, account):
    return make_run(engine, account, [phone(n) for n in range(CALLS)], **RETRIES)


@pytest.fixture
def calls(node, account, run):
    return claim(node, account)


def accepted(call, sid=None):
    sid = sid or f"CA{call.call_id}"
    known = {"carrier_call_id": sid, "progress": Progress.QUEUED}
    return Evidence(call.attempt_id, Kind.WORD, "answer", **known)


def refused(call):
    return Evidence(call.attempt_id, Kind.REFUSED_CALLEE, "answer", error="no such number")


def unsent(call):
    return Evidence(call.attempt_id, Kind.UNSENT, "answer", fence=call.fence)


def ambiguous(call):
    return Evidence(call.attempt_id, Kind.AMBIGUOUS, "answer", error="timeout")


def ended(call, progress, **known):
    known |= {"carrier_call_id": f"CA{call.call_id}", "progress": progress}
    return Evidence(call.attempt_id, Kind.WORD, "callback", **known)


def state_of(engine, call):
    return call_of(engine, call.call_id)["state"], attempt_of(engine, call.attempt_id)["state"]


def test_each_attempt_of_a_claim_gets_the_answer_that_was_its_own(node, engine, run, calls):
    says = [accepted, refused, unsent, ambiguous, accepted, refused, unsent, ambiguous, accepted]
    settled = recording.record(node, [say(call) for say, call in zip(says, calls, strict=True)])
    becomes = {
        accepted: ("live", "placed"),
        refused: ("failed", "ended"),
        unsent: ("queued", "released"),
        ambiguous: ("unknown", "unknown"),
    }
    assert [state_of(engine, call) for call in calls] == [becomes[say] for say in says]
    assert settled.moved == {call.attempt_id for call in calls}
    assert (settled.ended, settled.unknown) == (2, 2)
    assert settled.outcomes == {(Outcome.FAILED, "answer"): 2}
    for call in (calls[0], calls[4], calls[8]):
        assert attempt_of(engine, call.attempt_id)["carrier_call_id"] == f"CA{call.call_id}"
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_what_is_alike_is_judged_once(node, calls, monkeypatch):
    judged = []

    def judge(attempt, *rest):
        judged.append(attempt.id)
        return states.judge(attempt, *rest)

    monkeypatch.setattr("outbound.settling.judge", judge)
    recording.record(node, [refused(call) for call in calls[:5]] + [unsent(calls[5])])
    assert len(judged) == 2


def test_a_carrier_id_that_is_said_of_two_of_them_is_the_first_ones(node, engine, run, calls):
    settled = recording.record(
        node, [accepted(calls[0]), accepted(calls[1], "CA-same"), accepted(calls[2], "CA-same")]
    )
    assert settled.taken == 1
    assert [state_of(engine, call)[1] for call in calls[:3]] == ["placed", "placed", "sending"]
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_what_is_said_twice_of_one_of_them_is_taken_in_its_order(node, engine, run, calls):
    first, second, third = calls[:3]
    over = ended(second, Progress.ANSWERED, duration=7)
    unclear = [ambiguous(call) for call in calls[2:]]
    recording.record(node, [accepted(first), accepted(second), over, *unclear, unsent(third)])
    found = [state_of(engine, call) for call in calls[:4]]
    assert found == [
        ("live", "placed"),
        ("completed", "ended"),
        ("queued", "released"),
        ("unknown", "unknown"),
    ]
    assert attempt_of(engine, second.attempt_id)["duration"] == 7
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_those_that_were_dialled_before_are_judged_with_their_earlier_attempts(
    node, engine, account, run, calls
):
    recording.record(node, [accepted(call) for call in calls])
    recording.record(node, [ended(call, Progress.BUSY) for call in calls])
    again = claim(node, account)
    assert {call.call_id for call in again} == {call.call_id for call in calls}
    recording.record(node, [refused(again[0]), *(unsent(call) for call in again[1:])])
    assert state_of(engine, again[0]) == ("failed", "ended")
    counted = rows(engine, "SELECT attempts FROM calls ORDER BY state = 'failed' DESC")
    assert [row["attempts"] for row in counted] == [2, *[1] * (CALLS - 1)]
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_each_of_them_has_its_own_events(node, engine, calls):
    recording.record(node, [ambiguous(call) for call in calls])
    told = rows(engine, "SELECT call_id, attempt_id FROM events WHERE event = 'attempt_unknown'")
    assert {(row["call_id"], row["attempt_id"]) for row in told} == {
        (call.call_id, call.attempt_id) for call in calls
    }


def test_late_words_about_released_attempts_are_a_stray_each(node, engine, calls):
    recording.record(node, [unsent(call) for call in calls])
    settled = recording.record(node, [accepted(call) for call in calls])
    assert settled.strays == CALLS
    strays = rows(engine, "SELECT attempt_id, carrier_call_id FROM stray_carrier_calls")
    assert {(row["attempt_id"], row["carrier_call_id"]) for row in strays} == {
        (call.attempt_id, f"CA{call.call_id}") for call in calls
    }


def test_a_carrier_id_that_another_attempt_has_is_refused_to_one_of_them(node, engine, calls):
    recording.record(node, [accepted(calls[0], "CA-first")])
    settled = recording.record(
        node, [accepted(calls[1], "CA-first"), *(accepted(call) for call in calls[2:])]
    )
    assert settled.taken == 1
    assert settled.moved == {call.attempt_id for call in calls[2:]}
    assert state_of(engine, calls[1]) == ("dialing", "sending")


def test_each_phone_that_falls_free_wakes_who_waits_for_it(node, engine, account, calls):
    other = make_run(engine, account, [phone(n) for n in range(CALLS)])
    assert not claim(node, account)
    waiting = "SELECT waiting_for FROM calls WHERE run_id = :run"
    assert [row["waiting_for"] for row in rows(engine, waiting, run=other)] == ["phone"] * CALLS
    recording.record(node, [refused(call) for call in calls[1:]])
    left = [row["waiting_for"] for row in rows(engine, waiting, run=other)]
    assert sorted(left, key=str) == [*[None] * (CALLS - 1), "phone"]


def test_those_of_an_expired_run_are_ended_not_queued_again(node, engine, run, calls):
    do(engine, "UPDATE runs SET expires_at = clock_timestamp() - interval '1 s'")
    recording.record(node, [unsent(call) for call in calls])
    assert {state_of(engine, call) for call in calls} == {("cancelled", "released")}
    assert run_of(engine, run)["status"] == "expired"
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_what_became_of_them_is_counted_for_all(node, calls):
    recording.record(node, [accepted(call) for call in calls])
    settled = recording.record(node, [refused(calls[0])])
    assert not settled.moved  # somebody heard of it before
    settled = recording.record(node, [ended(call, Progress.NO_ANSWER) for call in calls])
    assert settled.outcomes == {(Outcome.NO_ANSWER, "callback"): CALLS}
    assert len(settled.first_callbacks) == settled.ended == CALLS
