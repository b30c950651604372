"""Cancelling one call: the customer phoned in."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import falcon.testing
import pytest

from factories import (
    FakeCarrier,
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
    say,
)
from outbound import accounts, cancelling, hanging_up, runs, stopping, suppressions
from outbound.api import quiet
from outbound.api.app import create_app
from outbound.carriers.base import Progress
from outbound.errors import Refused
from outbound.reconciler import sweeps, table
from outbound.reconciler.sweeps import Scope
from outbound.states import Decision, Kind
from races import claim_under_way, held_before_its_commit, in_background, wait_for_a_waiter


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def key(engine, account):
    with engine.begin() as connection:
        return accounts.create_key(connection, account, "operator")


@pytest.fixture
def cancel(node, account, key):
    who = accounts.Caller(account, key[0], "operator", "req-1")

    def do_it(run, call, *, hang_up=False):
        cancelling.cancel(node, account, run, call, who, hang_up=hang_up)

    return do_it


def ids_of(engine, run):
    found = rows(engine, "SELECT id FROM calls WHERE run_id = :run ORDER BY id", run=run)
    return [row["id"] for row in found]


def refusal(verb, *given, **known):
    with pytest.raises(Refused) as refused:
        verb(*given, **known)
    return refused.value


class TestAQueuedCall:
    def test_it_is_over_at_once_and_the_run_goes_on(self, node, engine, account, cancel):
        run = make_run(engine, account, [phone(1), phone(2)])
        first, second = ids_of(engine, run)
        cancel(run, first)
        assert (call_of(engine, first)["state"], call_of(engine, first)["outcome"]) == (
            "cancelled",
            "cancelled",
        )
        assert call_of(engine, first)["last_error"] == "cancelled_by_operator"
        assert run_of(engine, run)["status"] == "pending"
        assert counters_of(engine, run) == counted_from_rows(engine, run)
        assert [call.call_id for call in claim(node, account)] == [second]

    def test_the_last_one_ends_its_run(self, engine, account, cancel):
        run = make_run(engine, account, [phone(1)])
        cancel(run, *ids_of(engine, run))
        assert run_of(engine, run)["status"] == "completed"

    def test_one_that_was_busy_before_keeps_that_outcome(self, node, engine, account, cancel):
        run = make_run(engine, account, [phone(1)], max_attempts=3)
        (call,) = claim(node, account)
        say(node, call.attempt_id, Progress.BUSY, "CA1")
        cancel(run, call.call_id)
        assert call_of(engine, call.call_id)["state"] == "completed"
        assert counters_of(engine, run)["busy"] == 1
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_twice_is_no_error_and_one_event(self, engine, account, key, cancel):
        run = make_run(engine, account, [phone(1), phone(2)])
        call, _ = ids_of(engine, run)
        cancel(run, call)
        cancel(run, call)
        event = one(engine, "SELECT * FROM events WHERE event = 'call_cancel_requested'")
        assert (event["actor"], event["request_id"]) == (str(key[0]), "req-1")
        assert (event["run_id"], event["call_id"]) == (run, call)
        assert event["details"] == {"hang_up": False, "from": "queued"}

    def test_a_word_on_an_old_attempt_never_queues_it_again(self, node, engine, account, cancel):
        run = make_run(engine, account, [phone(1), phone(2)], max_attempts=5)
        call = next(one for one in claim(node, account) if one.phone == phone(1))
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        known = {"decision": Decision.REDIAL, "source": "operator", "by": "someone"}
        record(node, call.attempt_id, Kind.DECISION, **known)
        assert call_of(engine, call.call_id)["state"] == "queued"
        cancel(run, call.call_id)
        say(node, call.attempt_id, Progress.BUSY, "CA1")
        ended = call_of(engine, call.call_id)
        assert (ended["state"], ended["outcome"]) == ("completed", "busy")
        assert counters_of(engine, run) == counted_from_rows(engine, run)


class TestACallUnderWay:
    @pytest.fixture
    def call(self, node, engine, account):
        make_run(engine, account, [phone(1)], max_attempts=3, retry_delay=0)
        (call,) = claim(node, account)
        return call

    @pytest.mark.parametrize("state", ["dialing", "live"])
    def test_without_hang_up_it_is_refused_and_nothing_changes(
        self, node, engine, cancel, call, state
    ):
        if state == "live":
            say(node, call.attempt_id, Progress.RINGING, "CA1")
        refused = refusal(cancel, call.run_id, call.call_id)
        assert (refused.status, refused.code) == (409, "wrong_state")
        assert "hang_up" in refused.detail
        assert not call_of(engine, call.call_id)["cancel_requested"]

    def test_a_live_one_is_hung_up_and_never_retried(self, node, engine, account, cancel, call):
        carrier = FakeCarrier()
        say(node, call.attempt_id, Progress.RINGING, "CA1")
        cancel(call.run_id, call.call_id, hang_up=True)
        assert hanging_up.hang_up_due(node, carrier, account) == 1
        assert carrier.hung_up == ["CA1"]
        say(node, call.attempt_id, Progress.NO_ANSWER, "CA1")
        assert call_of(engine, call.call_id)["outcome"] == "no_answer"
        assert run_of(engine, call.run_id)["status"] == "completed"
        assert counters_of(engine, call.run_id) == counted_from_rows(engine, call.run_id)

    def test_one_that_gets_its_id_later_is_hung_up_then(self, node, engine, account, cancel, call):
        carrier = FakeCarrier()
        cancel(call.run_id, call.call_id, hang_up=True)
        assert hanging_up.hang_up_due(node, carrier, account) == 0
        record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
        assert hanging_up.hang_up_due(node, carrier, account) == 1

    def test_other_calls_of_the_run_are_not_hung_up(self, node, engine, account, cancel):
        carrier = FakeCarrier()
        make_run(engine, account, [phone(1), phone(2)])
        first, second = claim(node, account)
        for number, each in enumerate((first, second)):
            say(node, each.attempt_id, Progress.RINGING, f"CA{number}")
        cancel(first.run_id, first.call_id, hang_up=True)
        hanging_up.hang_up_due(node, carrier, account)
        assert carrier.hung_up == ["CA0"]

    def test_one_that_was_never_sent_is_cancelled_and_not_queued_again(
        self, node, engine, cancel, call
    ):
        cancel(call.run_id, call.call_id, hang_up=True)
        record(node, call.attempt_id, Kind.UNSENT, fence=call.fence)
        assert call_of(engine, call.call_id)["state"] == "cancelled"
        assert run_of(engine, call.run_id)["status"] == "completed"
        assert counters_of(engine, call.run_id) == counted_from_rows(engine, call.run_id)

    def test_its_authors_redial_does_not_come_and_the_run_does_not_wait_for_it(
        self, node, engine, account, cancel
    ):
        columns = {"on_unknown": "redial", "on_unknown_after": 900, "max_attempts": 3}
        run = make_run(engine, account, [phone(1)], **columns)
        (call,) = claim(node, account)
        cancel(run, call.call_id, hang_up=True)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        do(engine, "UPDATE attempts SET empty_lookups = 9, claimed_at = '2026-01-01'")
        (redial,) = [one for one in table.SWEEPS if one.name == "redial_unknowns"]
        assert sweeps.run_once(node, redial, Scope()).rows == 0
        assert run_of(engine, run)["status"] == "completed"

    def test_twice_is_no_error(self, engine, cancel, call):
        cancel(call.run_id, call.call_id, hang_up=True)
        cancel(call.run_id, call.call_id, hang_up=True)
        cancel(call.run_id, call.call_id)
        assert len(rows(engine, "SELECT * FROM events WHERE event LIKE 'call_cancel%'")) == 1


def test_an_unknown_is_refused_with_what_to_do(node, engine, account, cancel):
    run = make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    record(node, call.attempt_id, Kind.AMBIGUOUS)
    refused = refusal(cancel, run, call.call_id, hang_up=True)
    assert (refused.status, refused.code) == (409, "wrong_state")
    assert "resolve" in refused.detail


def test_one_that_is_over_is_refused_unless_it_was_cancelled(node, engine, account, cancel):
    run = make_run(engine, account, [phone(1), phone(2)])
    first, second = claim(node, account)
    say(node, first.attempt_id, Progress.ANSWERED, "CA1")
    say(node, second.attempt_id, Progress.CANCELLED, "CA2")
    assert refusal(cancel, run, first.call_id).status == 409
    cancel(run, second.call_id)


def test_another_accounts_call_does_not_exist(engine, account, cancel):
    foreign = make_run(engine, make_account(engine), [phone(1)])
    own = make_run(engine, account, [phone(1)])
    (call,) = ids_of(engine, foreign)
    assert refusal(cancel, foreign, call).status == 404
    assert refusal(cancel, own, call).status == 404
    assert call_of(engine, call)["state"] == "queued"


class TestOverHttp:
    @pytest.fixture
    def ask(self, node, key):
        http = falcon.testing.TestClient(create_app(node, FakeCarrier()))

        def send(run, call, body=None):
            path = f"/api/outbound/runs/{run}/calls/{call}/cancel"
            headers = {"Authorization": f"Bearer {key[1]}"}
            return http.simulate_post(path, headers=headers, json=body or {})

        return send

    def test_the_call_is_answered_with_who_cancelled_it(self, ask, engine, account, key):
        run = make_run(engine, account, [phone(1), phone(2)])
        call, _ = ids_of(engine, run)
        answer = ask(run, call)
        assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
        assert answer.json["cancel_requested"] is True
        (entry,) = answer.json["timeline"]
        assert (entry["event"], entry["actor"]) == ("call_cancel_requested", str(key[0]))
        assert entry["request_id"] == answer.headers["x-request-id"]

    def test_it_is_202_while_the_calls_request_may_be_on_its_way(
        self, ask, node, engine, account, monkeypatch
    ):
        monkeypatch.setattr(quiet, "SETTLE_SECONDS", 0.0)
        run = make_run(engine, account, [phone(1), phone(2)])
        first, second = claim(node, account)
        waiting = ask(run, first.call_id, {"hang_up": True})
        assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "1")
        say(node, first.attempt_id, Progress.RINGING, "CA1")
        assert ask(run, first.call_id, {"hang_up": True}).status_code == 200
        assert second.call_id


class TestRace:
    def test_a_claim_that_came_first_is_waited_for_and_its_call_is_refused(
        self, node, engine, account, cancel
    ):
        run = make_run(engine, account, [phone(1)])
        (call,) = ids_of(engine, run)
        with (
            claim_under_way(node, account) as (claimed, commit),
            in_background(cancel, run, call) as cancelled,
        ):
            assert len(claimed.calls) == 1
            wait_for_a_waiter(engine)
            commit()
            assert refusal(cancelled.result, 60).code == "wrong_state"
        assert call_of(engine, call)["state"] == "dialing"

    def test_a_claim_that_came_first_is_hung_up_if_asked(self, node, engine, account, cancel):
        run = make_run(engine, account, [phone(1)])
        (call,) = ids_of(engine, run)
        with (
            claim_under_way(node, account) as (_, commit),
            in_background(cancel, run, call, hang_up=True) as cancelled,
        ):
            wait_for_a_waiter(engine)
            commit()
            cancelled.result(60)
        assert one(engine, "SELECT hang_up FROM attempts")["hang_up"]

    def test_a_claim_that_comes_later_finds_nothing_to_dial(
        self, node, engine, account, cancel, monkeypatch
    ):
        run = make_run(engine, account, [phone(1)])
        (call,) = ids_of(engine, run)
        with (
            held_before_its_commit(monkeypatch, partial(cancel, run, call)) as (_, go_on),
            in_background(claim, node, account) as claimed,
        ):
            wait_for_a_waiter(engine)
            go_on()
            assert claimed.result(60) == ()
        assert counters_of(engine, run) == counted_from_rows(engine, run)


def test_the_counters_add_up_while_operators_and_workers_move_everything_at_once(
    node, engine, account, key, cancel
):
    who = accounts.Caller(account, key[0], "operator", "req-1")
    phones = [phone(n) for n in range(60)]
    run = make_run(engine, account, phones, max_attempts=2, retry_delay=0)
    calls = ids_of(engine, run)
    words = [Progress.ANSWERED, Progress.BUSY, Progress.NO_ANSWER, Progress.FAILED]

    def work(seed):
        for turn in range(15):
            for call in claim(node, account, most=3):
                say(node, call.attempt_id, Progress.RINGING, f"CA{call.attempt_id}")
                say(node, call.attempt_id, words[(seed + turn) % 4], f"CA{call.attempt_id}")

    def operate(seed):
        for number in range(seed, 60, 8):
            with contextlib.suppress(Refused):
                cancel(run, calls[number], hang_up=True)
            suppressions.add(node, account, [phones[59 - number]], None, who)
            stopping.stop(node, account, who, hang_up=number % 2 == 0)
            stopping.start(node, account, who)

    with ThreadPoolExecutor(7) as pool:
        done = [pool.submit(work, seed) for seed in range(4)]
        done += [pool.submit(operate, seed) for seed in range(3)]
        for each in done:
            each.result(110)
    for _ in range(10):
        work(0)
    assert counters_of(engine, run) == counted_from_rows(engine, run)
    assert rows(engine, "SELECT * FROM calls WHERE state IN ('queued', 'dialing', 'live')") == []
    runs.advance(node, {run})
    assert run_of(engine, run)["status"] == "completed"
    assert rows(engine, "SELECT FROM calls WHERE attempts > 2 OR (state = 'queued')") == []
