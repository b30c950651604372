"""The audit: every way in which our record and the carrier's may differ is found, and mended."""

import json
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from uuid import uuid4

import pytest
from click.testing import CliRunner

from factories import (
    CALLER_ID,
    FakeCarrier,
    attempt_of,
    call_of,
    claim,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    make_run,
    phone,
    record,
    rows,
    run_of,
    say,
)
from outbound import audit, calls, cli
from outbound.accounts import Caller
from outbound.carriers import base
from outbound.carriers.base import CarrierCall, CarrierUnavailable, Progress
from outbound.errors import Refused
from outbound.ids import uuid7
from outbound.states import Decision, Kind, Outcome
from outbound.unknowns import resolve

AWAY = CarrierUnavailable("it is away")
OTHERS = CarrierCall("CA0", Progress.ANSWERED, phone(99), CALLER_ID)


class ListingCarrier(FakeCarrier):
    """A carrier that lists everything at once, too, and counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def calls_from(self, caller_id, since):
        self.asked.append("calls_from")
        yield from [c for c in self.calls.values() if c.caller_id == caller_id]

    def find(self, **wanted):
        self.asked.append("find")
        return super().find(**wanted)


class Case:
    """One run of one call, dialled, and a carrier whose list the test fills."""

    def __init__(self, node, **columns):
        self.node, self.carrier = node, FakeCarrier()
        self.account = make_account(node.engine)
        self.run = make_run(node.engine, self.account, [phone(1)], **columns)
        self.dial()

    def dial(self):
        (claimed,) = claim(self.node, self.account)
        self.attempt = claimed.attempt_id
        self.call = self.row.call_id
        return self

    @property
    def row(self):
        return attempt_of(self.node.engine, self.attempt)

    def is_answered(self, sid="CA1"):
        say(self.node, self.attempt, Progress.ANSWERED, sid)
        self.carrier_has(sid, tag=self.attempt)
        return self

    def is_unknown(self):
        record(self.node, self.attempt, Kind.AMBIGUOUS, error="timeout")
        return self

    def is_silent(self, sid="CA1"):
        say(self.node, self.attempt, Progress.RINGING, sid)
        record(self.node, self.attempt, Kind.SILENT, source="look_up")
        return self

    def is_decided(self, decision, outcome=None):
        who = Caller(account_id=self.account, key_id=uuid4(), role="operator", request_id="r")
        resolve(
            self.node,
            self.account,
            self.run,
            self.call,
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

    def audit(self):
        return audit.audit(self.node.engine, self.carrier, self.run)

    def kinds(self):
        return [one.kind for one in self.audit().differences]

    def repair(self):
        """Repair, and show each kind with whether it was repaired."""
        report = audit.repair(self.node, self.carrier, self.run)
        return [(one.kind, one.repaired) for one in report.differences]

    def told(self):
        """Events of the call's timeline that the audit wrote."""
        with self.node.engine.connect() as connection:
            shown = calls.one(connection, self.account, self.run, str(self.call))
        return [entry["event"] for entry in shown["timeline"] if entry["source"] == "audit"]

    def strays(self):
        return rows(self.node.engine, "SELECT * FROM stray_carrier_calls")


@pytest.fixture
def case(node):
    return Case(node)


def now():
    return datetime.now(UTC)


def test_two_records_that_agree(case):
    report = case.is_answered().audit()
    assert (report.attempts, report.differences, report.agrees) == (1, [], True)


def test_a_call_that_the_carrier_does_not_have(case):
    case.is_answered().carrier.calls.clear()
    assert case.kinds() == ["carrier_does_not_know"]


def test_a_second_call_of_one_attempt_is_a_double(case):
    assert case.is_answered().carrier_has("CA2", tag=case.attempt).kinds() == ["double"]


def test_a_double_that_its_callback_told_of_is_still_one(case):
    case.is_answered().carrier_has("CA2", tag=case.attempt)
    say(case.node, case.attempt, Progress.ANSWERED, "CA2")
    assert case.kinds() == ["double"]


