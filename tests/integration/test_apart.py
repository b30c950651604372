"""Big bodies are checked by another process: the same verdicts, few at once, and nobody waits."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import falcon.testing
import pytest

from factories import FakeCarrier, make_account, make_run, phone, rows
from outbound import accounts, apart, checker, checking, intake
from outbound.accounts import Caller
from outbound.api.app import create_app
from outbound.checking import Terms
from outbound.errors import Refused, Unavailable
from outbound.ids import uuid7
from processes import wait_until

RUNS = "/api/outbound/runs"
TERMS = Terms("US", ["+12025550100"], None, "<Response/>", private_answer_urls=False)


@pytest.fixture(autouse=True)
def all_are_big(monkeypatch):
    monkeypatch.setattr(apart, "BIG", 0)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started, and what to do to the next ones first."""
    there, start = [], apart._start

    def watched():
        child = start()
        there.append(child)
        if watched.signal:
            child.send_signal(watched.signal)
        return child

    watched.signal, watched.there = None, there
    monkeypatch.setattr(apart, "_start", watched)
    return watched


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def post(node, account):
    caller = Caller(account, uuid7(), "operator", "req-1")

    def send(data):
        raw = json.dumps(data).encode()
        return intake.create(node, caller, raw, hashlib.sha256(raw).digest(), "key")

    return send


def body(n=2, **fields):
    leads = [{"lead_id": f"l{i}", "phone": phone(i)} for i in range(n)]
    return {"leads": leads, "twiml": "<Response/>"} | fields


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def verdict(check, raw):
    try:
        return check(raw, TERMS)
    except Refused as refused:
        return vars(refused)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(body(2 * checker.PIECE + 1)).encode(),
        json.dumps(body(1, leads=[1, *body(3)["leads"] * checker.PIECE])).encode(),
        json.dumps(body(1, leads=[{"lead_id": "é\t", "phone": "202-555-0101"}])).encode(),
        json.dumps(body(on_duplicate="reject", allow_duplicate=True)).encode(),
        json.dumps(body(start_at="2130-01-01T00:00:00Z", metadata={"a": [None]})).encode(),
        json.dumps(body(caller_id="+12025550123", twiml=None, x=1, concurrency=0)).encode(),
        json.dumps(body(caller_id="+12025550123", expires_at="2000-01-01T00:00:00Z")).encode(),
        b"{",
        b'{"leads": [NaN]}',
        b"\xff",
    ],
)
def test_the_other_process_says_what_a_thread_of_ours_would(raw):
    assert verdict(apart.check, raw) == verdict(checking.check, raw)


def test_a_big_body_is_not_checked_in_the_serving_process(post, started, monkeypatch):
    monkeypatch.setattr(checking, "check", None)
    assert post(body()).status == 202
    (child,) = started.there
    assert child.returncode is not None


def test_a_small_body_starts_no_process(post, started, monkeypatch):
    monkeypatch.setattr(apart, "BIG", 10_000)
    assert post(body()).status == 202
    assert started.there == []


def test_a_kill_of_the_process_stores_nothing_and_asking_again_helps(post, started, engine):
    started.signal = signal.SIGKILL
    with pytest.raises(Unavailable, match="nothing was stored") as gone:
        post(body(5000))
    assert gone.value.retry_after
    tables = ("runs", "calls", "run_counters", "rejections", "events", "idempotency_keys")
    assert all(rows(engine, f"SELECT FROM {table}") == [] for table in tables)
    started.signal = None
    assert post(body(5000)).status == 202


def test_one_that_cannot_be_started_is_no_bug_of_the_request(post, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="nothing was stored"):
        post(body())


def test_a_process_that_takes_too_long_is_ended(post, started, monkeypatch):
    monkeypatch.setattr(apart, "CHECK_SECONDS", 0.1)
    started.signal = signal.SIGSTOP
    with pytest.raises(Unavailable):
        post(body())


