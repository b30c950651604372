"""The emulator as its clients meet it: a real process, over HTTP, by the official SDK."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qsl

import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from outbound.carriers.emulator import DEV_ACCOUNT_SID, DEV_AUTH_TOKEN

FROM = "+14155550100"
ALL_EVENTS = ["initiated", "ringing", "answered", "completed"]
TWIML = "<Response><Say>Hello</Say></Response>"
_fresh = count(1000)


def a_phone(ending="30"):
    return f"+1415555{next(_fresh):04}{ending}"


def until(condition, seconds=5.0):
    """Wait until a condition holds, and give its value."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came about"
        pause.wait(0.01)
    return value


class Emulator:
    """A running emulator process, and a client of it."""

    def __init__(self, ledger, *options):
        self.ledger_file = ledger
        command = [sys.executable, "-m", "outbound.carriers.emulator"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--ledger", str(ledger), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = json.loads(self.process.stdout.readline() or "{}")
        self.url = self.ready.get("url", "")
        self.http = TwilioHttpClient(timeout=10)
        self.client = Client(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN, http_client=self.http)
        self.client.api.base_url = self.url

    def call(self, to=None, **fields):
        return self.client.calls.create(
            to=to or a_phone(), from_=FROM, **({"twiml": TWIML} | fields)
        )

    def summary(self):
        return requests.get(f"{self.url}/_emulator/summary", timeout=5).json()

    def rows(self):
        answer = requests.get(f"{self.url}/_emulator/ledger?format=ndjson", timeout=5)
        return {row["call_sid"]: row for row in map(json.loads, answer.text.splitlines())}

    def calls_to(self, phone):
        return [row for row in self.rows().values() if row["to"] == phone]

    def set_faults(self, **faults):
        answer = requests.put(f"{self.url}/_emulator/faults", json=faults, timeout=5)
        assert answer.status_code == 200, answer.text

    def ended(self, call):
        return until(lambda: (row := self.rows()[call.sid])["ended_at"] and row)

    def kill(self, number):
        os.kill(self.process.pid, number)
        return self.process.wait(5)

    def close(self):
        if self.process.poll() is None:
            self.kill(signal.SIGKILL)
        self.http.session.close()
        self.process.stdout.close()
        self.process.stderr.close()


@contextmanager
def emulator(ledger, *options):
    running = Emulator(ledger, *options)
    try:
        yield running
    finally:
        running.close()


class Receiver(ThreadingHTTPServer):
    """A web server that takes callbacks, answering first what it is told to."""

    daemon_threads = True

    def __init__(self, port=0):
        self.got = []
        self.answers = []
        super().__init__(("127.0.0.1", port), _Take)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def of(self, call):
        return [request for request in self.got if request["form"]["CallSid"] == call.sid]

    def statuses_of(self, call):
        return [request["form"]["CallStatus"] for request in self.of(call)]

    def genuine(self, request):
        return RequestValidator(DEV_AUTH_TOKEN).validate(
            f"{self.address}{request['path']}",
            request["form"],
            request["headers"]["X-Twilio-Signature"],
        )

    def close(self):
        self.shutdown()
        self.server_close()


class _Take(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = dict(parse_qsl(body, keep_blank_values=True))
        self.server.got.append({"path": self.path, "headers": dict(self.headers), "form": form})
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.end_headers()

    def do_GET(self):
        self.server.got.append({"path": self.path, "headers": dict(self.headers), "form": {}})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    options = ("--ring-seconds", "0", "--talk-seconds", "0", "--callback-retry-delay", "0.02")
    with emulator(tmp_path_factory.mktemp("emulator") / "ledger", *options) as running:
        yield running


@pytest.fixture
def carrier(shared):
    yield shared
    shared.set_faults()


def refused(carrier, **fields):
    with pytest.raises(TwilioRestException) as told:
        carrier.call(**fields)
    return told.value


# Twilio's REST shape


def test_it_says_in_one_line_that_it_is_ready(carrier):
    assert carrier.ready["event"] == "emulator_ready"
    assert carrier.ready["level"] == "info"
    assert carrier.ready["timestamp"].endswith("Z")
    assert carrier.ready["consumer_source"] == "cli"
    assert carrier.ready["worker_id"].endswith(f":{carrier.process.pid}")


def test_the_sdk_creates_a_call_and_fetches_it(carrier):
    call = carrier.call(timeout=20)
    assert (call.status, call.direction, call.start_time) == ("queued", "outbound-api", None)
    assert call.sid.startswith("CA")
    assert len(call.sid) == 34
    carrier.ended(call)
    fetched = carrier.client.calls(call.sid).fetch()
    assert (fetched.status, fetched.to, fetched._from) == ("completed", call.to, FROM)
    assert fetched.date_created == call.date_created
    assert fetched.start_time is not None


def test_two_equal_creates_make_two_calls(carrier):
    phone = a_phone()
    assert carrier.call(phone).sid != carrier.call(phone).sid
    assert len(carrier.calls_to(phone)) == 2


def test_the_sdk_lists_calls_newest_first_page_by_page(carrier):
    phone = a_phone()
    made = [carrier.call(phone).sid for _ in range(5)]
    listed = carrier.client.calls.list(to=phone, page_size=2)
    assert [call.sid for call in listed] == made[::-1]
    assert len(carrier.client.calls.list(to=phone, limit=3)) == 3


def test_a_page_stays_where_it_was_while_calls_come_in(carrier):
    phone = a_phone()
    made = [carrier.call(phone).sid for _ in range(4)]
    page = carrier.client.calls.page(to=phone, page_size=2)
    carrier.call(phone)
    assert [call.sid for call in page.next_page()] == [made[1], made[0]]


def test_a_list_is_filtered_by_to_from_and_status(carrier):
    live, over = carrier.call(a_phone("05")), carrier.call()
    carrier.ended(over)
    calls = carrier.client.calls
    assert [call.sid for call in calls.list(to=over.to, from_=FROM)] == [over.sid]
    assert calls.list(to=over.to, from_="+14155550199") == []
    assert calls.list(to=over.to, status="ringing") == []
    assert [call.sid for call in calls.list(to=live.to, status="ringing")] == [live.sid]


@pytest.mark.parametrize(("ending", "status"), [("05", "ringing"), ("09", "queued")])
@pytest.mark.parametrize("wish", ["canceled", "completed"])
def test_a_call_that_nobody_answered_yet_is_hung_up_as_canceled(carrier, ending, status, wish):
    call = carrier.call(a_phone(ending))
    until(lambda: carrier.rows()[call.sid]["status"] == status)
    assert carrier.client.calls(call.sid).update(status=wish).status == "canceled"


def test_a_call_in_progress_ends_as_completed_and_then_cannot_be_ended_again(tmp_path):
    options = ("--ring-seconds", "0", "--talk-seconds", "600")
    with emulator(tmp_path / "ledger", *options) as carrier:
        call = carrier.call()
        until(lambda: carrier.rows()[call.sid]["status"] == "in-progress")
        handle = carrier.client.calls(call.sid)
        assert handle.update(status="canceled").status == "in-progress"
        assert handle.update(status="completed").status == "completed"
        with pytest.raises(TwilioRestException) as told:
            handle.update(status="completed")
        assert (told.value.status, told.value.code) == (400, 21220)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "12345"}, 21211),
        ({"to": "+14155550107"}, 21211),
        ({"to": "+14155550108"}, 21214),
        ({"twiml": ""}, 21205),
    ],
)
def test_a_wrong_create_is_refused_as_by_twilio(carrier, fields, code):
    before = carrier.summary()
    assert (refused(carrier, **fields).status, refused(carrier, **fields).code) == (400, code)
    assert carrier.summary()["calls"] == before["calls"]
    assert carrier.summary()["creates_refused"] == before["creates_refused"] + 2


