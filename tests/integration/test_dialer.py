"""Claim, place, record: one worker's way of a call, with a carrier that the test controls."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from sqlalchemy import text

from factories import (
    FakeCarrier,
    attempt_of,
    call_of,
    claim,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    make_run,
    one,
    phone,
    record,
    rows,
    run_of,
)
from outbound import claims, doorbell, pace, recorder
from outbound.carriers.base import Answer, Verdict
from outbound.dialer import Dialer
from outbound.node import Node
from outbound.recorder import Answered
from outbound.states import Kind
from processes import wait_until
from races import wait_for_a_waiter


@pytest.fixture
def started(node):
    dialers = []

    def start(carrier, over=node):
        dialers.append(Dialer(over, carrier))
        return dialers[-1]

    yield start
    for dialer in dialers:
        dialer.close(10)


WAITING = """
    SELECT count(*) AS n FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


def is_rung(node, account):
    key = doorbell.ring_key(doorbell.DIAL, account)
    return bool(redis.Redis.from_url(node.settings.redis_url).exists(key))


def states(engine):
    return sorted(row["state"] for row in rows(engine, "SELECT state FROM attempts"))


def test_every_lead_is_placed_once_with_its_attempt_in_the_callback_url(node, engine, started):
    account = make_account(engine)
    run = make_run(engine, account, [phone(i) for i in range(30)])
    carrier = FakeCarrier()
    assert started(carrier).dial(account) == 30
    wait_until(lambda: states(engine) == ["placed"] * 30)
    assert sorted(r.to for r in carrier.requests) == [phone(i) for i in range(30)]
    for request in carrier.requests:
        assert request.callback_url.endswith(f"/webhooks/twilio/{request.attempt_id}")
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_as_many_requests_are_under_way_as_there_are_senders(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(40)])
    now, most, lock = [0], [0], threading.Lock()

    def answer(request):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)  # the carrier's own time
        with lock:
            now[0] -= 1
        return Answer(Verdict.ACCEPTED, f"CA{request.attempt_id.hex}")

    started(FakeCarrier(answer)).dial(account)
    wait_until(lambda: states(engine) == ["placed"] * 40)
    assert 1 < most[0] <= node.settings.senders


def test_a_message_that_comes_while_a_thread_is_at_its_account_is_not_forgotten(
    node, engine, started
):
    account = make_account(engine)
    dialer = started(FakeCarrier())
    with engine.begin() as connection, ThreadPoolExecutor(1) as pool:
        pace.lock(connection, account)
        first = pool.submit(dialer.dial, account)
        wait_until(lambda: one(engine, WAITING)["n"] == 1)
        assert dialer.dial(account) == 0
        assert not is_rung(node, account)
        connection.rollback()
        assert first.result(10) == 0
    assert is_rung(node, account)


def test_what_a_turn_takes_too_much_is_taken_off_the_next_one(node, engine, started, monkeypatch):
    turn = 9
    monkeypatch.setattr("outbound.dialer.TURN", turn)
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(150)])
    dialer = started(FakeCarrier(), replace(node, settings=replace(node.settings, senders=4)))
    taken = 0
    for turns in range(1, 11):
        taken += dialer.dial(account)
        assert turns * turn <= taken < turns * turn + 4


def test_a_lone_message_that_finds_nothing_rings_nobody(node, engine, started):
    account = make_account(engine)
    started(FakeCarrier()).dial(account)
    assert not is_rung(node, account)


def test_a_message_that_fails_rings_nobody(node, engine, started, monkeypatch):
    monkeypatch.setattr(claims, "claim", lambda *_: 1 / 0)
    account = make_account(engine)
    with pytest.raises(ZeroDivisionError):
        started(FakeCarrier()).dial(account)
    assert not is_rung(node, account)


