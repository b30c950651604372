"""Every move that evidence may and may not make, without a database."""

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest

from outbound.carriers.base import Progress
from outbound.states import (
    Attempt,
    AttemptState,
    Call,
    CallState,
    Decision,
    Evidence,
    Kind,
    Outcome,
    Policy,
    judge,
    settle,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = UUID(int=1)
RUN = Policy(dials=True, max_attempts=3, retry_delay=60, retry_on=("busy",), ring_timeout=30)
S = AttemptState


def attempt(state=S.SENDING, **known):
    over = state in (S.ENDED, S.RELEASED)
    values = {
        "id": ID,
        "call_id": 1,
        "number": 1,
        "state": state,
        "outcome": None,
        "carrier_call_id": "CA1" if state is S.PLACED else None,
        "phone_held": not over,
        "fence": 7,
        "lease_until": NOW + timedelta(seconds=10),
        "claimed_at": NOW,
        "placed_at": None,
        "ringing_at": None,
        "answered_at": None,
        "unknown_at": None,
        "ended_at": NOW if over else None,
        "duration": None,
        "error": None,
        "heard_at": None,
        "decision": None,
        "decided_by": None,
        "decision_stands": False,
        "next_lookup_at": None,
        "lookups_fail_since": None,
    }
    return Attempt(**(values | known))


def word(progress, sid="CA1", **known):
    return Evidence(ID, Kind.WORD, "callback", carrier_call_id=sid, progress=progress, **known)


def after(one, evidence, now=NOW):
    move = judge(one, evidence, now, 30)
    return move.attempt.state if move.attempt else move.stray


MOVES = {
    (S.SENDING, Kind.REFUSED_CALLEE): S.ENDED,
    (S.UNKNOWN, Kind.REFUSED_CALLEE): S.ENDED,
    (S.SENDING, Kind.NOT_PROCESSED): S.RELEASED,
    (S.UNKNOWN, Kind.NOT_PROCESSED): S.RELEASED,
    (S.SENDING, Kind.AMBIGUOUS): S.UNKNOWN,
    (S.SENDING, Kind.UNSENT): S.RELEASED,
    (S.UNKNOWN, Kind.UNSENT): S.RELEASED,
    (S.PLACED, Kind.SILENT): S.UNKNOWN,
    (S.UNKNOWN, Kind.DECISION): S.RELEASED,
}


@pytest.mark.parametrize(
    ("state", "kind"), list(product(S, sorted(set(Kind) - {Kind.WORD, Kind.PHONE_BACK})))
)
def test_what_is_not_the_carriers_word_moves_only_what_it_may(state, kind):
    evidence = Evidence(ID, kind, "x", fence=7, decision=Decision.NOT_PLACED)
    assert after(attempt(state), evidence) == MOVES.get((state, kind))


@pytest.mark.parametrize("progress", list(Progress))
def test_the_carriers_word_moves_every_open_attempt(progress):
    for state in (S.SENDING, S.PLACED, S.UNKNOWN):
        expected = S.ENDED if progress.is_final else S.PLACED
        replayed = state is S.PLACED and progress is Progress.QUEUED
        assert after(attempt(state), word(progress)) == (None if replayed else expected)


@pytest.mark.parametrize("progress", list(Progress))
def test_what_ended_by_the_carrier_stays_as_it_is(progress):
    assert after(attempt(S.ENDED, carrier_call_id="CA1"), word(progress)) is None


@pytest.mark.parametrize(("state", "progress"), list(product((S.ENDED, S.RELEASED), Progress)))
def test_the_carriers_word_overrules_a_standing_decision_once(state, progress):
    decided = attempt(state, decision_stands=True, decision=Decision.PLACED)
    moved = judge(decided, word(progress), NOW, 30).attempt
    assert moved.state is (S.ENDED if progress.is_final else S.PLACED)
    assert not moved.decision_stands
    assert not moved.phone_held
    assert (moved.ended_at is None) == (not progress.is_final)


def test_a_word_on_a_released_attempt_or_with_another_id_is_a_stray():
    assert after(attempt(S.RELEASED), word(Progress.RINGING)) == "word_on_released"
    assert after(attempt(S.PLACED), word(Progress.RINGING, "CA2")) == "another_carrier_id"
    assert after(attempt(S.ENDED, carrier_call_id="CA1"), word(Progress.BUSY, "CA2")) == (
        "another_carrier_id"
    )


def test_a_match_by_number_never_makes_a_stray():
    for one in (attempt(S.RELEASED), attempt(S.PLACED)):
        assert after(one, word(Progress.BUSY, "CA2")._replace(matched_by_number=True)) is None


def test_a_lease_is_swept_only_after_it_ran_out():
    sweep = Evidence(ID, Kind.LEASE_RAN_OUT, "sweep")
    assert after(attempt(), sweep) is None
    assert after(attempt(), sweep, NOW + timedelta(seconds=11)) is S.UNKNOWN


def test_another_claims_fence_releases_nothing():
    assert after(attempt(), Evidence(ID, Kind.UNSENT, "answer", fence=6)) is None


def test_nobody_says_not_placed_of_a_call_that_the_carrier_named():
    known = attempt(S.UNKNOWN, carrier_call_id="CA1")
    assert (
        after(known, Evidence(ID, Kind.DECISION, "operator", decision=Decision.NOT_PLACED)) is None
    )
    assert after(known, Evidence(ID, Kind.NOT_PROCESSED, "answer")) is None


def test_the_authors_rule_redials_only_what_nobody_ever_heard_of():
    rule = Evidence(ID, Kind.DECISION, "policy", decision=Decision.REDIAL)
    assert after(attempt(S.UNKNOWN), rule) is S.ENDED
    assert after(attempt(S.UNKNOWN, heard_at=NOW), rule) is None
    assert after(attempt(S.UNKNOWN, carrier_call_id="CA1"), rule) is None


CALL = Call(1, CallState.DIALING, None, 1, NOW, None)


def settled(moved, *others, run=RUN, requeue_in=None):
    counted = sorted(
        [a for a in (*others, moved) if a.state is not S.RELEASED], key=lambda a: a.number
    )
    return settle(CALL, moved, counted, run, NOW, requeue_in)


def ended(outcome, number=1, **known):
    return attempt(S.ENDED, outcome=outcome, number=number, carrier_call_id="CA1", **known)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.ANSWERED, "completed"),
        (Outcome.BUSY, "completed"),
        (Outcome.NO_ANSWER, "completed"),
        (Outcome.FAILED, "failed"),
        (Outcome.CANCELLED, "cancelled"),
    ],
)
def test_each_outcome_has_its_state(outcome, state):
    call = settled(ended(outcome), run=RUN._replace(retry_on=()))
    assert (call.state, call.outcome) == (state, outcome)