def test_a_wrong_login_is_refused(carrier):
    stranger = Client(DEV_ACCOUNT_SID, "wrong", http_client=carrier.http)
    stranger.api.base_url = carrier.url
    for ask in (
        lambda: stranger.calls.create(to=a_phone(), from_=FROM, twiml=TWIML),
        lambda: stranger.calls("CA1").fetch(),
    ):
        with pytest.raises(TwilioRestException) as told:
            ask()
        assert (told.value.status, told.value.code) == (401, 20003)


def test_an_unknown_call_or_page_is_not_found(carrier):
    with pytest.raises(TwilioRestException) as told:
        carrier.client.calls("CA1").fetch()
    assert (told.value.status, told.value.code) == (404, 20404)
    answer = requests.get(
        f"{carrier.url}/2010-04-01/Nowhere.json",
        auth=(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN),
        timeout=5,
    )
    assert answer.json()["code"] == 20404


# What the phones do


@pytest.mark.parametrize(
    ("ending", "end", "told"),
    [
        ("00", "completed", ["initiated", "ringing", "in-progress", "completed"]),
        ("01", "busy", ["initiated", "busy"]),
        ("02", "no-answer", ["initiated", "ringing", "no-answer"]),
        ("03", "failed", ["initiated", "failed"]),
        ("04", "completed", []),
        ("06", "completed", ["initiated", "ringing", "in-progress", "completed"]),
        ("30", "completed", ["initiated", "ringing", "in-progress", "completed"]),
    ],
)
def test_the_numbers_ending_decides_what_the_phone_does(carrier, receiver, ending, end, told):
    call = carrier.call(
        a_phone(ending),
        status_callback=f"{receiver.address}/cb",
        status_callback_event=ALL_EVENTS,
        machine_detection="Enable",
    )
    assert carrier.ended(call)["status"] == end
    until(lambda: carrier.rows()[call.sid]["callbacks_ok"] == len(told))
    assert sorted(receiver.statuses_of(call)) == sorted(told)
    if ending == "06":
        assert carrier.client.calls(call.sid).fetch().answered_by == "machine_start"