def test_a_call_to_the_lead_that_no_attempt_has(case):
    assert case.is_answered().carrier_has("CA2").kinds() == ["we_do_not_know"]


def test_a_call_to_a_lead_that_was_never_dialled(node):
    case = Case(node)
    case.is_answered().run = make_run(node.engine, case.account, [phone(2)])
    case.carrier.calls["CA2"] = CarrierCall("CA2", Progress.ANSWERED, phone(2), CALLER_ID)
    assert case.kinds() == ["we_do_not_know"]


def test_a_call_of_an_attempt_that_was_lost_with_a_database(case):
    case.is_answered().carrier_has("CA2", tag=uuid7())
    assert case.kinds() == ["we_do_not_know"]
    assert case.repair() == [("we_do_not_know", False)]
    assert case.strays() == []


@pytest.mark.parametrize("known", [{"placed_by_api": False}, {"created_at": now() + timedelta(2)}])
def test_a_call_that_a_person_made_or_of_another_time_is_none_of_ours(case, known):
    assert case.is_answered().carrier_has("CA2", **known).kinds() == []


def test_another_outcome(case):
    assert case.is_answered().carrier_has("CA1", Progress.BUSY).kinds() == ["wrong_outcome"]


def test_a_call_that_ended_without_our_hearing_of_it(case):
    say(case.node, case.attempt, Progress.RINGING, "CA1")
    assert case.carrier_has("CA1", tag=case.attempt).kinds() == ["still_open"]


def test_a_silent_call_that_the_carrier_knows_of(case):
    case.is_silent().carrier_has("CA1", Progress.IN_PROGRESS, case.attempt)
    assert case.kinds() == ["still_unknown"]


def test_an_unknown_of_which_the_carrier_has_no_call_is_no_difference(case):
    assert case.is_unknown().kinds() == []


def test_an_unknown_that_did_take_place(case):
    assert case.is_unknown().carrier_has("CA9", tag=case.attempt).kinds() == ["we_do_not_know"]


def test_a_call_whose_request_is_on_the_wire_is_no_difference(case):
    case.carrier_has("CA1", Progress.RINGING, case.attempt)
    assert case.kinds() == []
    do(case.node.engine, "UPDATE attempts SET lease_until = clock_timestamp()")
    assert case.kinds() == ["we_do_not_know"]


def test_a_persons_placed_that_the_carrier_does_not_bear_out(case):
    case.is_unknown().is_decided(Decision.PLACED, Outcome.ANSWERED)
    assert case.kinds() == ["carrier_does_not_know"]


@pytest.mark.parametrize("decision", [Decision.NOT_PLACED, Decision.REDIAL])
def test_a_decision_that_claims_no_call_needs_none(case, decision):
    assert case.is_unknown().is_decided(decision).kinds() == []


def test_a_call_not_placed_by_decision_that_took_place_after_all(case):
    case.is_unknown().is_decided(Decision.NOT_PLACED)
    assert case.carrier_has("CA9", tag=case.attempt).kinds() == ["we_do_not_know"]


def test_a_lead_that_was_called_more_often_than_its_run_means(node):
    case = Case(node, max_attempts=2, retry_delay=0)
    say(node, case.attempt, Progress.BUSY, "CA1")
    case.carrier_has("CA1", Progress.BUSY, case.attempt).dial().is_answered("CA2")
    assert case.kinds() == []
    do(node.engine, "UPDATE runs SET max_attempts = 1")
    (found,) = case.audit().differences
    assert (found.kind, found.ours, found.carriers) == ("called_too_often", "1 meant", "2 calls")
    assert case.repair() == [("called_too_often", False)]


def test_a_redial_that_was_decided_is_meant(case):
    case.is_silent().carrier_has("CA1", tag=case.attempt).is_decided(Decision.REDIAL)
    assert case.repair() == [("wrong_outcome", True)]
    do(case.node.engine, "UPDATE calls SET state = 'queued', outcome = NULL")
    do(case.node.engine, "UPDATE runs SET status = 'running', ended_at = NULL")
    assert "called_too_often" not in case.dial().is_answered("CA2").kinds()