def test_no_transaction_is_open_while_the_carrier_is_asked(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    asked, go = threading.Event(), threading.Event()

    def answer(request):
        assert attempt_of(engine, request.attempt_id)["state"] == "sending"
        asked.set()
        go.wait(10)
        return Answer(Verdict.ACCEPTED, "CA1")

    started(FakeCarrier(answer)).dial(account)
    assert asked.wait(10)
    open_ = one(
        engine,
        "SELECT count(*) AS n FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        " AND datname = current_database()",
    )
    go.set()
    assert open_["n"] == 0


@pytest.mark.parametrize(
    ("verdict", "attempt", "call"),
    [
        (Verdict.ACCEPTED, "placed", "live"),
        (Verdict.REFUSED_CALLEE, "ended", "failed"),
        (Verdict.REFUSED_US, "released", "queued"),
        (Verdict.TRY_LATER, "released", "queued"),
        (Verdict.NEVER_SENT, "released", "queued"),
        (Verdict.AMBIGUOUS, "unknown", "unknown"),
    ],
)
def test_each_answer_leads_to_its_state(node, engine, started, verdict, attempt, call):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    sid = "CA1" if verdict is Verdict.ACCEPTED else None
    started(FakeCarrier(lambda _: Answer(verdict, sid, error="so it is"))).dial(account)
    wait_until(lambda: states(engine) == [attempt])
    assert one(engine, "SELECT state FROM calls")["state"] == call


def test_an_exception_of_the_carrier_is_ambiguous(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])

    def answer(_):
        raise RuntimeError("a bug in somebody's adapter")

    started(FakeCarrier(answer)).dial(account)
    wait_until(lambda: states(engine) == ["unknown"])


def test_a_wrong_token_opens_the_breaker_and_burns_no_lead(node, engine, started):
    account = make_account(engine)
    run = make_run(engine, account, [phone(i) for i in range(200)])
    carrier = FakeCarrier(lambda _: Answer(Verdict.REFUSED_US, error="20003: check the token"))
    dialer = started(carrier)
    dialer.dial(account)
    wait_until(lambda: rows(engine, "SELECT * FROM breakers"))
    for _ in range(5):
        do(engine, "UPDATE calls SET next_attempt_at = clock_timestamp()")
        dialer.dial(account)
    assert len(carrier.requests) <= 3 * node.settings.senders
    wait_until(lambda: set(states(engine)) == {"released"})
    assert counters_of(engine, run)["queued"] == 200
    assert run_of(engine, run)["status"] == "running"
    assert "20003" in one(engine, "SELECT last_error FROM breakers")["last_error"]


def test_a_trial_that_the_carrier_accepts_closes_the_breaker(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(5)])
    do(engine, "INSERT INTO breakers VALUES (:a, 'twilio', now(), now(), 'x')", a=account)
    carrier = FakeCarrier()
    dialer = started(carrier)
    dialer.dial(account)
    wait_until(lambda: not rows(engine, "SELECT * FROM breakers"))
    assert len(carrier.requests) == 1
    dialer.dial(account)
    wait_until(lambda: len(carrier.requests) == 5)


def test_ten_lost_answers_in_a_row_open_the_breaker(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(60)])
    carrier = FakeCarrier(lambda _: Answer(Verdict.AMBIGUOUS, error="timeout"))
    started(carrier).dial(account)
    wait_until(lambda: rows(engine, "SELECT * FROM breakers"))
    assert len(carrier.requests) <= 10 + 3 * node.settings.senders


def test_a_carrier_that_asks_to_slow_down_is_left_alone(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(50)])
    carrier = FakeCarrier(lambda _: Answer(Verdict.TRY_LATER, error="20429", retry_after=30.0))
    dialer = started(carrier)
    dialer.dial(account)
    wait_until(lambda: one(engine, "SELECT not_before FROM account_pace")["not_before"])
    asked = len(carrier.requests)
    dialer.dial(account)
    assert len(carrier.requests) == asked <= 3 * node.settings.senders


def test_an_answer_after_the_wait_eases_the_back_off_whichever_worker_it_was_noted_by(
    node, engine, started
):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    do(engine, "UPDATE account_pace SET backoff_seconds = 32, not_before = clock_timestamp()")
    started(FakeCarrier()).dial(account)
    wait_until(lambda: states(engine) == ["placed"])
    assert one(engine, "SELECT backoff_seconds AS s FROM account_pace")["s"] == 0