# The ledger


def test_the_ledger_knows_whose_call_it_is(carrier, receiver):
    address = f"{receiver.address}/webhooks/twilio/att-77?x=1#rc=5&rp=all"
    call = carrier.call(status_callback=address)
    row = until(lambda: (row := carrier.rows()[call.sid])["callbacks_ok"] == 1 and row)
    assert row["attempt_id"] == "att-77"
    assert (row["to"], row["from"], row["status"]) == (call.to, FROM, "completed")
    assert row["accepted_at"] <= row["answered_at"] <= row["ended_at"]
    listed = requests.get(f"{carrier.url}/_emulator/ledger", timeout=5).json()
    assert row in listed


def test_an_empty_ledger_is_an_empty_list(tmp_path):
    with emulator(tmp_path / "folder" / "ledger") as carrier:
        address = f"{carrier.url}/_emulator/ledger"
        assert requests.get(address, timeout=5).json() == []
        assert requests.get(f"{address}?format=ndjson", timeout=5).text == ""
        assert requests.get(f"{address}?format=xml", timeout=5).status_code == 400
        assert carrier.summary()["most_calls_to_one_phone"] == 0


def test_no_answered_create_is_lost_by_a_kill(tmp_path):
    ledger, at_once = tmp_path / "ledger", ("--ring-seconds", "0", "--talk-seconds", "0")
    answered = []

    def create_until_it_dies(carrier):
        http = TwilioHttpClient(timeout=5)
        client = Client(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN, http_client=http)
        client.api.base_url = carrier.url
        try:
            while True:
                answered.append(client.calls.create(to=a_phone(), from_=FROM, twiml=TWIML).sid)
        except requests.RequestException:
            http.session.close()

    with emulator(ledger, *at_once) as carrier, ThreadPoolExecutor(4) as pool:
        work = [pool.submit(create_until_it_dies, carrier) for _ in range(4)]
        until(lambda: len(answered) >= 50)
        carrier.kill(signal.SIGKILL)
        for each in work:
            each.result(10)
    with ledger.open("ab") as file:
        file.write(b'{"event": "accep')
    with emulator(ledger, *at_once) as carrier:
        assert carrier.ready["torn_lines_skipped"] == 1
        assert set(answered) <= set(carrier.rows())
        until(lambda: carrier.summary()["live_now"] == 0)


