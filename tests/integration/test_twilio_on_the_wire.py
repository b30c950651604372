"""The Twilio adapter against raw sockets: what leaves, and what each answer is taken for."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from outbound.carriers.base import CarrierUnavailable, PlaceRequest, Progress, Verdict
from outbound.carriers.twilio import from_config
from outbound.config import Settings

ACCOUNT, TOKEN = "AC" + "0" * 32, "a-token"
SID = "CA" + "1" * 32
TO, CALLER_ID = "+15551230001", "+15551230002"
ATTEMPT = UUID("0b5c1f0e-3c0e-4a4e-9a52-6c1f1f0b7a11")
CALLBACK = f"https://calls.example.com/webhooks/twilio/{ATTEMPT}"
TIMEOUT = 0.6
"""Seconds, for a server that answers late or never: it goes on for several times as long."""

PATIENT = 10.0
"""Seconds, for a server that answers: on a busy machine, not at once."""

REQUEST = PlaceRequest(
    attempt_id=ATTEMPT,
    to=TO,
    caller_id=CALLER_ID,
    callback_url=CALLBACK,
    ring_timeout=25,
    max_call_duration=600,
    twiml="<Response/>",
)


def http(status, body=b"", *headers, length=None):
    body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    lines = [f"HTTP/1.1 {status} Said", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def problem(status, code, *headers):
    body = {"code": code, "message": f"{TO} is wrong, {TOKEN}", "status": status}
    return http(status, body, *headers)


CREATED_BODY = json.dumps({"sid": SID, "status": "queued"}).encode()
CREATED = http(201, CREATED_BODY)


class Server:
    """Counts the requests that came whole, and answers each with the next of its answers.

    An answer is bytes, or a function of the connection that does something worse.
    """

    def __init__(self, *answers, tls=None):
        self.answers, self._tls = list(answers), tls
        self.requests, self.connections = [], 0
        self._lock, self._open = threading.Lock(), []
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain):
        with suppress(OSError, ValueError):  # what cannot be read is not a whole request
            connection = self._tls.wrap_socket(plain, server_side=True) if self._tls else plain
            self._answer(connection)

    def _answer(self, connection):
        with connection, connection.makefile("rb") as stream:
            while request := self._read(stream):
                with self._lock:
                    self.requests.append(request)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not callable(answer):
                    connection.sendall(answer)
                elif answer(connection):
                    return

    @staticmethod
    def _read(stream):
        line = stream.readline().decode()
        if not line:
            return None
        method, target, _ = line.split()
        headers = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0))).decode()
        return method, target, headers, parse_qs(body, keep_blank_values=True)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(*answers, timeout=PATIENT, tls=None):
    server = Server(*answers, tls=tls)
    settings = Settings(
        twilio_account_sid=ACCOUNT,
        twilio_auth_token=TOKEN,
        twilio_api_base_url=server.url,
        carrier_timeout=timeout,
    )
    try:
        yield server, from_config(settings)
    finally:
        server.close()


def closes(connection):
    return True


def resets(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return True


def waits(connection):
    time.sleep(6 * TIMEOUT)
    return True


def drips(start, drop):
    def answer(connection):
        connection.sendall(start)
        with suppress(OSError):
            for _ in range(40):
                connection.sendall(drop)
                time.sleep(TIMEOUT / 6)
        return True

    return answer


def breaks_off(start):
    def answer(connection):
        connection.sendall(start)
        return True

    return answer


AMBIGUOUS = {
    "closed after the request": closes,
    "reset": resets,
    "no answer": waits,
    "500": http(500),
    "500 with Twilio's body": problem(500, 20500),
    "400 with the code of an inner error": problem(400, 20500),
    "500 with an unknown code": problem(500, 29999),
    "502 in HTML": http(502, b"<html>"),
    "503": problem(503, 20503),
    "400 without a body": http(400),
    "404 in HTML": http(404, b"<html>not here"),
    "400 in a gateway's JSON": http(400, {"code": 400, "message": "no"}),
    "400 with a code that is no number": http(400, {"code": "21211"}),
    "400 with true for a code": http(400, {"code": True}),
    "400 with a list": http(400, [21211]),
    "201 without a body": http(201),
    "201 in HTML": http(201, b"<html>"),
    "201 without an id": http(201, {"status": "queued"}),
    "201 with an id that is none": http(201, {"sid": "../../x y"}),
    "201 with a list": http(201, [SID]),
    "201 nested too deep": http(201, b"[" * 100_000),
    "201 not in UTF-8": http(201, b'{"sid": "\xff\xfe"}'),
    "204": http(204),
    "301": http(301, b"", "Location: /elsewhere"),
    "307": http(307, b"", "Location: /elsewhere"),
    "no HTTP": breaks_off(b"SSH-2.0-OpenSSH_9\r\n"),
    "half a head": breaks_off(b"HTTP/1.1 201 Created\r\nContent-"),
    "half a body": breaks_off(http(201, b'{"sid"', length=500)),
    "half a chunk": breaks_off(
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{"
    ),
    "no chunk": http(201).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n",
    "a body far too large": http(201, CREATED_BODY[:-1] + b" " * 5_000_000 + b"}"),
}

REFUSALS = {
    **dict.fromkeys((21211, 21214, 21215, 21216, 21217, 21219), (400, Verdict.REFUSED_CALLEE)),
    **dict.fromkeys((21201, 21210, 21212, 10004, 22005, 29999), (400, Verdict.REFUSED_US)),
    20003: (401, Verdict.REFUSED_US),
    20404: (404, Verdict.REFUSED_US),
    20429: (429, Verdict.TRY_LATER),
}


def test_a_created_call_is_accepted():
    with serving(CREATED) as (server, carrier):
        answer = carrier.place(REQUEST)
    assert (answer.verdict, answer.carrier_call_id) == (Verdict.ACCEPTED, SID)
    assert answer.error is None
    assert len(server.requests) == 1


def test_the_request_says_what_it_must():
    with serving(CREATED) as (server, carrier):
        carrier.place(REQUEST)
    method, target, headers, form = server.requests[0]
    assert (method, target) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json")
    basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert headers["authorization"] == f"Basic {basic}"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert form == {
        "To": [TO],
        "From": [CALLER_ID],
        "Twiml": ["<Response/>"],
        "StatusCallback": [CALLBACK + "#rc=5&rp=all"],
        "StatusCallbackMethod": ["POST"],
        "StatusCallbackEvent": ["ringing", "answered", "completed"],
        "Timeout": ["25"],
        "TimeLimit": ["600"],
    }


def test_an_answer_url_goes_out_instead_of_twiml():
    request = PlaceRequest(ATTEMPT, TO, CALLER_ID, CALLBACK, 25, 600, answer_url="https://a/b?c=d")
    with serving(CREATED) as (server, carrier):
        carrier.place(request)
    form = server.requests[0][3]
    assert form["Url"] == ["https://a/b?c=d"]
    assert "Twiml" not in form


def test_the_environment_changes_nothing(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login thief password word\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("TWILIO_EDGE", "dublin")
    monkeypatch.setenv("TWILIO_REGION", "ie1")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(CREATED) as (server, carrier):
        assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert server.requests[0][2]["authorization"] == f"Basic {basic}"


@pytest.mark.parametrize("wrong", AMBIGUOUS)
def test_what_says_nothing_for_certain_is_ambiguous_and_leaves_once(wrong):
    with serving(AMBIGUOUS[wrong], timeout=TIMEOUT) as (server, carrier):
        answer = carrier.place(REQUEST)
        time.sleep(0.02)
    assert answer.verdict is Verdict.AMBIGUOUS
    assert answer.error
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 201 Created\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 201 Created\r\nX: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 5000\r\n\r\n", b" "),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n", b" "),
    ],
    ids=["headers", "one header", "continues", "body", "chunks", "until close"],
)
def test_a_server_that_drips_holds_nobody_beyond_the_timeout(start, drop):
    with serving(drips(start, drop), timeout=TIMEOUT) as (server, carrier):
        begun = time.monotonic()
        answer = carrier.place(REQUEST)
        took = time.monotonic() - begun
    assert answer.verdict is Verdict.AMBIGUOUS
    assert took < 4 * TIMEOUT
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("other_status", [None, 418])
def test_the_carriers_code_decides(code, other_status):
    status, verdict = REFUSALS[code]
    with serving(problem(other_status or status, code)) as (server, carrier):
        answer = carrier.place(REQUEST)
    assert answer.verdict is verdict
    assert str(code) in answer.error
    assert len(server.requests) == 1


def test_a_known_code_decides_over_a_server_error():
    with serving(problem(503, 21211)) as (_, carrier):
        assert carrier.place(REQUEST).verdict is Verdict.REFUSED_CALLEE


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_about_us_even_without_a_body(status):
    with serving(http(status, b"<html>")) as (server, carrier):
        assert carrier.place(REQUEST).verdict is Verdict.REFUSED_US
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [*REFUSALS, 20500])
def test_errors_show_neither_numbers_nor_secrets(code):
    with serving(problem(400, code)) as (_, carrier):
        error = carrier.place(REQUEST).error
    assert TO[1:] not in error
    assert TOKEN not in error


def test_a_wrong_token_is_named():
    with serving(problem(401, 20003)) as (_, carrier):
        assert carrier.place(REQUEST).error == "20003: Authenticate (check TWILIO_AUTH_TOKEN)"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("99999999", 86_400.0),
        ("", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
    ],
)
def test_the_wait_that_the_carrier_names_is_read(header, seconds):
    with serving(http(429, b"", f"Retry-After: {header}")) as (server, carrier):
        answer = carrier.place(REQUEST)
    assert (answer.verdict, answer.retry_after) == (Verdict.TRY_LATER, seconds)
    assert len(server.requests) == 1


def test_the_wait_may_be_a_date():
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with serving(problem(429, 20429, f"Retry-After: {at}")) as (_, carrier):
        assert 27 < carrier.place(REQUEST).retry_after <= 30


def test_a_429_without_a_wait_has_none():
    with serving(problem(429, 20429)) as (_, carrier):
        assert carrier.place(REQUEST).retry_after is None


def carrier_at(url):
    return from_config(
        Settings(
            twilio_account_sid=ACCOUNT,
            twilio_auth_token=TOKEN,
            twilio_api_base_url=url,
            carrier_timeout=TIMEOUT,
        )
    )


def test_a_refused_connection_was_never_sent():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert carrier_at(f"http://127.0.0.1:{port}").place(REQUEST).verdict is Verdict.NEVER_SENT


def test_a_host_without_an_address_was_never_sent():
    assert carrier_at("http://nowhere.invalid").place(REQUEST).verdict is Verdict.NEVER_SENT


def test_a_connection_that_never_comes_about_was_never_sent():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(address)
        begun = time.monotonic()
        answer = carrier_at(f"http://127.0.0.1:{address[1]}").place(REQUEST)
        for other in others:
            other.close()
    assert answer.verdict is Verdict.NEVER_SENT
    assert time.monotonic() - begun < 4 * TIMEOUT


def test_a_name_that_takes_too_long_to_resolve_is_never_sent_late(monkeypatch):
    resolve = socket.getaddrinfo

    def slow(*args, **options):
        time.sleep(TIMEOUT)
        return resolve(*args, **options)

    with serving(CREATED, timeout=TIMEOUT) as (server, carrier):
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert carrier.place(REQUEST).verdict is Verdict.NEVER_SENT
    assert server.requests == []


def test_a_server_that_speaks_no_tls_was_never_sent():
    with serving(CREATED) as (server, _):
        carrier = carrier_at(server.url.replace("http:", "https:"))
        assert carrier.place(REQUEST).verdict is Verdict.NEVER_SENT
    assert server.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run(["openssl", *command.split(), *extra], check=True, capture_output=True)
    return path


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{certificate}.crt", certificate)
    return context


@pytest.fixture
def trusted(certificate, monkeypatch):
    monkeypatch.setattr("certifi.where", lambda: f"{certificate}.crt")


def test_a_certificate_that_nobody_vouches_for_was_never_sent(tls):
    with serving(CREATED, tls=tls) as (server, carrier):
        assert carrier.place(REQUEST).verdict is Verdict.NEVER_SENT
    assert server.requests == []


def test_tls_connections_are_used_again(tls, trusted):
    with serving(CREATED, tls=tls) as (server, carrier):
        for _ in range(3):
            assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    assert (len(server.requests), server.connections) == (3, 1)


@pytest.mark.parametrize(
    "worse",
    [closes, resets, waits, drips(b"HTTP/1.1 201 Created\r\nX: ", b"y")],
    ids=["closed", "reset", "no answer", "drip"],
)
def test_tls_that_breaks_after_the_request_is_ambiguous_and_leaves_once(worse, tls, trusted):
    with serving(worse, timeout=TIMEOUT, tls=tls) as (server, carrier):
        begun = time.monotonic()
        assert carrier.place(REQUEST).verdict is Verdict.AMBIGUOUS
        assert time.monotonic() - begun < 4 * TIMEOUT
    assert len(server.requests) == 1


def test_connections_are_used_again():
    with serving(CREATED) as (server, carrier):
        for _ in range(5):
            assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    assert (len(server.requests), server.connections) == (5, 1)


def test_a_refusal_leaves_the_connection_usable():
    with serving(problem(400, 21211), CREATED) as (server, carrier):
        carrier.place(REQUEST)
        assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    assert server.connections == 1


def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent():
    def answers_and_closes(connection):
        connection.sendall(CREATED)
        return True

    with serving(answers_and_closes, CREATED) as (server, carrier):
        carrier.place(REQUEST)
        time.sleep(0.1)
        assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.parametrize("worse", [closes, resets], ids=["closed", "reset"])
def test_a_used_connection_that_breaks_after_the_request_is_not_tried_again(worse):
    with serving(CREATED, worse, CREATED) as (server, carrier):
        carrier.place(REQUEST)
        assert carrier.place(REQUEST).verdict is Verdict.AMBIGUOUS
    assert (len(server.requests), server.connections) == (2, 1)


def test_a_connection_idle_for_long_is_not_trusted(monkeypatch):
    with serving(CREATED) as (server, carrier):
        carrier.place(REQUEST)
        monkeypatch.setattr("outbound.carriers.twilio._LONGEST_IDLE", 0.0)
        assert carrier.place(REQUEST).verdict is Verdict.ACCEPTED
    assert (len(server.requests), server.connections) == (2, 2)


def test_many_threads_send_each_request_once():
    with serving(CREATED, timeout=5.0) as (server, carrier):
        verdicts = []

        def work():
            verdicts.extend(carrier.place(REQUEST).verdict for _ in range(5))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == [Verdict.ACCEPTED] * 40
    assert len(server.requests) == 40
    assert server.connections <= 8


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def record(number=1, *, at=NOW, **more):
    return {
        "sid": f"CA{number:032}",
        "status": "in-progress",
        "to": TO,
        "from": CALLER_ID,
        "direction": "outbound-api",
        "date_created": format_datetime(at),
        "duration": None,
        **more,
    }


def test_a_call_is_looked_up():
    with serving(http(200, record(1, status="completed", duration="35"))) as (server, carrier):
        call = carrier.look_up(SID)
    assert server.requests[0][:2] == ("GET", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json")
    assert (call.progress, call.duration, call.created_at) == (Progress.ANSWERED, 35, NOW)
    assert (call.to, call.caller_id, call.placed_by_api) == (TO, CALLER_ID, True)


def test_an_unknown_call_is_none():
    with serving(problem(404, 20404)) as (_, carrier):
        assert carrier.look_up(SID) is None


@pytest.mark.parametrize("sid", ["..", "", "a/b/c/d/e/f", "CA1?x=yyyyy", "CA1#yyyyyyy", "x" * 99])
@pytest.mark.parametrize("verb", ["look_up", "attempt_of", "hang_up"])
def test_a_strange_id_never_becomes_a_path(sid, verb):
    with serving(CREATED) as (server, carrier), pytest.raises(CarrierUnavailable):
        getattr(carrier, verb)(sid)
    assert server.requests == []


FAILURES = [closes, resets, http(500), problem(401, 20003), http(200, b"<html>"), http(302)]


@pytest.mark.parametrize("answer", [*FAILURES, http(200, {}), http(200, record(status="odd"))])
def test_a_look_up_without_a_usable_answer_says_nothing(answer):
    with serving(answer) as (server, carrier), pytest.raises(CarrierUnavailable):
        carrier.look_up(SID)
    assert len(server.requests) == 1


UNUSABLE_LISTS = [
    problem(404, 20404),
    http(200, {"calls": 5}),
    http(200, {"calls": [5]}),
    http(200, {"calls": [record(status=["odd"])]}),
]


@pytest.mark.parametrize("answer", [*FAILURES, *UNUSABLE_LISTS])
def test_a_search_without_a_usable_answer_says_nothing(answer):
    with serving(answer) as (_, carrier), pytest.raises(CarrierUnavailable):
        carrier.find(to=TO, caller_id=CALLER_ID, since=NOW)


def test_a_search_asks_by_to_and_from_and_by_no_date():
    with serving(http(200, {"calls": []})) as (server, carrier):
        assert carrier.find(to=TO, caller_id=CALLER_ID, since=NOW) == []
    url = urlsplit(server.requests[0][1])
    assert url.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert parse_qs(url.query) == {"To": [TO], "From": [CALLER_ID], "PageSize": ["100"]}


def test_a_search_leaves_out_what_is_older_and_marks_what_people_dialled():
    calls = [
        record(1, status="queued", date_created=None),
        record(2, direction="inbound"),
        record(3, at=NOW - timedelta(hours=1)),
    ]
    with serving(http(200, {"calls": calls})) as (_, carrier):
        found = carrier.find(to=TO, caller_id=CALLER_ID, since=NOW)
    assert [call.carrier_call_id[-1] for call in found] == ["1", "2"]
    assert [call.placed_by_api for call in found] == [True, False]


def page(*calls, following="http://elsewhere.example/2010-04-01/x?Page=1&PageToken=PA%201"):
    return http(200, {"calls": list(calls), "next_page_uri": following})


def test_a_search_follows_pages_but_to_no_other_host():
    with serving(page(record(1)), page(record(2), following=None)) as (server, carrier):
        assert len(carrier.find(to=TO, caller_id=CALLER_ID, since=NOW)) == 2
    url = urlsplit(server.requests[1][1])
    assert url.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert parse_qs(url.query) == {"Page": ["1"], "PageToken": ["PA 1"]}


def test_a_search_stops_at_older_calls():
    with serving(page(record(1)), page(record(2, at=NOW - timedelta(1)))) as (server, carrier):
        assert len(carrier.find(to=TO, caller_id=CALLER_ID, since=NOW)) == 1
    assert len(server.requests) == 2


def test_a_search_without_end_is_given_up():
    with serving(page(record(1))) as (server, carrier), pytest.raises(CarrierUnavailable):
        carrier.find(to=TO, caller_id=CALLER_ID, since=NOW)
    assert len(server.requests) == 10


def test_all_calls_from_a_number_are_walked_in_large_pages_up_to_older_ones():
    old = record(3, at=NOW - timedelta(1))
    with serving(page(record(1)), page(record(2)), page(old)) as (server, carrier):
        assert len(list(carrier.calls_from(CALLER_ID, NOW))) == 2
    assert parse_qs(urlsplit(server.requests[0][1]).query) == {
        "From": [CALLER_ID],
        "PageSize": ["1000"],
    }
    assert len(server.requests) == 3


def events(*urls):
    listed = [{"request": {"method": "POST", "url": url}, "response": {}} for url in urls]
    return http(200, {"events": listed})


@pytest.mark.parametrize("url", [CALLBACK, CALLBACK + "/", CALLBACK + "?a=b#rc=5&rp=all"])
def test_the_attempt_is_read_from_the_calls_events(url):
    with serving(events("https://answer.example/twiml", url)) as (server, carrier):
        assert carrier.attempt_of(SID) == ATTEMPT
    target = server.requests[0][1]
    assert target.startswith(f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}/Events.json")


@pytest.mark.parametrize(
    "answer",
    [
        events(),
        events(f"https://x.example/?u=/webhooks/twilio/{ATTEMPT}", "http://[", None, 5),
        events(f"https://x.example/webhooks/other/{ATTEMPT}"),
        events("https://x.example/webhooks/twilio/" + "-" * 36),
        http(200, {"events": [{}, {"request": None}, {"request": "x"}]}),
        problem(404, 20404),
    ],
)
def test_events_that_name_no_attempt_give_none(answer):
    with serving(answer) as (_, carrier):
        assert carrier.attempt_of(SID) is None


@pytest.mark.parametrize("answer", FAILURES)
def test_events_without_a_usable_answer_say_nothing(answer):
    with serving(answer) as (_, carrier), pytest.raises(CarrierUnavailable):
        carrier.attempt_of(SID)


@pytest.mark.parametrize("answer", [http(200, record()), problem(400, 21220), problem(404, 20404)])
def test_a_call_is_hung_up_or_over_already(answer):
    with serving(answer) as (server, carrier):
        carrier.hang_up(SID)
    method, target, _, form = server.requests[0]
    assert (method, target) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{SID}.json")
    assert form == {"Status": ["completed"]}


@pytest.mark.parametrize("answer", [closes, http(500), problem(400, 20001), http(302)])
def test_a_hang_up_without_a_usable_answer_is_told(answer):
    with serving(answer) as (server, carrier), pytest.raises(CarrierUnavailable):
        carrier.hang_up(SID)
    assert len(server.requests) == 1
