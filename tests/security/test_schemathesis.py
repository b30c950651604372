"""Whatever a client sends, the API answers as it says it does, soon, and never with a 5xx.

Three sources of requests: what the description allows and what it forbids (schemathesis), what no
description speaks of (bytes, headers, paths and queries that are no sane client's), and all of
that over the wire. FUZZ_EXAMPLES=500 searches for longer.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import re
import socket
import time
import tracemalloc
import zlib
from itertools import product
from urllib.parse import unquote_to_bytes, urlencode
from uuid import uuid4

import falcon.testing
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from sqlalchemy import update
from twilio.request_validator import RequestValidator

from described import closed
from factories import CALLER_ID, claim, do, make_run, phone, record, rows
from outbound import accounts, logs
from outbound.api import openapi
from outbound.api.app import ROUTES, create_app
from outbound.api.problems import TYPE
from outbound.carriers import base
from outbound.models import api_keys
from outbound.states import Kind
from processes import Stack, World

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
SECONDS = 5.0
"""No request may take longer; pause and cancel may wait for two."""
KEY = "ob_" + "k" * 43
DOCUMENT = json.loads(json.dumps(openapi.document(ROUTES)))
API = "/api/outbound"

# No schema can say that a cursor is ours, that a key is fresh, which number belongs to whom, how
# deep metadata is, or who signed.
LISTS = [
    "list_actions",
    "list_calls",
    "list_keys",
    "list_rejections",
    "list_runs",
    "list_suppressions",
]
MAY_BE_REFUSED = {
    "422": [*LISTS, "change_account", "create_key"],
    "4xx": ["create_run"],
    "403": ["receive"],
}
TAKEN = ["2xx", "304", "404", "409", "429"]
CONFIG = schemathesis.Config.from_dict(
    {
        "seed": 20_261_124,
        # A NUL is no schema's either; the table of bodies below has it.
        "generation": {"with-security-parameters": False, "allow-x00": False},
        "checks": {"positive_data_acceptance": {"expected-statuses": TAKEN}},
        "operations": [
            {
                "include-operation-id": names,
                "checks": {"positive_data_acceptance": {"expected-statuses": [*TAKEN, status]}},
            }
            for status, names in MAY_BE_REFUSED.items()
        ],
    }
)


class Api:
    """The WSGI application of the test that runs, since schemathesis wants one before it runs."""

    def __init__(self):
        self.app = None
        self.runs = []
        self.calls = {}
        self.keys = []

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)

    def fill(self, engine, node):
        """Make the account whose key every request has, and rows for its paths to name."""
        self.app = create_app(node, base.load(node.settings))
        fields = {"caller_ids": [CALLER_ID], "default_twiml": "<Response/>"}
        with engine.begin() as connection:
            account = accounts.create(connection, "acme", **fields)
            own, _ = accounts.create_key(connection, account, "admin")
            values = {"hash": accounts.digest(KEY)}
            connection.execute(update(api_keys).where(api_keys.c.id == own).values(values))
            self.keys = [str(accounts.create_key(connection, account, "viewer")[0])]
        do(engine, "UPDATE account_pace SET calls_per_second = 1000, max_live_calls = 100")
        self.runs = [str(make_run(engine, account, [phone(n)])) for n in range(8)]
        while calls := claim(node, account):  # of one run each time
            for call in calls:
                record(node, call.attempt_id, Kind.AMBIGUOUS)
        self.runs += [str(make_run(engine, account, [phone(n)])) for n in range(10, 16)]
        found = rows(engine, "SELECT run_id, id FROM calls")
        self.calls = {str(row["run_id"]): str(row["id"]) for row in found}
        self.attempts = [str(row["id"]) for row in rows(engine, "SELECT id FROM attempts")]
        return self

    def name_real_rows(self, case):
        """Let a plain id in the path name something that is there; a strange one stays."""
        given = case.path_parameters or {}
        for name, value in given.items():
            if str(value).isalnum():
                given[name] = self._real(name, value, given)

    def _real(self, name, value, given):
        pools = {
            "run_id": self.runs,
            "key_id": self.keys,
            "carrier_name": ["twilio"],
            "attempt_id": self.attempts,
            "call_id": [self.calls.get(given.get("run_id"), "1")],
            "suppressed": [phone(n) for n in range(16)],
        }
        pool = pools[name]
        return pool[zlib.crc32(str(value).encode()) % len(pool)]


API_OF_THE_TEST = Api()


@pytest.fixture
def api(engine, node):
    return API_OF_THE_TEST.fill(engine, node)


schema = schemathesis.openapi.from_dict(closed(DOCUMENT), config=CONFIG)
schema.app = API_OF_THE_TEST
schemathesis.openapi.format("phone", st.integers(0, 9999).map(phone))


@schema.auth()
class Auth:
    def get(self, case, context):
        return KEY

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"


@schema.hook
def filter_query(context, query):
    # A form sends an empty one for a filter that is not set: that is allowed, and means none.
    return not any(value in ("", None, [], {}) for value in (query or {}).values())


def take_what_no_schema_can_say(case):
    """Give half of the valid bodies a chance: a number of ours, one script, a key of its own."""
    if case.operation.definition.raw["operationId"] != "create_run":
        return
    body, mode = case.body, case.meta.generation.mode
    if mode.is_positive and isinstance(body, dict) and zlib.crc32(repr(body).encode()) % 2:
        for name in ("caller_id", "answer_url", "twiml", "start_at", "expires_at"):
            body.pop(name, None)
        case.headers.pop("Idempotency-Key", None)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_the_description_allows_and_forbids_is_answered_as_it_says(api, case):
    api.name_real_rows(case)
    take_what_no_schema_can_say(case)
    started = time.monotonic()
    answer = case.call()
    assert time.monotonic() - started < SECONDS
    case.validate_response(answer, excluded_checks=_not_meant(case, answer))


def _not_meant(case, answer):
    """A lead that does not fit is left out, and blanks are as good as no body: both by intent."""
    sent, name = answer.request.body or b"", case.operation.definition.raw["operationId"]
    left_out = name == "create_run" and answer.status_code == 202 and answer.json()["rejected"]
    if left_out or not sent.strip():
        return [schemathesis.checks.CHECKS.get_one("negative_data_rejection")]
    return []


# What no description speaks of.

BODIES = [
    *(
        b"",
        b" ",
        b"\0",
        b"{",
        b"}",
        b"[]",
        b"null",
        b"0",
        b'""',
        b"{}",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"0x10", b"01", b"'a'", b"{a: 1}"),
    *(b"[" * 100_000, b'{"a":' * 5000, b"[[[[[[[[[[[[]]]]]]]]]]]]", b"[" * 11 + b"]" * 11),
    *(
        b'{"a": 1, "a": 2}',
        b'{"\\ud800": 1}',
        b'{"a": "\\udfff"}',
        b'{"a": "\\u0000"}',
        b'{"a": "\0"}',
    ),
    *(
        b'{"": ""}',
        b'{"__proto__": {}}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a": 1e308}',
        b'{"a": 1E-400}',
    ),
    *('{"leads": [{}]}'.encode("utf-16"), '{"leads": [{}]}'.encode("utf-32"), b"{} {}", b"[1,]"),
    *(
        b'{"leads": [' + b"0," * 2000 + b"0]}",
        b'{"leads": [[[[[[[[[[]]]]]]]]]]}',
        b'{"leads": "x"}',
    ),
]
VALUES = [
    *(None, True, -1, 0, 2**31, 2**63, 10**19, -(10**19), 1e308, -0.0, 5e-324, 0.1),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\x7f",
        "\u202e",
        "\ufffe",
        "\U0010ffff",
        "a" * 5000,
        "%s%n",
        "{}",
        "\\N",
        "\\.",
        "\t",
    ),
    *(
        "'; DROP TABLE runs",
        "+1202555010\u0661",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
    ),
    *(
        "http://[::1",
        "http://\u2100.example",
        "https://example.com:99999",
        "//x",
        "{{}}",
        "{{ {{a}} }}",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a" * 200: "b"},
        ["busy"] * 4,
        [{"lead_id": [], "phone": {}}],
    ),
]
HEADERS = [
    {"CONTENT_LENGTH": value}
    for value in ("", "-1", "x", "1e9", "0x2", "+2", "2_0", "\u00b2", " 2", "9" * 30, "2,2", "3")
] + [
    {name: value}
    for name in (
        *("HTTP_AUTHORIZATION", "HTTP_X_REQUEST_ID", "HTTP_IDEMPOTENCY_KEY", "HTTP_IF_NONE_MATCH"),
        *("HTTP_ACCEPT", "HTTP_HOST", "HTTP_COOKIE", "HTTP_EXPECT", "HTTP_RANGE", "HTTP_FORWARDED"),
        *(
            "HTTP_TRANSFER_ENCODING",
            "HTTP_CONTENT_ENCODING",
            "HTTP_X_FORWARDED_FOR",
            "CONTENT_TYPE",
        ),
        *("HTTP_IF_MODIFIED_SINCE", "HTTP_X_TWILIO_SIGNATURE", "HTTP_X_HTTP_METHOD_OVERRIDE"),
    )
    for value in (
        *(
            "",
            " ",
            ",",
            ";",
            "=",
            '"',
            "*",
            "\x00",
            "\x7f",
            "\xff\xfe",
            "\xed\xa0\x80",
            "a" * 70_000,
        ),
        *("Bearer", "Bearer " + "a" * 9000, "Bearer ob_\xe9", "bytes=0-1", "application/json;;;"),
        *("application/json; charset=utf-16", "text/html", "/", "multipart/form-data; boundary="),
    )
]
PIECES = [
    *(
        "%00",
        "%0a",
        "%0d%0aX: y",
        "%25",
        "%2e%2e",
        "%2f",
        "%5c",
        "%ff",
        "%ed%a0%80",
        "%f0%9f%98%80",
    ),
    *(
        "%c0%af",
        "",
        ".",
        "..",
        ";a=b",
        "{run_id}",
        "a" * 9000,
        "-1",
        "0",
        "1e3",
        "1" * 19,
        "9" * 400,
    ),
    *("%D9%A1", "\xe9", "'", '"', "*", "~", "00000000-0000-0000-0000-000000000000", "NULL", "None"),
]
IN_QUERIES = {
    one["name"]
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
    for one in operation["parameters"]
    if one["in"] == "query"
}
QUERIES = [
    *(
        "&",
        "=",
        "%",
        "%zz",
        "limit",
        "limit=",
        "limit=1&limit=2",
        "limit=1,2",
        "limit[]=1",
        "limit[a]=1",
    ),
    *(
        "cursor=%00",
        "cursor=AA",
        "cursor=" + "A" * 9000,
        "cursor=%ed%a0%80",
        "cursor=LTE",
        "cursor=4oCL",
    ),
    *(
        "&".join(f"a{n}={n}" for n in range(2000)),
        "status=%00",
        "state=%ff",
        "outcome=\xff",
        "a=b;c=d",
    ),
    *(f"{name}={value}" for name in sorted(IN_QUERIES) for value in PIECES),
]
METHODS = [
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"),
    *("get", "FOO", "", " ", "G\x00T", "\xff", "A" * 1000),
]
CODES = {
    TYPE + code
    for code in (
        "expectation_failed",
        *openapi.PROBLEMS,
        "method_not_allowed",
        "uri_too_long",
        "headers_too_large",
    )
}
JSON_ROUTES = [route for route in ROUTES if route.method in ("POST", "PATCH") and route.role]


class Wire:
    """Sends what a test client would put in order first, and judges what comes back."""

    def __init__(self, api):
        self.api = api
        self.sent = 0
        self.wrong = []

    def ask(self, method, path, query="", body=b"", **environ):
        made = falcon.testing.create_environ(path="/", method="POST", body=body)
        made |= {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
            "RAW_URI": f"{path}?{query}" if query else path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": "application/json",
            "HTTP_AUTHORIZATION": f"Bearer {KEY}",
        }
        started, told = time.monotonic(), falcon.testing.StartResponseMock()
        answer = b"".join(self.api(made | environ, told))
        self.judge(
            method,
            told,
            answer,
            time.monotonic() - started,
            (method, path[:90], query[:90], body[:200], str(environ)[:200]),
        )
        return int(told.status.split()[0])

    def judge(self, method, told, body, seconds, sent):
        self.sent += 1
        status, headers = int(told.status.split()[0]), told.headers_dict
        fine = status < 500 and seconds < SECONDS and headers.get("x-request-id")
        if status >= 400 and method != "HEAD":
            problem = json.loads(body)
            fine = fine and headers["content-type"] == openapi.MEDIA_PROBLEM
            fine = fine and problem["type"] in CODES and problem["status"] == status
        if not fine:
            self.wrong.append((sent, told.status, round(seconds, 1), body[:300]))

    def path(self, route):
        run = self.api.runs[0]
        ids = {"run_id": run, "call_id": self.api.calls[run], "key_id": self.api.keys[0]}
        ids |= {"suppressed": phone(999), "attempt_id": self.api.attempts[0]}
        return route.path.format(**ids, carrier_name="twilio")


@pytest.fixture
def wire(api, monkeypatch):
    monkeypatch.setattr("outbound.api.quiet.SETTLE_SECONDS", 0.1)
    built = Wire(api)
    yield built
    assert built.wrong == []


def mutations(body, chance):
    """Bytes a little beside a valid body: cut, doubled, flipped, or with a word of another kind."""
    words = [
        b"null",
        b"-1",
        b"1e999",
        b'"\\ud800"',
        b"[",
        b"}",
        b"\0",
        b"\xff",
        b'""',
        b"{}",
        b"9" * 25,
    ]
    for _ in range(EXAMPLES * 2):
        made = bytearray(body)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(made) + 1)
            end = min(len(made), at + chance.randint(0, 9))
            made[at:end] = chance.choice([b"", bytes(made[at:end]) * 2, chance.choice(words)])
        yield bytes(made)


def test_no_body_brings_a_5xx(wire):
    chance = random.Random(7)  # noqa: S311 - the same bodies each time
    for route in JSON_ROUTES:
        content = DOCUMENT["paths"][route.path][route.method.lower()]["requestBody"]["content"]
        examples = content["application/json"]["examples"].values()
        for body in BODIES:
            wire.ask(route.method, wire.path(route), body=body)
        for example in examples:
            for body in mutations(json.dumps(example["value"]).encode(), chance):
                wire.ask(route.method, wire.path(route), body=body)
    assert wire.sent > 500


def test_no_value_of_any_field_brings_a_5xx(wire):
    lead = {"lead_id": "a", "phone": phone(1), "variables": {"a": "b"}}
    bodies = {f"{API}/runs": {"leads": [lead], "allow_duplicate": True}, f"{API}/account": {}}
    for path, body in bodies.items():
        method = "POST" if path.endswith("runs") else "PATCH"
        schema = DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"]
        name = schema["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for field in DOCUMENT["components"]["schemas"][name]["properties"]:
            for value in VALUES:
                wire.ask(method, path, body=json.dumps(body | {field: value}).encode())
    for field in lead:
        for value in VALUES:
            leads = [lead, lead | {"lead_id": "b", "phone": phone(2)} | {field: value}]
            body = {"leads": leads, "allow_duplicate": True, "twiml": "{{a}}"}
            wire.ask("POST", f"{API}/runs", body=json.dumps(body).encode())
    for path in ("/account", "/runs?limit=500"):
        assert wire.ask("GET", API + path.partition("?")[0], path.partition("?")[2]) == 200


def test_no_header_brings_a_5xx(wire):
    run = wire.api.runs[0]
    for environ in HEADERS:
        wire.ask("POST", f"{API}/runs", body=b"{}", **environ)
        wire.ask("GET", f"{API}/runs/{run}", **environ)
        wire.ask("POST", f"/webhooks/twilio/{wire.api.attempts[0]}", body=b"a=b", **environ)
    for environ in HEADERS[:12]:
        wire.ask("GET", "/health/live", body=b"{}", **environ)


def test_no_path_brings_a_5xx(wire):
    for piece in PIECES:
        for route in ROUTES:
            path = re.sub(r"{\w+}", lambda _, piece=piece: piece, route.path)
            wire.ask(route.method, path)
        for path in (piece, f"/{piece}", f"{API}/runs/{piece}/{piece}", f"{API}/runs{piece}"):
            wire.ask("GET", path)
    for route in ROUTES:
        if "{call_id}" in route.path:
            for piece in PIECES:
                path = route.path.replace("{run_id}", wire.api.runs[0]).replace("{call_id}", piece)
                wire.ask(route.method, path, body=b'{"decision": "redial"}')


def test_no_query_brings_a_5xx(wire):
    for route in ROUTES:
        if DOCUMENT["paths"][route.path][route.method.lower()]["operationId"] in LISTS:
            for query in QUERIES:
                wire.ask("GET", wire.path(route), query)


def test_a_nul_in_a_parameter_is_the_clients_fault(wire):
    paths = [f"{API}/runs", f"{API}/runs/{wire.api.runs[0]}/calls"]
    assert {wire.ask("GET", path, "q=a%00b") for path in paths} == {422}


def test_no_method_brings_a_5xx(wire):
    for route in ROUTES:
        for method in METHODS:
            wire.ask(method, wire.path(route))


def test_no_form_that_the_carrier_signed_brings_a_5xx(wire, settings, engine):
    """A carrier is no enemy, but a bug of its own must not make it send the same for hours."""
    sids = ("CA" + "{}" * 32, "", "CA", "\x00", "CA" + "\x00" * 32, "\ud7ff", "a" * 9000)
    odd = ("", "-1", "9" * 30, "1.5", "\x00", "\u0661", "NaN", "\uffff")
    validator = RequestValidator(settings.twilio_auth_token)
    for number, (attempt, value) in enumerate(zip(wire.api.attempts, odd, strict=True)):
        path = f"/webhooks/twilio/{attempt}"
        for sid, status in product(sids, ("ringing", "completed", "", "\x00", "busy\x00")):
            fields = {"CallSid": sid.format(*[number] * 32), "CallStatus": status}
            fields |= {"CallDuration": value, "SipResponseCode": value, value: value}
            signature = validator.compute_signature(settings.public_base_url + path, fields)
            signed = {"HTTP_X_TWILIO_SIGNATURE": signature}
            signed["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
            assert wire.ask("POST", path, body=urlencode(fields).encode(), **signed) == 204
    assert {row["state"] for row in rows(engine, "SELECT state FROM attempts")} == {"ended"}


def test_thousands_of_requests_leave_nothing_behind(wire):
    logging.disable(logging.CRITICAL)  # pytest keeps every record
    try:
        _mix(wire, 0, 300)  # what is made once, is made
        tracemalloc.start()
        before = _held()
        _mix(wire, 300, 300 + max(2000, 20 * EXAMPLES))
        grown = _held() - before
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    assert grown < 300_000, grown


def _held():
    logs._mask_again.cache_clear()  # it keeps what was written last, up to a number
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _mix(wire, first, last):
    """Requests of which no two are the same, good and bad."""
    for n in range(first, last):
        match n % 6:
            case 0:
                wire.ask("GET", f"{API}/runs", f"limit=1&x{n}={n}")
            case 1:
                lead = {"lead_id": f"l{n}", "phone": phone(n % 10_000)}
                key = {"HTTP_IDEMPOTENCY_KEY": f"k{n}"}
                wire.ask("POST", f"{API}/runs", body=json.dumps({"leads": [lead]}).encode(), **key)
            case 2:
                wire.ask("GET", f"{API}/runs/{uuid4()}", HTTP_X_REQUEST_ID=f"r{n}")
            case 3:
                wire.ask("POST", f"{API}/keys", body=json.dumps({f"f{n}": n}).encode())
            case 4:
                wire.ask(f"M{n}", f"/nothing/{n}", HTTP_AUTHORIZATION=f"Bearer ob_{n}")
            case _:
                wire.ask("POST", f"/webhooks/twilio/{uuid4()}", body=b"a=%d" % n)


# Over the wire: what gunicorn takes for a request reaches us, what it does not must be a problem.

LINES = [
    *(b"GET /%b HTTP/1.1" % piece.encode("latin-1") for piece in PIECES),
    *(b"%b /health/live HTTP/1.1" % method.encode("latin-1") for method in METHODS),
    *(
        b"GET /health/live",
        b"GET  /health/live HTTP/1.1",
        b"GET /health/live HTTP/1.0",
        b"\x16\x03\x01",
    ),
    *(
        b"GET http://x/health/live HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET //// HTTP/1.1",
        b"GET /?% HTTP/1.1",
    ),
]
FIELDS = [
    *(
        b"X: \xff",
        b"X: \0",
        b"X:\x0b",
        b": x",
        b"X",
        b" X: y",
        b"X : y",
        b"X_Y: z",
        b"\xe9: x",
        b"X:" + b" " * 8000,
    ),
    *(
        b"Content-Length: \xc2\xb2",
        b"Content-Length: +1",
        b"Content-Length: 1\r\nContent-Length: 2",
    ),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: x, chunked",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
    ),
    *(
        b"Connection: ",
        b"Host: a\r\nHost: b",
        b"Host: \xff",
        b"X-Forwarded-Proto: https",
        b"Authorization: \xff",
    ),
]


@pytest.fixture
def web(database_url, redis_url, tmp_path):
    stack = Stack(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "test-token",
        }
    )
    world = World(stack, tmp_path / "ledger")
    world.start_web()
    yield world
    stack.stop()


def _exchange(web, data):
    """Send bytes as they are, and read until the server closes; a hang is an error."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_no_bytes_on_the_wire_bring_a_5xx_or_a_hang(web):
    end = b"\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
    starts = (b"GET /health/live HTTP/1.1", b"POST /api/outbound/runs HTTP/1.1")
    sent = [line + end + b"\r\n{}" for line in LINES]
    sent += [start + end + field + b"\r\n\r\n{}" for start in starts for field in FIELDS]
    chance = random.Random(7)  # noqa: S311 - the same bytes each time
    sent += [made for start in starts for made in mutations(start + end + b"\r\n{}", chance)]
    answers = [(one, _exchange(web, one)) for one in sent]
    assert [(one, answer) for one, answer in answers if not _is_fine(answer)] == []
    assert {answer.split()[1] for _, answer in answers if answer} >= {
        b"200",
        b"400",
        b"401",
        b"414",
    }
    assert not web.web.has_logged("request_failed")
    assert _exchange(web, b"GET /health/live HTTP/1.1" + end + b"\r\n{}").split()[1] == b"200"


def _is_fine(answer):
    """Nothing is the answer to bytes that never became a request."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer or int(head.split()[1]) < 400:
        return True
    is_problem = b"application/problem+json" in head and b"x-request-id" in head.lower()
    return (
        int(head.split()[1]) < 500
        and is_problem
        and (not body or json.loads(body)["type"] in CODES)
    )