def test_a_call_goes_on_after_a_restart_and_is_told_of(tmp_path, receiver):
    ledger = tmp_path / "ledger"
    with emulator(ledger, "--ring-seconds", "1", "--talk-seconds", "0") as carrier:
        call = carrier.call(status_callback=f"{receiver.address}/cb")
        until(lambda: carrier.rows()[call.sid]["status"] == "ringing")
        carrier.kill(signal.SIGKILL)
    with emulator(ledger) as carrier:
        assert carrier.ready["calls_resumed"] == 1
        assert carrier.ended(call)["status"] == "completed"
        until(lambda: receiver.statuses_of(call) == ["completed"])


def test_a_second_emulator_on_the_same_ledger_says_so_in_one_line(carrier):
    with emulator(carrier.ledger_file) as second:
        assert second.process.wait(10) == 1
        told = second.process.stderr.read()
    assert "another emulator is using it" in told
    assert len(told.splitlines()) == 1


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path, receiver):
    with emulator(tmp_path / "ledger", "--port", str(receiver.server_port)) as second:
        assert second.process.wait(10) == 1
        told = second.process.stderr.read()
    assert "cannot listen" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly_though_an_answer_is_held_back(tmp_path, number):
    options = ("--faults", '{"accept_then_timeout": 100}')
    with emulator(tmp_path / "ledger", *options) as carrier, ThreadPoolExecutor(1) as pool:
        held = pool.submit(carrier.call)
        until(lambda: carrier.summary()["calls"] == 1)
        assert carrier.kill(number) == 0
        with pytest.raises(requests.ConnectionError):
            held.result(5)
        assert carrier.process.stderr.read() == ""


def test_it_stops_cleanly_though_a_callback_is_under_way(tmp_path):
    deaf = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{deaf.getsockname()[1]}/cb"
    options = ("--ring-seconds", "0", "--talk-seconds", "0")
    with deaf, emulator(tmp_path / "ledger", *options) as carrier:
        carrier.call(status_callback=address)
        until(lambda: carrier.summary()["callbacks"]["in_flight"] == 1)
        assert carrier.kill(signal.SIGTERM) == 0
        assert carrier.process.stderr.read() == ""


# Callbacks


def test_callbacks_are_signed_numbered_and_have_blank_fields(carrier, receiver):
    address = f"{receiver.address}/webhooks/att-1?token=a%20b&blank="
    call = carrier.call(status_callback=f"{address}#rc=5&rp=all", status_callback_event=ALL_EVENTS)
    got = until(lambda: len(told := receiver.of(call)) == 4 and told)
    assert all(receiver.genuine(request) for request in got)
    assert {request["path"] for request in got} == {"/webhooks/att-1?token=a%20b&blank="}
    numbers = {r["form"]["SequenceNumber"]: r["form"]["CallStatus"] for r in got}
    assert numbers == {"0": "initiated", "1": "ringing", "2": "in-progress", "3": "completed"}
    assert len({request["headers"]["I-Twilio-Idempotency-Token"] for request in got}) == 4
    last = next(r["form"] for r in got if r["form"]["CallStatus"] == "completed")
    assert last["CalledCity"] == ""
    assert (last["AccountSid"], last["To"], last["From"]) == (DEV_ACCOUNT_SID, call.to, FROM)
    assert (last["SipResponseCode"], last["CallbackSource"]) == ("200", "call-progress-events")
    assert last["CallDuration"].isdigit()