def test_a_counter_that_the_rows_do_not_bear_out(case):
    case.is_answered()
    do(case.node.engine, "UPDATE run_counters SET answered = answered + 1")
    assert case.kinds() == ["counter_differs"]


def test_an_attempt_of_another_carrier_is_told_and_not_passed_over(case):
    case.is_answered()
    do(case.node.engine, "UPDATE attempts SET carrier = 'elsewhere'")
    assert "another_carrier" in case.kinds()


def test_a_call_of_another_run_is_known_to_us(case):
    case.is_answered()
    make_run(case.node.engine, case.account, [phone(1)])
    (other,) = claim(case.node, case.account)
    say(case.node, other.attempt_id, Progress.ANSWERED, "CA5")
    # Untagged: a carrier may be slow to show whose a call is.
    assert case.carrier_has("CA5").kinds() == []


def test_an_unknown_call_of_another_run_is_found_by_that_runs_audit(case):
    case.is_answered()
    other = make_run(case.node.engine, case.account, [phone(1)])
    (claimed,) = claim(case.node, case.account)
    record(case.node, claimed.attempt_id, Kind.AMBIGUOUS)
    assert case.carrier_has("CA5", tag=claimed.attempt_id).kinds() == []
    case.run = other
    assert case.kinds() == ["we_do_not_know"]


def test_a_run_that_does_not_exist_is_refused(node):
    with pytest.raises(Refused):
        audit.audit(node.engine, FakeCarrier(), uuid4())


def test_a_run_of_several_pages_is_compared_to_its_end(case, monkeypatch):
    monkeypatch.setattr(audit, "PAGE", 2)
    monkeypatch.setattr(audit, "AT_ONCE", 2)
    leads = [phone(n) for n in range(10, 15)]
    case.run = make_run(case.node.engine, case.account, leads)
    for n, to in enumerate(leads):
        case.carrier.calls[f"CA{n}"] = CarrierCall(f"CA{n}", Progress.ANSWERED, to, CALLER_ID)
    assert case.kinds() == ["we_do_not_know"] * 5


# What the carrier does not let us see is never a clean audit.


def away(*_, **__):
    raise AWAY


def test_a_carrier_that_does_not_answer_at_all_is_no_audit(case):
    case.is_answered().carrier.find = away
    with pytest.raises(CarrierUnavailable, match="away"):
        case.audit()


def test_one_lead_of_which_the_carrier_says_nothing_is_told(node):
    case = Case(node)
    case.is_answered().run = make_run(node.engine, case.account, [phone(2), phone(3)])
    find = case.carrier.find
    case.carrier.find = lambda *, to, **rest: away() if to == phone(3) else find(to=to, **rest)
    report = case.audit()
    assert [one.kind for one in report.differences] == ["carrier_unavailable"]
    assert not report.agrees


def test_a_carrier_that_goes_away_is_not_asked_for_every_lead(node):
    account, asked = make_account(node.engine), []
    run = make_run(node.engine, account, map(phone, range(300)))
    carrier = FakeCarrier()
    carrier.find = lambda *, to, **_: asked.append(to) or away()
    with pytest.raises(CarrierUnavailable):
        audit.audit(node.engine, carrier, run)
    assert len(asked) < 50


def test_a_list_that_lacks_a_call_that_the_carrier_knows_proves_nothing(case):
    case.is_answered().carrier.find = lambda **_: []
    assert case.kinds() == ["list_incomplete"]


def test_a_carrier_that_lists_everything_is_asked_once(node):
    account, carrier = make_account(node.engine), ListingCarrier()
    run = make_run(node.engine, account, map(phone, range(50)))
    for one in claim(node, account):
        sid = f"CA{one.attempt_id.hex}"
        say(node, one.attempt_id, Progress.ANSWERED, sid)
        to = attempt_of(node.engine, one.attempt_id).phone
        carrier.calls[sid] = CarrierCall(sid, Progress.ANSWERED, to, CALLER_ID)
    assert audit.audit(node.engine, carrier, run).agrees
    assert carrier.asked == ["calls_from"]


