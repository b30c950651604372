import json
import time
from urllib.parse import parse_qsl

import pytest
from twilio.request_validator import RequestValidator

from outbound.carriers.emulator import DEV_ACCOUNT_SID, DEV_AUTH_TOKEN, EmulatorError
from outbound.carriers.emulator.behaviours import BEHAVIOURS, PhoneBook, Plan
from outbound.carriers.emulator.book import Book
from outbound.carriers.emulator.calls import TERMINAL, Call, Delivery, next_step
from outbound.carriers.emulator.ledger import Ledger
from outbound.carriers.emulator.listing import Listing
from outbound.carriers.emulator.order import Order
from outbound.carriers.emulator.parcel import Packer
from outbound.carriers.emulator.problems import Refusal

PHONES = PhoneBook(mix={"answered": 1}, endings=True, seed=1, ring=1.0, talk=2.0, spread=0.0)
ALL_EVENTS = ("initiated", "ringing", "answered", "completed")


def an_order(**changes):
    fields = {"to": "+14155550130", "from_": "+14155550100"}
    return Order(**(fields | changes))


def a_call(behaviour, ring=1.0, talk=2.0, **order):
    plan = Plan(BEHAVIOURS[behaviour], ring, talk)
    return Call(sid="CA1", number=0, order=an_order(**order), plan=plan, accepted_at=0.0, since=0.0)


def life_of(call):
    steps = []
    while (step := next_step(call, queue_seconds=0.0)) is not None:
        call.enter(step.status, step.at)
        steps.append((step.status, step.at))
    return steps


@pytest.mark.parametrize(
    ("behaviour", "order", "life"),
    [
        ("answered", {}, [("initiated", 0), ("ringing", 0), ("in-progress", 1), ("completed", 3)]),
        ("voicemail", {}, [("initiated", 0), ("ringing", 0), ("in-progress", 1), ("completed", 3)]),
        ("busy", {}, [("initiated", 0), ("busy", 1)]),
        ("failed", {}, [("initiated", 0), ("failed", 1)]),
        ("no_answer", {}, [("initiated", 0), ("ringing", 0), ("no-answer", 1)]),
        (
            "rings_forever",
            {"time_limit": 99},
            [("initiated", 0), ("ringing", 0), ("no-answer", 99)],
        ),
        ("queued_forever", {"time_limit": 99}, [("failed", 99)]),
    ],
)
def test_each_behaviour_has_its_life(behaviour, order, life):
    assert life_of(a_call(behaviour, **order)) == life


def test_nobody_answers_after_the_timeout():
    assert life_of(a_call("answered", ring=30.0, timeout=5))[-1] == ("no-answer", 5)
    assert life_of(a_call("no_answer", ring=30.0, timeout=5))[-1] == ("no-answer", 5)
    assert life_of(a_call("busy", ring=30.0, timeout=5))[-1] == ("busy", 5)


def test_no_call_lasts_longer_than_its_time_limit():
    assert life_of(a_call("answered", talk=900.0, time_limit=10))[-1] == ("completed", 11)


def test_times_may_be_nothing_at_all():
    assert {at for _, at in life_of(a_call("answered", ring=0.0, talk=0.0))} == {0}


def test_a_call_reads_queued_until_it_rings():
    call = a_call("answered")
    call.enter("initiated", 1.0)
    assert call.rest_status == "queued"


def test_begun_seconds_are_billed():
    call = a_call("answered")
    call.enter("in-progress", 1.0)
    call.enter("completed", 3.2)
    assert call.seconds_talked == 3


# The ledger


def a_book(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    return ledger, Book(ledger, PHONES)


def test_a_book_is_rebuilt_from_its_ledger(tmp_path):
    ledger, book = a_book(tmp_path)
    address = "https://app.example/cb/att-1#rc=5"
    call = book.accept(an_order(status_callback=address), 1_000_000.25, ["accept_then_500"])
    book.accept(an_order(to="+14155550199", url="https://app.example/"), 1_000_001.0)
    book.move(call, "initiated", 1_000_002.0)
    book.move(call, "completed", 1_000_003.5)
    book.note(call, Delivery(sequence=0, status="completed", at=1_000_003.5, result="ok", tries=2))
    rows, summary, counts = [c.summary() for c in book.calls], book.summary(), book.callbacks
    ledger.close()
    ledger, again = a_book(tmp_path)
    assert [c.summary() for c in again.calls] == rows
    assert again.summary() == summary
    assert again.callbacks == counts == {"ok": 1, "sent": 1, "retries": 1}
    assert again.calls[0].order == call.order
    assert again.calls[0].next_sequence == call.next_sequence == 1
    assert rows[0]["accepted_at"] == "1970-01-12T13:46:40.250000Z"
    ledger.close()


def test_a_torn_last_line_is_skipped_and_does_not_spoil_the_next_one(tmp_path):
    ledger, book = a_book(tmp_path)
    book.accept(an_order(), time.time())
    ledger.close()
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'{"event":"accepted","call_')
    ledger, book = a_book(tmp_path)
    assert (len(book.calls), ledger.torn) == (1, 1)
    book.accept(an_order(), time.time())
    ledger.close()
    ledger, book = a_book(tmp_path)
    assert (len(book.calls), ledger.torn) == (2, 1)
    ledger.close()