def test_a_lease_that_is_too_short_to_send_gives_the_call_back_unsent(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    # A worker that was frozen between its claim and its sending: nothing is left of the lease.
    late = replace(node.settings, lease=node.settings.carrier_timeout)
    carrier = FakeCarrier()
    started(carrier, Node(late, node.engine, node.doorbell, node.source)).dial(account)
    wait_until(lambda: set(states(engine)) == {"released"})
    assert carrier.requests == []
    assert one(engine, "SELECT state, attempts FROM calls") == {"state": "queued", "attempts": 0}


def test_what_is_on_the_wire_when_the_worker_stops_is_finished_and_nothing_more_is_claimed(
    node, engine, started
):
    account = make_account(engine)
    run = make_run(engine, account, [phone(i) for i in range(50)])
    go, asked = threading.Event(), threading.Semaphore(0)

    def answer(request):
        asked.release()
        go.wait(10)
        return Answer(Verdict.ACCEPTED, f"CA{request.attempt_id.hex}")

    dialer = Dialer(node, FakeCarrier(answer))
    dial = threading.Thread(target=dialer.dial, args=(account,))
    dial.start()
    for _ in range(node.settings.senders):
        assert asked.acquire(timeout=10)
    closed = []
    closing = threading.Thread(target=lambda: closed.append(dialer.close(10)))
    closing.start()
    go.set()
    closing.join(15)
    dial.join(15)
    assert closed == [True]
    assert states(engine) == ["placed"] * node.settings.senders
    assert counters_of(engine, run)["queued"] == 50 - node.settings.senders


def test_time_alone_is_waited_for_by_the_workers_own_timer(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(i) for i in range(3)], calls_per_second=2.0)
    dialer = started(FakeCarrier())
    dialer.dial(account)
    key = doorbell.ring_key(doorbell.DIAL, account)
    wait_until(lambda: node.doorbell._redis.delete(key), 5)


def test_a_batch_with_one_answer_that_cannot_be_written_writes_the_others(node, engine, started):
    account = make_account(engine)
    make_run(engine, account, [phone(1), phone(2)])
    bad, good = claim(node, account)
    dialer = started(FakeCarrier())
    dialer._recorder.put(Answered(bad, Answer(Verdict.AMBIGUOUS, error="\x00")))
    dialer._recorder.put(Answered(good, Answer(Verdict.ACCEPTED, "CA1")))
    wait_until(lambda: attempt_of(engine, good.attempt_id)["state"] == "placed")
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")
    record(node, bad.attempt_id, Kind.LEASE_RAN_OUT, source="sweep")
    assert call_of(engine, bad.call_id)["state"] == "unknown"


def test_nothing_is_claimed_while_more_answers_than_a_batch_wait_to_be_written(
    node, engine, started, monkeypatch
):
    monkeypatch.setattr(recorder, "BATCH", 2)
    account = make_account(engine)
    make_run(engine, account, [phone(n) for n in range(8)])
    calls = claim(node, account, most=5)
    carrier = FakeCarrier()
    dialer = started(carrier)
    with ThreadPoolExecutor(1) as pool, engine.connect() as other:
        other.execute(text("SELECT FROM attempts FOR UPDATE"))
        for call in calls[:2]:
            dialer._recorder.put(Answered(call, Answer(Verdict.ACCEPTED, f"CA{call.call_id}")))
        wait_for_a_waiter(engine)
        for call in calls[2:]:
            dialer._recorder.put(Answered(call, Answer(Verdict.ACCEPTED, f"CA{call.call_id}")))
        dialled = pool.submit(dialer.dial, account)
        with pytest.raises(TimeoutError):
            dialled.result(0.3)
        assert not carrier.requests
        other.rollback()
        assert dialled.result(10) == 3
    wait_until(lambda: states(engine).count("placed") == 8)
