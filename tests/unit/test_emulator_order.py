from urllib.parse import urlencode

import pytest

from outbound.carriers.emulator.order import parse_form, parse_order
from outbound.carriers.emulator.problems import Refusal
from outbound.carriers.emulator.retry import RetryPolicy

GOOD = {"To": "+14155550130", "From": "+14155550100", "Url": "https://app.example/answer"}


def order_from(fields, caller_ids=()):
    return parse_order(parse_form(urlencode(fields, doseq=True).encode()), caller_ids)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"To": ""}, 21201),
        ({"To": "12"}, 21211),
        ({"To": "+0123456789"}, 21211),
        ({"From": ""}, 21213),
        ({"From": "nobody"}, 21212),
        ({"From": "+15005550001"}, 21212),
        ({"Url": ""}, 21205),
        ({"Url": "app.example"}, 21205),
        ({"Url": "ftp://app.example/"}, 21205),
        ({"Url": "http://app.example:port/"}, 21205),
        ({"Url": "http://app.example/two words"}, 21205),
        ({"Twiml": "x" * 4001}, 20001),
        ({"StatusCallback": "/relative"}, 21609),
        ({"StatusCallback": "https://under_score.example/"}, 21609),
        ({"StatusCallbackMethod": "PUT"}, 20001),
        ({"Timeout": "soon"}, 20001),
        ({"Timeout": "601"}, 20001),
        ({"TimeLimit": "9" * 5000}, 20001),
    ],
)
def test_what_is_wrong_with_an_order_is_told_by_its_code(change, code):
    with pytest.raises(Refusal) as told:
        order_from(GOOD | change)
    assert told.value.code == code
    assert told.value.body()["more_info"].endswith(f"/{code}")


def test_a_form_with_too_many_fields_is_refused():
    with pytest.raises(Refusal):
        parse_form(b"a=1&" * 300)


def test_a_caller_id_that_is_not_ours_is_refused():
    assert order_from(GOOD, ["+14155550100"]).from_ == "+14155550100"
    with pytest.raises(Refusal) as told:
        order_from(GOOD, ["+14155550199"])
    assert told.value.code == 21210


def test_what_is_not_asked_for_has_twilios_defaults():
    order = order_from(GOOD)
    assert (order.timeout, order.time_limit, order.events) == (60, 14_400, ("completed",))
    assert order.attempt_id is None


def test_events_come_repeated_or_in_one_field():
    asked = GOOD | {"StatusCallbackEvent": ["answered", "initiated"]}
    assert order_from(asked).events == ("initiated", "answered")
    asked = GOOD | {"StatusCallbackEvent": "initiated ringing nonsense"}
    assert order_from(asked).events == ("initiated", "ringing")


@pytest.mark.parametrize(
    "address",
    [
        "https://app.example/webhooks/twilio/att-1",
        "https://app.example/webhooks/twilio/att-1/",
        "https://app.example/att-1?attempt=other/one#rc=5&rp=all",
    ],
)
def test_the_attempt_is_the_last_segment_of_the_callbacks_path(address):
    assert order_from(GOOD | {"StatusCallback": address}).attempt_id == "att-1"


def test_a_number_may_be_written_for_people():
    assert order_from(GOOD | {"To": "+1 (415) 555-0130"}).to == "+14155550130"


@pytest.mark.parametrize(
    ("fragment", "retries", "after"),
    [
        ("", 1, {"ct"}),
        ("rc=5&rp=all", 5, {"4xx", "5xx", "ct", "rt"}),
        ("rc=2&rp=5xx,rt", 2, {"5xx", "rt"}),
        ("rc=0", 0, {"ct"}),
        ("rc=99", 5, {"ct"}),
        ("rc=many&rp=never", 1, {"ct"}),
        ("section", 1, {"ct"}),
    ],
)
def test_the_fragment_says_when_to_try_again(fragment, retries, after):
    policy = RetryPolicy.from_fragment(fragment)
    assert (policy.retries, policy.after) == (retries, after)


def test_the_fragment_may_set_the_time_limits():
    policy = RetryPolicy.from_fragment("ct=500&rt=99999")
    assert (policy.connect_seconds, policy.read_seconds) == (0.5, 15.0)
