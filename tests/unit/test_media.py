"""Bodies: bounded, whole, and nothing but clean JSON."""

import hashlib
import json

import falcon
import falcon.testing
import pytest

from outbound import strict_json
from outbound.api import media, problems
from outbound.errors import Refused

JSON = {"Content-Type": "application/json"}


class Echo:
    def on_post(self, req, resp):
        resp.media = {"got": media.read_json(req), "hash": req.context.body_hash.hex()}


@pytest.fixture
def post():
    app = falcon.App()
    problems.install(app)
    app.add_route("/x", Echo())
    client = falcon.testing.TestClient(app)
    return lambda body, headers: client.simulate_post("/x", body=body, headers=headers)


def nested(depth, kind):
    return b'{"a":' * depth + b"1" + b"}" * depth if kind else b"[" * depth + b"]" * depth


@pytest.mark.parametrize("kind", [True, False], ids=["objects", "arrays"])
def test_ten_levels_are_taken_and_eleven_are_not(kind):
    assert strict_json.parse(nested(10, kind)) is not None
    for depth in (11, 12, 900, 100_000):
        with pytest.raises(Refused) as refused:
            strict_json.parse(nested(depth, kind))
        assert (refused.value.status, refused.value.code) == (400, "bad_json")


@pytest.mark.parametrize(
    "body",
    [
        b"NaN",
        b"[-Infinity]",
        b"1e999",
        b"-1e999",
        b"1" * 21,
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 1}',
        b'[{"b": [{"a": 1, "a": 2}]}]',
        b'"\\u0000"',
        b'{"\\u0000": 1}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'"\0"',
        b"\0",
        b"1\0",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xed\xa0\x80"',
        '{"a": 1}'.encode("utf-16"),
        b"{} {}",
        b"{'a': 1}",
        b"[1,]",
    ],
)
def test_what_is_not_clean_json_is_refused_without_being_echoed(body):
    with pytest.raises(Refused) as refused:
        strict_json.parse(body)
    assert (refused.value.status, refused.value.code) == (400, "bad_json")


@pytest.mark.parametrize(
    "value", ["\U0001f600", "דנה", 'a\tb\\n"c', 0.1, -(2**63), 2**64 - 1, None, True, [{}], ""]
)
def test_what_is_clean_arrives_as_it_was(value):
    for ascii_only in (True, False):
        assert strict_json.parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize("tiny", [b"[],", b"{},", b"1,", b'"a",'])
def test_millions_of_tiny_values_are_refused_before_they_fill_the_memory(tiny):
    with pytest.raises(Refused) as refused:
        strict_json.parse(b"[" + tiny * (8_000_001) + b"1]")
    assert refused.value.status == 413


def test_the_most_that_a_run_may_have_is_below_that_limit():
    lead = b'{"lead_id":"c","phone":"+1","variables":{%s}}' % b",".join([b'"k":"v"'] * 50)
    assert sum(lead.count(mark) for mark in (b",", b"[", b"{")) * 100_000 < strict_json.MAX_VALUES


def test_the_bodys_own_bytes_are_hashed(post):
    body = b' {"b": 1,  "a": 2} '
    answer = post(body, JSON).json
    assert answer == {"got": {"a": 2, "b": 1}, "hash": hashlib.sha256(body).hexdigest()}


def test_no_body_is_an_empty_object_whatever_its_type(post):
    for headers in ({}, JSON, {"Content-Type": "text/plain"}):
        assert post(b"", headers).json["got"] == {}


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
def test_json_is_taken(post, kind):
    assert post(b"{}", {"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
def test_a_body_of_another_type_or_none_is_415(post, kind):
    assert post(b"{}", {"Content-Type": kind} if kind else {}).status_code == 415


def test_a_body_of_64_mib_is_taken_and_one_byte_more_is_not(post):
    body = b'"' + b"x" * (media.MAX_BODY - 2) + b'"'
    assert strict_json.parse(body) == "x" * (media.MAX_BODY - 2)
    assert post(body + b" ", JSON).status_code == 413