def test_where_the_whole_list_fails_each_phone_is_asked_for(case):
    case.carrier = ListingCarrier()
    case.carrier.calls_from = away
    assert case.is_answered().audit().agrees
    assert case.carrier.asked == ["find"]


def test_the_beginning_of_a_list_without_end_is_not_taken_for_the_whole(case):
    case.carrier = ListingCarrier()
    case.is_answered().carrier_has("CA2", tag=case.attempt)
    own = case.carrier.calls["CA1"]
    case.carrier.calls_from = lambda *_: chain([own], repeat(OTHERS))
    assert case.kinds() == ["double"]


# Repairs: each once, by the carrier's word, and the next audit is clean.


def test_an_unknown_takes_the_carriers_word(case):
    case.is_unknown().carrier_has("CA9", Progress.BUSY, case.attempt)
    assert case.repair() == [("we_do_not_know", True)]
    assert (case.row.state, case.row.outcome, case.row.carrier_call_id) == ("ended", "busy", "CA9")
    assert run_of(case.node.engine, case.run).status == "completed"
    assert case.told() == ["carrier_said_busy"]
    assert case.kinds() == case.repair() == []
    assert case.told() == ["carrier_said_busy"]


def test_an_unknown_that_still_rings_becomes_live(case):
    case.is_unknown().carrier_has("CA9", Progress.RINGING, case.attempt)
    assert case.repair() == [("we_do_not_know", True)]
    assert call_of(case.node.engine, case.call).state == "live"


def test_a_match_by_number_counts_if_it_is_the_only_one(case):
    case.is_unknown().carrier_has("CA8", created_at=now())
    assert case.repair() == [("we_do_not_know", True)]
    assert case.row.carrier_call_id == "CA8"


def test_two_matches_by_number_are_never_guessed_between(case):
    case.is_unknown().carrier_has("CA8", created_at=now()).carrier_has("CA9", created_at=now())
    assert case.repair() == [("we_do_not_know", False)] * 2
    assert (case.row.state, case.strays()) == ("unknown", [])


def test_a_match_by_number_that_another_unknown_may_claim_is_left(case):
    other = make_account(case.node.engine)
    make_run(case.node.engine, other, [phone(1)])
    (claimed,) = claim(case.node, other)
    record(case.node, claimed.attempt_id, Kind.AMBIGUOUS)
    case.is_unknown().carrier_has("CA8", created_at=now())
    assert case.repair() == [("we_do_not_know", False)]
    assert case.row.state == "unknown"


def test_a_call_that_is_nobodys_is_neither_adopted_nor_hung_up(case):
    case.is_answered().carrier_has("CA2", created_at=now())
    assert case.repair() == [("we_do_not_know", False)]
    assert (case.strays(), case.told()) == ([], [])


@pytest.mark.parametrize("told_before", [False, True])
def test_a_double_is_recorded_once_and_known_from_then_on(case, told_before):
    case.is_answered().carrier_has("CA2", Progress.RINGING, case.attempt)
    if told_before:
        say(case.node, case.attempt, Progress.RINGING, "CA2")
    assert case.repair() == [("double", True)]
    (stray,) = case.strays()
    assert (stray.carrier_call_id, stray.ended_at) == ("CA2", None)
    assert case.told()[-1] == "stray_acknowledged"
    report = case.audit()
    assert (report.known_strays, report.differences) == (1, [])
    case.carrier_has("CA3", Progress.RINGING, case.attempt)
    assert case.kinds() == ["double"]


def test_of_two_calls_of_an_unknown_one_is_taken_and_the_other_recorded(case):
    case.is_unknown()
    case.carrier_has("CA9", Progress.RINGING, case.attempt, created_at=now() + timedelta(minutes=1))
    case.carrier_has("CA8", tag=case.attempt, created_at=now())
    assert case.repair() == [("we_do_not_know", True), ("double", True)]
    assert (case.row.carrier_call_id, case.strays()[0].carrier_call_id) == ("CA8", "CA9")