def test_only_the_end_is_told_unless_more_is_asked_for(carrier, receiver):
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    until(lambda: carrier.rows()[call.sid]["callbacks_ok"] == 1)
    assert receiver.statuses_of(call) == ["completed"]
    assert receiver.of(call)[0]["form"]["SequenceNumber"] == "0"


def test_a_callback_is_tried_again_under_one_token_as_its_fragment_says(carrier, receiver):
    receiver.answers = [500, 503, 404]
    call = carrier.call(status_callback=f"{receiver.address}/cb#rc=5&rp=all")
    until(lambda: carrier.rows()[call.sid]["callbacks_ok"] == 1)
    got = receiver.of(call)
    assert len(got) == 4
    assert len({request["headers"]["I-Twilio-Idempotency-Token"] for request in got}) == 1


def test_by_default_an_answer_of_500_is_not_tried_again(carrier, receiver):
    receiver.answers = [500]
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    until(lambda: carrier.rows()[call.sid]["callbacks_sent"] == 1)
    assert len(receiver.of(call)) == 1
    assert carrier.rows()[call.sid]["callbacks_ok"] == 0


def test_a_callback_reaches_a_server_that_was_down_for_a_while(tmp_path):
    down = socket.create_server(("127.0.0.1", 0))
    down.settimeout(10)
    port = down.getsockname()[1]
    address = f"http://127.0.0.1:{port}/cb#rc=5"
    options = ("--ring-seconds", "0", "--talk-seconds", "0", "--callback-retry-delay", "0.3")
    with emulator(tmp_path / "ledger", *options) as carrier:
        call = carrier.call(status_callback=address)
        first_try, _ = down.accept()
        first_try.close()
        down.close()
        back = Receiver(port)
        until(lambda: carrier.summary()["callbacks"]["ok"] == 1)
        assert back.statuses_of(call) == ["completed"]
        assert carrier.summary()["callbacks"]["retries"] >= 1
        back.close()


def test_the_events_name_each_request_with_the_callbacks_address(carrier, receiver):
    address = f"{receiver.address}/cb/att-5"
    call = carrier.call(
        twiml="", url="https://app.example/answer", status_callback=f"{address}#rc=2"
    )
    until(lambda: carrier.rows()[call.sid]["callbacks_ok"] == 1)
    events = carrier.client.calls(call.sid).events.list()
    assert [event.request["url"] for event in events] == ["https://app.example/answer", address]
    assert events[1].request["parameters"] == receiver.of(call)[0]["form"]
    assert events[1].response["response_code"] == 204


@pytest.mark.parametrize("ending", ["04", "09", "30"])
def test_the_events_tell_whose_call_it_is_though_no_callback_ever_came(carrier, receiver, ending):
    carrier.set_faults(callbacks_lost=100)
    call = carrier.call(a_phone(ending), status_callback=f"{receiver.address}/cb/att-6#rc=2")
    (event,) = until(carrier.client.calls(call.sid).events.list)
    assert event.request["url"] == f"{receiver.address}/cb/att-6"
    assert event.response["response_code"] is None
    assert receiver.of(call) == []


def test_a_callback_by_get_has_its_form_in_the_query(carrier, receiver):
    carrier.call(status_callback=f"{receiver.address}/cb?a=1", status_callback_method="GET")
    (request,) = until(lambda: receiver.got)
    address = f"{receiver.address}{request['path']}"
    signature = request["headers"]["X-Twilio-Signature"]
    assert RequestValidator(DEV_AUTH_TOKEN).validate(address, {}, signature)
    assert "/cb?a=1&" in address
    assert "&CallStatus=completed" in address


# Faults


def hits(carrier, name):
    return carrier.summary()["faults"].get(name, 0)