def test_a_line_that_no_emulator_wrote_is_not_passed_over(tmp_path):
    (tmp_path / "ledger").write_text('{"event":"status","call_sid":"CA1","status":"x","at":"y"}\n')
    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(EmulatorError, match="entry 1"):
        Book(ledger, PHONES)
    ledger.close()


def test_two_emulators_cannot_share_a_ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(EmulatorError, match="another emulator"):
        Ledger(tmp_path / "ledger")
    ledger.close()


def test_a_call_that_cannot_be_written_down_is_not_accepted(tmp_path):
    ledger, book = a_book(tmp_path)
    ledger.close()
    with pytest.raises(OSError, match="descriptor"):
        book.accept(an_order(), 0.0)
    assert book.calls == []


def test_one_line_a_call_is_written_before_it_counts(tmp_path):
    ledger, book = a_book(tmp_path)
    call = book.accept(an_order(), time.time())
    (line,) = (tmp_path / "ledger").read_text().splitlines()
    assert json.loads(line)["call_sid"] == call.sid
    ledger.close()


def test_the_most_live_calls_are_counted_over_all_and_per_phone(tmp_path):
    ledger, book = a_book(tmp_path)
    first, second = book.accept(an_order(), 0.0), book.accept(an_order(), 0.0)
    third = book.accept(an_order(to="+14155550199"), 0.0)
    for call in (first, second, third):
        book.move(call, "canceled", 1.0)
    book.accept(an_order(), 2.0)
    summary = book.summary()
    assert summary["calls"] == 4
    assert summary["most_calls_to_one_phone"] == 3
    assert (summary["live_now"], summary["most_live_at_once"]) == (1, 3)
    assert summary["most_live_to_one_phone"] == 2
    assert summary["by_status"] == {"canceled": 3, "queued": 1}
    ledger.close()


# Lists


def sids(book, **query):
    answer = Listing.from_query(query).answer(book, DEV_ACCOUNT_SID, newest=float("inf"))
    return [call["sid"] for call in answer["calls"]]


def test_a_list_is_filtered_by_start_time_which_hides_what_has_not_started(tmp_path):
    ledger, book = a_book(tmp_path)
    queued = book.accept(an_order(), 0.0)
    started = book.accept(an_order(), 0.0)
    book.move(started, "initiated", 86_400.0)
    assert sids(book) == [started.sid, queued.sid]
    assert sids(book, StartTime="1970-01-02") == [started.sid]
    assert sids(book, StartTime="1970-01-01") == []
    assert sids(book, **{"StartTime>": "1970-01-01T00:00:00Z"}) == [started.sid]
    assert sids(book, **{"StartTime<": "1970-01-01T00:00:00Z"}) == []
    assert sids(book, ParentCallSid="CA1") == []
    ledger.close()


@pytest.mark.parametrize("query", [{"Page": "-1"}, {"PageSize": "many"}, {"EndTime": "soon"}])
def test_a_query_that_makes_no_sense_is_refused(query):
    with pytest.raises(Refusal):
        Listing.from_query(query)


# Callbacks


def test_a_callback_is_signed_over_its_blank_fields_and_its_query_but_not_its_fragment():
    call = a_call("answered", status_callback="https://app.example/cb?a=#rc=5", events=ALL_EVENTS)
    call.enter("initiated", 0.0)
    call.enter("ringing", 0.0)
    parcel = Packer(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN).pack(call)
    form = dict(parse_qsl(parcel.form, keep_blank_values=True))
    assert parcel.url == "https://app.example/cb?a="
    assert form["CalledCity"] == ""
    assert (form["CallStatus"], form["SequenceNumber"]) == ("ringing", "1")
    validator = RequestValidator(DEV_AUTH_TOKEN)
    assert validator.validate(parcel.url, form, parcel.headers["X-Twilio-Signature"])


def test_a_callback_by_get_has_its_form_in_the_signed_query():
    address = "https://app.example/cb?a=1"
    call = a_call("answered", status_callback=address, status_callback_method="GET")
    call.enter("completed", 1.0)
    parcel = Packer(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN).pack(call)
    assert parcel.form == ""
    assert "&CallStatus=completed" in parcel.url
    validator = RequestValidator(DEV_AUTH_TOKEN)
    assert validator.validate(parcel.url, {}, parcel.headers["X-Twilio-Signature"])


def test_a_forged_callback_lies_and_its_signature_does_not_hold():
    call = a_call("busy", status_callback="https://app.example/cb")
    call.enter("busy", 1.0)
    parcel = Packer(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN).forge(call)
    form = dict(parse_qsl(parcel.form, keep_blank_values=True))
    assert form["CallStatus"] == "completed"
    validator = RequestValidator(DEV_AUTH_TOKEN)
    assert not validator.validate(parcel.url, form, parcel.headers["X-Twilio-Signature"])


def test_every_end_of_a_call_is_terminal():
    assert {behaviour.ends_as for behaviour in BEHAVIOURS.values()} <= TERMINAL