def test_a_retry_waits_its_delay_and_stops_at_the_most_attempts():
    call = settled(ended(Outcome.BUSY))
    assert (call.state, call.waiting_for) == (CallState.QUEUED, "retry")
    assert call.next_attempt_at == NOW + timedelta(seconds=60)
    third = settled(ended(Outcome.BUSY, 3), ended(Outcome.BUSY, 1), ended(Outcome.BUSY, 2))
    assert third.state is CallState.COMPLETED


def test_a_release_looks_at_the_attempt_before_it_first():
    released = attempt(S.RELEASED, number=2)
    for before, state in (
        (attempt(S.PLACED), CallState.LIVE),
        (attempt(S.UNKNOWN), CallState.UNKNOWN),
        (ended(Outcome.ANSWERED), CallState.COMPLETED),
        (ended(Outcome.BUSY), CallState.QUEUED),
        (ended(None, decision_stands=True), CallState.QUEUED),
    ):
        assert settled(released, before).state is state
    assert settled(released).state is CallState.QUEUED


def test_a_later_attempt_keeps_its_call():
    call = settled(ended(Outcome.ANSWERED), attempt(S.SENDING, number=2))
    assert (call.state, call.outcome) == (CallState.DIALING, None)


def test_news_of_an_old_attempt_do_not_move_the_retry_of_a_later_one():
    waiting = CALL._replace(
        state=CallState.QUEUED,
        waiting_for="retry",
        next_attempt_at=NOW + timedelta(seconds=60),
        attempts=2,
    )
    first, second = ended(Outcome.NO_ANSWER), ended(Outcome.BUSY, 2)
    assert settle(waiting, first, [first, second], RUN, NOW, None) == waiting


def test_whoever_answered_an_earlier_attempt_after_all_is_not_called_again():
    first, second = ended(Outcome.ANSWERED), ended(Outcome.BUSY, 2)
    live = CALL._replace(state=CallState.LIVE, attempts=2)
    waiting = live._replace(state=CallState.QUEUED, waiting_for="retry")
    late_word = settle(waiting, first, [first, second], RUN, NOW, None)
    end_of_second = settle(live, second, [first, second], RUN, NOW, None)
    for call in (late_word, end_of_second):
        assert (call.state, call.outcome) == (CallState.COMPLETED, Outcome.ANSWERED)
        assert call.waiting_for is None


def test_a_run_that_no_longer_dials_queues_nothing():
    over = RUN._replace(dials=False)
    assert settled(ended(Outcome.BUSY), run=over).outcome is Outcome.BUSY
    assert settled(attempt(S.RELEASED), run=over).outcome is Outcome.CANCELLED
    assert settled(ended(None, decision_stands=True), run=over).outcome is Outcome.CANCELLED


def test_an_outcome_that_a_person_gave_is_not_dialled_again():
    call = settled(ended(Outcome.BUSY, decision_stands=True))
    assert call.state is CallState.COMPLETED
