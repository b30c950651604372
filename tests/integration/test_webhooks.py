"""Callbacks: verified first, idempotent, monotonic, committed before they are answered."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlencode
from uuid import uuid4

import falcon.testing
import pytest
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from factories import (
    attempt_of,
    call_of,
    claim,
    counters_of,
    make_account,
    make_run,
    phone,
    record,
    rows,
    run_of,
)
from outbound import recording
from outbound.api.app import create_app
from outbound.carriers import base
from outbound.carriers.base import Progress
from outbound.recording import Together
from outbound.states import Kind
from processes import wait_until
from races import wait_for_a_waiter

SID = "CA" + "1" * 32


@pytest.fixture
def http(node):
    return falcon.testing.TestClient(create_app(node, base.load(node.settings)))


@pytest.fixture
def call(node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    (claimed,) = claim(node, account)
    return claimed


def signed(settings, attempt, status, *, sid=SID, token=None, request_id=None, **extra):
    """What simulate_post() takes for a callback."""
    path = f"/webhooks/twilio/{attempt}"
    form = {"CallSid": sid, "CallStatus": status, "CalledCity": "", "To": phone(1)} | extra
    signer = RequestValidator(token or settings.twilio_auth_token)
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": signer.compute_signature(settings.public_base_url + path, form),
    }
    if request_id:
        headers["X-Request-Id"] = request_id
    return {"path": path, "body": urlencode(form), "headers": headers}


@pytest.fixture
def send(http, settings, call):
    def post(status, attempt=None, **known):
        return http.simulate_post(**signed(settings, attempt or call.attempt_id, status, **known))

    return post


def test_the_carriers_words_settle_the_call(send, engine, call):
    for status in ("ringing", "in-progress", "completed"):
        answer = send(status, CallDuration="9")
        assert (answer.status_code, answer.text) == (204, "")
    assert attempt_of(engine, call.attempt_id)["duration"] == 9
    assert call_of(engine, call.call_id)["outcome"] == "answered"
    assert run_of(engine, call.run_id)["status"] == "completed"


def test_replays_and_older_words_are_204_and_change_nothing(send, engine, call):
    send("busy")
    before = rows(engine, "SELECT * FROM events"), attempt_of(engine, call.attempt_id)
    for status in ("busy", "ringing", "completed", "in-progress"):
        assert send(status).status_code == 204
    assert (rows(engine, "SELECT * FROM events"), attempt_of(engine, call.attempt_id)) == before


def test_a_callback_that_overtakes_the_answer_settles_the_attempt(node, send, engine, call):
    assert send("completed").status_code == 204
    record(node, call.attempt_id, Kind.WORD, carrier_call_id=SID, progress=Progress.QUEUED)
    assert call_of(engine, call.call_id)["outcome"] == "answered"
    assert counters_of(engine, call.run_id)["in_progress"] == 0


@pytest.mark.parametrize(
    "forge",
    [
        lambda send, call: send("completed", token="wrong"),
        lambda send, call: send("completed", attempt=uuid4(), token="wrong"),
        lambda send, call: send("completed", attempt="nonsense", token="wrong"),
    ],
)
def test_a_forged_callback_is_403_whether_the_attempt_exists_or_not(send, engine, call, forge):
    answer = forge(send, call)
    assert answer.status_code == 403
    assert "attempt" not in answer.text.replace(answer.json["instance"], "")
    assert attempt_of(engine, call.attempt_id)["state"] == "sending"


def test_a_callback_without_a_signature_or_with_a_changed_field_is_403(http, engine, call):
    path = f"/webhooks/twilio/{call.attempt_id}"
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for headers in ({}, {"X-Twilio-Signature": ""}, {"X-Twilio-Signature": "AAAA"}):
        answer = http.simulate_post(
            path, body=f"CallSid={SID}&CallStatus=completed", headers=kind | headers
        )
        assert answer.status_code == 403
    assert http.simulate_post(path).status_code == 403
    assert attempt_of(engine, call.attempt_id)["state"] == "sending"


def test_a_thousand_forgeries_change_nothing(send, engine, call):
    assert {send("completed", token=f"t{n}").status_code for n in range(1000)} == {403}
    assert attempt_of(engine, call.attempt_id)["state"] == "sending"


def test_an_unknown_attempt_is_404_and_another_carrier_too(send, http):
    assert send("completed", attempt=uuid4()).status_code == 404
    assert http.simulate_post(f"/webhooks/other/{uuid4()}").status_code == 404


def test_of_callbacks_that_are_written_together_each_gets_its_own_answer(
    monkeypatch, node, engine, settings, lines
):
    made = []
    monkeypatch.setattr(recording, "Together", lambda node: made.append(Together(node)) or made[0])
    app = falcon.testing.TestClient(create_app(node, base.load(settings)))
    account = make_account(engine)
    make_run(engine, account, [phone(n) for n in range(4)])
    first, *calls = claim(node, account)
    attempts = [calls[0].attempt_id, uuid4(), calls[1].attempt_id, calls[2].attempt_id]

    def of(attempt):
        return {"sid": f"CA{attempt.hex}", "request_id": f"r-{attempt}"}

    def ask(attempt):
        answer = app.simulate_post(**signed(settings, attempt, "completed", **of(attempt)))
        settled = rows(
            engine, "SELECT FROM attempts WHERE id = :id AND state = 'ended'", id=attempt
        )
        return answer.status_code, len(settled)

    with ThreadPoolExecutor(5) as pool:
        with engine.begin() as holder:
            holder.execute(
                text("SELECT FROM attempts WHERE id = :id FOR UPDATE"), {"id": first.attempt_id}
            )
            leading = pool.submit(ask, first.attempt_id)
            wait_for_a_waiter(engine)
            others = [pool.submit(ask, attempt) for attempt in attempts]
            wait_until(lambda: len(made[0]._waiting) == len(attempts), 20, "all wait")
        assert leading.result(20) == (204, 1)
        assert [one.result(20) for one in others] == [(204, 1), (404, 0), (204, 1), (204, 1)]
    received = lines("callback_received")
    assert {line["attempt_id"] for line in received} == {
        str(call.attempt_id) for call in (first, *calls)
    }
    for line in received:
        assert (line["request_id"], line["changed"]) == (f"r-{line['attempt_id']}", True)


def test_a_signed_word_that_we_do_not_know_is_204_and_changes_nothing(send, engine, call):
    assert send("transmogrified").status_code == 204
    assert attempt_of(engine, call.attempt_id)["state"] == "sending"


def test_another_carrier_id_is_204_and_a_stray(send, engine, call):
    send("ringing")
    assert send("ringing", sid="CA" + "2" * 32).status_code == 204
    assert len(rows(engine, "SELECT * FROM stray_carrier_calls")) == 1


def test_a_body_that_is_too_large_is_413(http, call):
    answer = http.simulate_post(
        f"/webhooks/twilio/{call.attempt_id}",
        body="x" * 70_000,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 413
