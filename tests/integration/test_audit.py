"""The audit: every way in which our record and the carrier's may differ is found."""

from uuid import uuid4

import pytest

from factories import (
    CALLER_ID,
    FakeCarrier,
    attempt_of,
    claim,
    do,
    make_account,
    make_run,
    phone,
    record,
    say,
)
from outbound import audit
from outbound.accounts import Caller
from outbound.carriers.base import CarrierCall, CarrierUnavailable, Progress
from outbound.errors import Refused
from outbound.states import Decision, Kind, Outcome
from outbound.unknowns import resolve


class Case:
    """One run of one call, dialled and answered, and a carrier that has it on its list."""

    def __init__(self, node):
        self.node, self.carrier = node, FakeCarrier()
        self.account = make_account(node.engine)
        self.run = make_run(node.engine, self.account, [phone(1)])
        (self.claimed,) = claim(node, self.account)
        self.attempt = self.claimed.attempt_id

    def is_answered(self, sid="CA1"):
        say(self.node, self.attempt, Progress.ANSWERED, sid)
        self.carrier_has(sid, tag=self.attempt)
        return self

    def is_unknown(self):
        record(self.node, self.attempt, Kind.AMBIGUOUS, error="timeout")
        return self

    def is_decided(self, decision, outcome=None):
        who = Caller(account_id=self.account, key_id=uuid4(), role="operator", request_id="r")
        call = attempt_of(self.node.engine, self.attempt).call_id
        resolve(
            self.node,
            self.account,
            self.run,
            call,
            decision,
            outcome=outcome,
            note=None,
            force=True,
            who=who,
        )
        return self

    def carrier_has(self, sid, progress=Progress.ANSWERED, tag=None, **known):
        call = CarrierCall(sid, progress, phone(1), CALLER_ID, **known)
        self.carrier.calls[sid] = call
        if tag:
            self.carrier.tags[sid] = tag
        return self

    def kinds(self):
        compared, found = audit.audit(self.node.engine, self.carrier, self.run)
        assert compared == 1
        return [one.kind for one in found]


@pytest.fixture
def case(node):
    return Case(node)


def test_two_records_that_agree(case):
    assert case.is_answered().kinds() == []


def test_a_call_that_the_carrier_does_not_have(case):
    case.is_answered().carrier.calls.clear()
    assert case.kinds() == ["carrier_does_not_know"]


def test_a_second_call_of_one_attempt_is_a_double(case):
    assert case.is_answered().carrier_has("CA2", tag=case.attempt).kinds() == ["double"]


def test_a_call_to_the_lead_that_no_attempt_has(case):
    assert case.is_answered().carrier_has("CA2").kinds() == ["we_do_not_know"]


def test_a_call_that_a_person_made_is_none_of_ours(case):
    assert case.is_answered().carrier_has("CA2", placed_by_api=False).kinds() == []


def test_another_outcome(case):
    assert case.is_answered().carrier_has("CA1", Progress.BUSY).kinds() == ["wrong_outcome"]


def test_a_call_that_ended_without_our_hearing_of_it(case):
    say(case.node, case.attempt, Progress.RINGING, "CA1")
    assert case.carrier_has("CA1", tag=case.attempt).kinds() == ["still_open"]


def test_an_unknown_of_which_the_carrier_has_no_call_is_no_difference(case):
    assert case.is_unknown().kinds() == []


def test_an_unknown_that_did_take_place(case):
    assert case.is_unknown().carrier_has("CA9", tag=case.attempt).kinds() == ["we_do_not_know"]


def test_a_persons_placed_that_the_carrier_does_not_bear_out(case):
    case.is_unknown().is_decided(Decision.PLACED, Outcome.ANSWERED)
    assert case.kinds() == ["carrier_does_not_know"]


@pytest.mark.parametrize("decision", [Decision.NOT_PLACED, Decision.REDIAL])
def test_a_decision_that_claims_no_call_needs_none(case, decision):
    assert case.is_unknown().is_decided(decision).kinds() == []


def test_a_call_not_placed_by_decision_that_took_place_after_all(case):
    case.is_unknown().is_decided(Decision.NOT_PLACED)
    assert case.carrier_has("CA9", tag=case.attempt).kinds() == ["we_do_not_know"]


def test_a_counter_that_the_rows_do_not_bear_out(case):
    case.is_answered()
    do(case.node.engine, "UPDATE run_counters SET answered = answered + 1")
    assert case.kinds() == ["counter_differs"]


def test_a_carrier_that_does_not_answer_is_told_and_not_passed_over(case):
    def find(**_):
        raise CarrierUnavailable("it is away")

    case.is_answered().carrier.find = find
    assert case.kinds() == ["carrier_unavailable"]


def test_a_call_of_another_run_is_known_to_us(case):
    case.is_answered()
    make_run(case.node.engine, case.account, [phone(1)])
    (other,) = claim(case.node, case.account)
    say(case.node, other.attempt_id, Progress.ANSWERED, "CA5")
    assert case.carrier_has("CA5", tag=other.attempt_id).kinds() == []


def test_a_run_that_does_not_exist_is_refused(node):
    with pytest.raises(Refused):
        audit.audit(node.engine, FakeCarrier(), uuid4())