def test_a_call_that_ended_unheard_takes_its_outcome(case):
    say(case.node, case.attempt, Progress.RINGING, "CA1")
    case.carrier_has("CA1", Progress.NO_ANSWER, tag=case.attempt)
    assert case.repair() == [("still_open", True)]
    assert (case.row.state, case.row.outcome) == ("ended", "no_answer")
    assert case.told() == ["carrier_said_no_answer", "run_completed"]


def test_a_silent_call_is_live_again(case):
    case.is_silent().carrier_has("CA1", Progress.IN_PROGRESS, case.attempt)
    assert case.repair() == [("still_unknown", True)]
    assert case.row.state == "placed"


def test_a_persons_wrong_word_is_corrected(case):
    case.is_silent().is_decided(Decision.PLACED, Outcome.ANSWERED)
    case.carrier_has("CA1", Progress.BUSY, case.attempt)
    assert case.repair() == [("wrong_outcome", True)]
    assert (case.row.outcome, case.row.decision_stands) == ("busy", False)


def test_a_final_word_of_the_carriers_is_not_overwritten(case):
    case.is_answered().carrier_has("CA1", Progress.BUSY)
    assert case.repair() == [("wrong_outcome", False)]
    assert (case.row.outcome, case.told()) == ("answered", [])


def test_what_the_carrier_does_not_have_stays_a_difference(case):
    case.is_answered().carrier.calls.clear()
    assert case.repair() == [("carrier_does_not_know", False)]
    assert case.row.state == "ended"


def test_counters_are_derived_from_the_rows_again(case):
    case.is_answered()
    do(case.node.engine, "UPDATE run_counters SET answered = answered + 5, queued = -1")
    assert case.repair() == [("counter_differs", True)] * 2
    derived = counted_from_rows(case.node.engine, case.run)
    assert counters_of(case.node.engine, case.run) == derived
    assert case.told() == ["counters_corrected"]
    assert case.kinds() == []


def test_a_repair_dials_nobody(case):
    case.is_unknown().is_decided(Decision.REDIAL).carrier_has("CA9", tag=case.attempt)
    assert case.repair() == [("we_do_not_know", True)]
    assert case.carrier.requests == []
    assert call_of(case.node.engine, case.call).state == "completed"


# The command.


@pytest.fixture
def command(case, settings, monkeypatch):
    monkeypatch.setattr("outbound.config.read", lambda *_: settings)
    monkeypatch.setattr(base, "load", lambda _: case.carrier)

    def run(*options):
        done = CliRunner().invoke(
            cli.cli, ["audit", str(case.run), *options], standalone_mode=False
        )
        return done.return_value, done.stdout

    return run


def test_the_exit_code_tells_agreement_difference_and_no_audit(case, command):
    case.is_unknown()
    assert command()[0] == 0
    case.carrier_has("CA9", tag=case.attempt)
    assert command()[0] == 1
    find, case.carrier.find = case.carrier.find, away
    assert command() == (2, "")
    case.carrier.find = find
    code, out = command("--repair", "--json")
    assert (code, json.loads(out)["differences"][0]["repaired"]) == (0, True)
    assert command("--repair")[0] == 0


def test_the_command_shows_what_it_repaired_and_what_it_could_not(case, command):
    case.is_unknown().carrier_has("CA9", tag=case.attempt)
    do(case.node.engine, "UPDATE run_counters SET busy = 7")
    case.carrier_has("CA7", tag=uuid7())
    code, out = command("--repair")
    heads = [line.split()[:2] for line in out.splitlines()]
    assert code == 1
    assert heads == [
        ["repaired", "kind"],
        ["True", "counter_differs"],
        ["True", "we_do_not_know"],
        ["False", "we_do_not_know"],
    ]


def test_a_run_that_does_not_exist_is_no_finding(case, command):
    case.run = uuid7()
    assert command()[0] == 2