def breaks(carrier, phone):
    with pytest.raises((requests.RequestException, TwilioRestException, ValueError)) as told:
        carrier.call(phone)
    return told.value


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("accept_then_timeout", requests.ConnectionError, None),
        ("accept_then_reset", requests.ConnectionError, None),
        ("accept_then_500", TwilioRestException, 20500),
        ("accept_then_rubbish", ValueError, None),
    ],
)
def test_a_create_is_accepted_though_its_answer_is_lost(carrier, fault, error, code):
    before, phone = hits(carrier, fault), a_phone()
    carrier.set_faults(**{fault: 100, "timeout_seconds": 0.05})
    told = breaks(carrier, phone)
    assert isinstance(told, error)
    assert getattr(told, "code", None) == code
    assert hits(carrier, fault) == before + 1
    (row,) = carrier.calls_to(phone)
    assert row["faults"] == [fault]
    until(lambda: carrier.calls_to(phone)[0]["status"] == "completed")


def test_a_reset_is_a_reset_on_the_wire(carrier):
    carrier.set_faults(accept_then_reset=100)
    assert "ConnectionResetError" in repr(breaks(carrier, a_phone()))


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("refuse_429", 429, 20429),
        ("refuse_500", 500, 20500),
        ("refuse_503", 503, 20503),
        ("answer_401", 401, 20003),
        ("hang_without_accepting", None, None),
    ],
)
def test_a_create_is_refused_and_there_is_no_call(carrier, fault, status, code):
    before, phone = carrier.summary(), a_phone()
    carrier.set_faults(**{fault: 100, "timeout_seconds": 0.05})
    told = breaks(carrier, phone)
    assert (getattr(told, "status", None), getattr(told, "code", None)) == (status, code)
    after = carrier.summary()
    assert after["faults"][fault] == before["faults"].get(fault, 0) + 1
    assert after["creates_refused"] == before["creates_refused"] + 1
    assert carrier.calls_to(phone) == []


def test_a_429_says_when_to_come_again(carrier):
    carrier.set_faults(refuse_429=100, retry_after_seconds=7)
    answer = requests.post(
        f"{carrier.url}/2010-04-01/Accounts/{DEV_ACCOUNT_SID}/Calls.json",
        data={"To": a_phone(), "From": FROM, "Twiml": TWIML},
        auth=(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN),
        timeout=5,
    )
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_a_create_may_be_accepted_after_its_client_has_gone(carrier):
    phone = a_phone()
    carrier.set_faults(accept_delay_seconds=0.3)
    impatient = TwilioHttpClient(timeout=0.1)
    client = Client(DEV_ACCOUNT_SID, DEV_AUTH_TOKEN, http_client=impatient)
    client.api.base_url = carrier.url
    with pytest.raises(requests.Timeout):
        client.calls.create(to=phone, from_=FROM, twiml=TWIML)
    impatient.session.close()
    assert carrier.calls_to(phone) == []
    until(lambda: carrier.calls_to(phone))


def test_a_callback_may_overtake_the_answer_to_its_create(carrier, receiver):
    carrier.set_faults(create_delay_seconds=0.3)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(carrier.call, status_callback=f"{receiver.address}/cb")
        until(lambda: receiver.got)
        assert not answer.done()
        assert receiver.statuses_of(answer.result(5)) == ["completed"]


def test_callbacks_are_lost(carrier, receiver):
    carrier.set_faults(callbacks_lost=100)
    before = carrier.summary()["callbacks"]["lost"]
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    until(lambda: carrier.summary()["callbacks"]["lost"] == before + 1)
    assert receiver.of(call) == []
    assert carrier.rows()[call.sid]["faults"] == ["callbacks_lost"]


def test_callbacks_are_doubled_under_one_token(carrier, receiver):
    carrier.set_faults(callbacks_doubled=100)
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    first, second = until(lambda: len(told := receiver.of(call)) == 2 and told)
    assert first["form"] == second["form"]
    token = "I-Twilio-Idempotency-Token"
    assert first["headers"][token] == second["headers"][token]
    assert hits(carrier, "callbacks_doubled")


