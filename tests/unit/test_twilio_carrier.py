"""The Twilio adapter without a network: callbacks, signatures, settings."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from outbound.carriers.base import ForgedCallback, Progress, UnreadableCallback
from outbound.carriers.twilio import PROGRESS, from_config
from outbound.config import Settings
from outbound.errors import ConfigError

ACCOUNT, TOKEN = "AC" + "0" * 32, "a-token"
SID = "CA" + "1" * 32
URL = "https://calls.example.com/webhooks/twilio/0b5c1f0e-3c0e-4a4e-9a52-6c1f1f0b7a11"


@pytest.fixture
def carrier():
    return from_config(Settings(twilio_account_sid=ACCOUNT, twilio_auth_token=TOKEN))


class Fields(dict):
    getlist = dict.__getitem__


def signature(fields, url=URL, token=TOKEN):
    signed = Fields()
    for name, value in fields:
        signed.setdefault(name, []).append(value)
    return RequestValidator(token).compute_signature(url, signed)


def read(carrier, fields, *, url=URL, sign=None):
    headers = {"x-twilio-signature": signature(fields) if sign is None else sign}
    return carrier.read_callback(url=url, headers=headers, body=urlencode(fields).encode())


def fields_of(status, **more):
    return [("CallSid", SID), ("CallStatus", status), *more.items()]


@pytest.mark.parametrize("missing", ["twilio_account_sid", "twilio_auth_token"])
def test_a_missing_setting_is_named_with_an_example(missing):
    settings = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, missing: None}
    with pytest.raises(ConfigError, match=rf"^{missing.upper()} is not set, for example"):
        from_config(Settings(**settings))


def test_it_calls_itself_twilio(carrier):
    assert carrier.name == "twilio"


@pytest.mark.parametrize(("word", "progress"), PROGRESS.items())
def test_every_status_word_is_read(carrier, word, progress):
    callback = read(carrier, fields_of(word))
    assert (callback.carrier_call_id, callback.progress) == (SID, progress)


def test_a_completed_call_was_answered_and_tells_how_long(carrier):
    callback = read(carrier, fields_of("completed", CallDuration="42", SipResponseCode="200"))
    assert callback.progress is Progress.ANSWERED
    assert callback.duration == 42
    assert callback.error is None


def test_a_call_that_failed_tells_why(carrier):
    assert read(carrier, fields_of("failed", SipResponseCode="404")).error == "SIP 404"


@pytest.mark.parametrize("junk", ["", "x", "-1", "1e9", "99999999999999999999", "٣"])
def test_an_odd_duration_is_no_duration(carrier, junk):
    assert read(carrier, fields_of("completed", CallDuration=junk)).duration is None


def test_blank_fields_are_part_of_the_signature(carrier):
    assert read(carrier, fields_of("ringing", CalledCity="", CallerZip="")).progress == "ringing"


def test_repeated_fields_are_part_of_the_signature(carrier):
    fields = [*fields_of("ringing"), ("Tag", "b"), ("Tag", "a"), ("Tag", "b")]
    assert read(carrier, fields).progress == "ringing"


def test_letters_from_everywhere_are_part_of_the_signature(carrier):
    assert read(carrier, fields_of("ringing", CalledCity="Zürich & Genève +")).progress == "ringing"


def test_the_default_port_makes_no_difference(carrier):
    with_port = URL.replace(".com/", ".com:443/")
    fields = fields_of("ringing")
    assert read(carrier, fields, sign=signature(fields, with_port)).progress == "ringing"


def test_a_query_is_part_of_the_signature(carrier):
    fields, url = fields_of("ringing"), URL + "?a=b%20c"
    assert read(carrier, fields, url=url, sign=signature(fields, url)).progress == "ringing"
    with pytest.raises(ForgedCallback):
        read(carrier, fields, url=URL, sign=signature(fields, url))


@pytest.mark.parametrize("sign", ["", "x", "é", "A" * 28])
def test_a_wrong_signature_is_forged(carrier, sign):
    with pytest.raises(ForgedCallback):
        read(carrier, fields_of("completed"), sign=sign)


def test_another_token_is_forged(carrier):
    fields = fields_of("completed")
    with pytest.raises(ForgedCallback):
        read(carrier, fields, sign=signature(fields, token="another"))


def test_a_signature_for_another_url_is_forged(carrier):
    with pytest.raises(ForgedCallback):
        read(carrier, fields_of("completed"), url=URL.replace("0b5c", "ffff"))


def test_a_changed_field_is_forged(carrier):
    with pytest.raises(ForgedCallback):
        read(carrier, fields_of("completed"), sign=signature(fields_of("busy")))


def test_no_signature_at_all_is_forged(carrier):
    with pytest.raises(ForgedCallback):
        carrier.read_callback(url=URL, headers={}, body=urlencode(fields_of("busy")).encode())


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{}", b"", b"&" * 5000, b"a=%ff"])
@pytest.mark.parametrize("url", [URL, "", "http://[", "https://h:99999999/"])
def test_rubbish_is_forged_and_nothing_else(carrier, body, url):
    with pytest.raises(ForgedCallback):
        carrier.read_callback(url=url, headers={"x-twilio-signature": "x"}, body=body)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("CallStatus", "busy")],
        [("CallSid", SID)],
        [("CallSid", SID), ("CallStatus", "dreaming")],
        [("CallSid", ""), ("CallStatus", "busy")],
        [("CallSid", "../../x"), ("CallStatus", "busy")],
    ],
)
def test_a_signed_callback_that_does_not_say_enough_is_unreadable(carrier, fields):
    with pytest.raises(UnreadableCallback):
        read(carrier, fields)