def test_a_bug_in_it_is_told_without_anybodys_data():
    raw = json.dumps(body(leads=[{"lead_id": "a", "phone": "0525551234"}])).encode()
    with pytest.raises(AssertionError, match=r"checking failed: TypeError at .*:\d+$") as told:
        apart.check(raw, Terms(None, 5, None, "<Response/>", private_answer_urls=False))
    assert "5551234" not in str(told.value)


def test_it_ends_with_the_process_that_asked_even_in_the_middle(tmp_path):
    program = """if True:
        import os, pickle, signal
        from outbound import apart
        child = apart._start()
        pickle.dump((b" " * 1_000_000, None), child.stdin)  # read, so it is past its beginning
        os.kill(child.pid, signal.SIGSTOP)
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    asked = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=60
    )
    assert asked.returncode == -signal.SIGKILL
    wait_until(lambda: is_gone(int(asked.stdout)), what="it outlived us")


def test_what_stops_a_service_does_not_stop_a_check_under_way():
    with apart._child() as child:
        pickle.dump((json.dumps(body()).encode() + b" " * 1_000_000, TERMS), child.stdin)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child.pid, number)
        child.stdin.close()
        assert len(pickle.load(child.stdout).columns) > 1  # noqa: S301


class TestPlaces:
    def test_whoever_finds_all_taken_is_told_to_come_again(self, monkeypatch):
        monkeypatch.setattr(apart, "WAIT_SECONDS", 0)
        with ExitStack() as taken:
            for _ in range(apart.AT_ONCE):
                taken.enter_context(apart.room())
            with pytest.raises(Unavailable, match="nothing was stored") as full, apart.room():
                pass
        assert full.value.retry_after
        with apart.room():
            pass

    def test_a_few_wait_and_one_more_does_not(self):
        entered, leave = [], threading.Event()

        def take():
            with apart.room():
                entered.append(1)
                leave.wait(60)

        most = apart.AT_ONCE + apart.WAITING
        with ThreadPoolExecutor(most) as pool:
            taking = [pool.submit(take) for _ in range(most)]
            wait_until(lambda: apart._line._value == 0)
            wait_until(lambda: len(entered) == apart.AT_ONCE)
            with pytest.raises(Unavailable), apart.room():
                pass
            leave.set()
            for one in taking:
                one.result(60)
        assert len(entered) == most

    def test_a_refused_body_leaves_its_place(self, post):
        for _ in range(apart.AT_ONCE + apart.WAITING + 1):
            with pytest.raises(Refused):
                post(body(concurrency=0))


def test_others_are_answered_while_two_big_bodies_are_being_checked(
    node, engine, account, started, monkeypatch
):
    with engine.begin() as connection:
        key = accounts.create_key(connection, account, "operator")[1]
    run = make_run(engine, account, [phone(99)])
    http = falcon.testing.TestClient(create_app(node, FakeCarrier()))
    headers = {"Authorization": f"Bearer {key}"}

    def send(n):
        return http.simulate_post(RUNS, json=body(10, name=f"run {n}"), headers=headers)

    monkeypatch.setattr(apart, "WAIT_SECONDS", 0)
    started.signal = signal.SIGSTOP
    with ThreadPoolExecutor(apart.AT_ONCE) as pool:
        posted = [pool.submit(send, n) for n in range(apart.AT_ONCE)]
        wait_until(lambda: len(started.there) == apart.AT_ONCE)
        for _ in range(20):
            assert http.simulate_get(f"{RUNS}/{run}", headers=headers).status_code == 200
        full = send(apart.AT_ONCE)
        assert (full.status_code, full.headers["Retry-After"]) == (503, "10")
        assert full.json["type"] == "urn:outbound:problem:unavailable"
        assert not any(one.done() for one in posted)
        for child in started.there:
            child.send_signal(signal.SIGCONT)
        assert [one.result(60).status_code for one in posted] == [202, 202]