def test_callbacks_come_ten_times_at_once(carrier, receiver):
    carrier.set_faults(callbacks_tenfold=100)
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    told = until(lambda: len(told := receiver.of(call)) == 10 and told)
    assert all(one["form"] == told[0]["form"] for one in told)
    assert hits(carrier, "callbacks_tenfold")


def test_callbacks_are_delayed(carrier, receiver):
    carrier.set_faults(callbacks_delayed=100, callback_delay_seconds=0.4)
    began = time.monotonic()
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    until(lambda: receiver.of(call))
    assert time.monotonic() - began >= 0.4
    assert hits(carrier, "callbacks_delayed")


def test_callbacks_are_reordered(carrier, receiver):
    carrier.set_faults(callbacks_reordered=100)
    receiver.answers = [500]
    call = carrier.call(
        status_callback=f"{receiver.address}/cb#rc=5&rp=all",
        status_callback_event=["answered", "completed"],
    )
    until(lambda: len(receiver.of(call)) == 3)
    # The earlier one even waits until the later one has been taken, at its second try.
    assert receiver.statuses_of(call) == ["completed", "completed", "in-progress"]
    assert hits(carrier, "callbacks_reordered")


def test_callbacks_are_forged_and_an_app_that_takes_them_is_told_on(carrier, receiver):
    carrier.set_faults(callbacks_forged=100)
    before = carrier.summary()["callbacks"]["forged_accepted"]
    call = carrier.call(status_callback=f"{receiver.address}/cb")
    got = until(lambda: len(told := receiver.of(call)) == 2 and told)
    told = {request["form"]["CallStatus"]: receiver.genuine(request) for request in got}
    assert told == {"completed": True, "failed": False}
    until(lambda: carrier.summary()["callbacks"]["forged_accepted"] == before + 1)


def test_look_ups_lag(carrier):
    carrier.set_faults(lookup_lag_seconds=0.5)
    call = carrier.call()
    assert carrier.client.calls.list(to=call.to) == []
    with pytest.raises(TwilioRestException) as told:
        carrier.client.calls(call.sid).fetch()
    assert told.value.code == 20404
    assert hits(carrier, "lookup_lag_seconds") >= 2
    until(lambda: carrier.client.calls.list(to=call.to))


def test_look_ups_find_nothing(carrier):
    call = carrier.call()
    carrier.set_faults(lookup_empty=100, lookup_404=100)
    assert carrier.client.calls.list(to=call.to) == []
    with pytest.raises(TwilioRestException) as told:
        carrier.client.calls(call.sid).fetch()
    assert told.value.status == 404
    assert hits(carrier, "lookup_empty")
    assert hits(carrier, "lookup_404")


def test_look_ups_fail(carrier):
    call = carrier.call()
    carrier.set_faults(lookup_500=100)
    with pytest.raises(TwilioRestException) as told:
        carrier.client.calls(call.sid).fetch()
    assert (told.value.status, told.value.code) == (500, 20500)
    assert hits(carrier, "lookup_500")


@pytest.mark.parametrize("body", ["{", "[]", '{"refuse_430": 1}', '{"refuse_429": 200}'])
def test_a_wrong_set_of_faults_is_refused_and_the_old_one_stays(carrier, body):
    carrier.set_faults(refuse_429=1)
    answer = requests.put(f"{carrier.url}/_emulator/faults", data=body, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("faults: ")
    in_force = requests.get(f"{carrier.url}/_emulator/faults", timeout=5).json()
    assert in_force["refuse_429"] == 1
    assert in_force["timeout_seconds"] == 30


@pytest.mark.parametrize(
    ("option", "code"),
    # What the command line itself can judge is a usage error, as with every command.
    [(("--mix", "asleep=1"), 2), (("--faults", '{"x": 1}'), 2), (("--talk-seconds", "-1"), 1)],
)
def test_a_wrong_option_stops_it_without_a_traceback(tmp_path, option, code):
    with emulator(tmp_path / "ledger", *option) as carrier:
        assert carrier.process.wait(10) == code
        assert "Traceback" not in carrier.process.stderr.read()
