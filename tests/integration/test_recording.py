"""Callbacks that come at once are written together, and each is answered as if it were alone."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DataError, OperationalError

from factories import (
    attempt_of,
    claim,
    counted_from_rows,
    counters_of,
    make_account,
    make_run,
    one,
    phone,
    rows,
    run_of,
)
from outbound import db, logs
from outbound.carriers.base import Progress
from outbound.ids import uuid7
from outbound.recording import Together
from outbound.states import Evidence, Kind
from processes import wait_until
from races import wait_for_a_waiter

CALLS = 12
_LOCK = text("SELECT FROM attempts WHERE id = :id FOR UPDATE")


@pytest.fixture
def run(engine):
    return make_run(engine, make_account(engine), [phone(n) for n in range(CALLS)])


@pytest.fixture
def calls(node, engine, run):
    return claim(node, run_of(engine, run)["account_id"])


@pytest.fixture
def together(node):
    return Together(node)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(CALLS + 4) as pool:
        yield pool


def final(attempt_id, **known):
    known = {"progress": Progress.ANSWERED, "request_id": f"r-{attempt_id}"} | known
    return Evidence(attempt_id, Kind.WORD, "callback", **known)


@contextmanager
def held(engine, attempt_id) -> Iterator[None]:
    """Whoever writes about this attempt waits until the block ends."""
    with engine.begin() as holder:
        holder.execute(_LOCK, {"id": attempt_id})
        yield


@contextmanager
def arriving_while_one_is_written(
    engine, pool, together, evidence, record_with=None
) -> Iterator[tuple[Future, list[Future]]]:
    """The first is being written at the end of the block's first line, and all others wait."""
    record = (record_with or together).record
    with held(engine, evidence[0].attempt_id):
        first = pool.submit(record, evidence[0])
        wait_for_a_waiter(engine)
        others = [pool.submit(record, item) for item in evidence[1:]]
        wait_until(lambda: len(together._waiting) == len(others), 20, "all wait")
        yield first, others


def transactions(engine):
    """How many transactions wrote the attempts as they are now."""
    return one(engine, "SELECT count(DISTINCT xmin::text) AS n FROM attempts")["n"]


def test_callbacks_that_come_while_one_is_written_share_a_transaction_and_end_their_run(
    node, engine, run, calls, pool, together
):
    evidence = [final(call.attempt_id) for call in calls]
    with arriving_while_one_is_written(engine, pool, together, evidence) as (first, others):
        assert not first.done()
    for call, said in zip(calls, [first, *others], strict=True):
        assert call.attempt_id in said.result(20).moved
        assert attempt_of(engine, call.attempt_id)["state"] == "ended"
    assert transactions(engine) == 2
    wait_until(lambda: run_of(engine, run)["status"] == "completed", 20, "the run's end")
    assert counters_of(engine, run) == counted_from_rows(engine, run)
    told = rows(engine, "SELECT attempt_id, request_id FROM events WHERE call_id IS NOT NULL")
    assert {row["request_id"] for row in told} == {f"r-{call.attempt_id}" for call in calls}
    assert all(row["request_id"] == f"r-{row['attempt_id']}" for row in told)


def test_none_is_told_before_the_commit_of_the_transaction_that_has_it(
    engine, calls, pool, together
):
    evidence = [final(call.attempt_id) for call in calls]
    with held(engine, calls[-1].attempt_id):
        with arriving_while_one_is_written(engine, pool, together, evidence) as (first, others):
            pass
        first.result(20)
        wait_for_a_waiter(engine)
        assert not any(said.done() for said in others)
    for said in others:
        assert said.result(20).moved


def test_evidence_that_cannot_be_written_fails_alone(engine, calls, pool, together):
    evidence = [final(call.attempt_id) for call in calls]
    evidence[3] = evidence[3]._replace(progress=Progress.FAILED, error="no text has a \0")
    with arriving_while_one_is_written(engine, pool, together, evidence) as (first, others):
        pass
    said = [first, *others]
    with pytest.raises(DataError):
        said.pop(3).result(20)
    assert all(another.result(20).moved for another in said)
    states = [attempt_of(engine, call.attempt_id)["state"] for call in calls]
    assert states == [*["ended"] * 3, "sending", *["ended"] * (CALLS - 4)]


def test_the_writers_own_evidence_that_cannot_be_written_fails_alone_too(
    engine, calls, pool, together
):
    evidence = [final(call.attempt_id) for call in calls[:3]]
    evidence[1] = evidence[1]._replace(progress=Progress.FAILED, error="no text has a \0")
    with arriving_while_one_is_written(engine, pool, together, evidence) as (first, others):
        pass
    with pytest.raises(DataError):
        others[0].result(20)
    assert first.result(20).moved
    assert others[1].result(20).moved


def test_an_attempt_that_nobody_made_is_missing_for_its_own_callback_alone(
    engine, calls, pool, together
):
    nobodys = uuid7()
    evidence = [final(calls[0].attempt_id), final(nobodys), final(calls[1].attempt_id)]
    with arriving_while_one_is_written(engine, pool, together, evidence) as (_, others):
        pass
    assert others[0].result(20).missing == others[1].result(20).missing == {nobodys}
    assert set(others[1].result(20).moved) == {calls[1].attempt_id}


def test_a_replay_that_came_with_the_word_itself_says_that_it_changed_nothing(
    engine, calls, pool, together
):
    twice = final(calls[1].attempt_id)
    evidence = [final(calls[0].attempt_id), twice, twice, final(calls[2].attempt_id)]
    with arriving_while_one_is_written(engine, pool, together, evidence) as (_, others):
        pass
    changed = [calls[1].attempt_id in said.result(20).moved for said in others[:2]]
    assert sorted(changed) == [False, True]
    assert others[2].result(20).moved


def test_with_the_database_away_all_who_wait_hear_of_it_and_the_next_are_written(
    node, engine, settings, calls, pool
):
    # The server ends what waits for the lock, as it does when it is shut down.
    impatient = db.connect(settings, statement_seconds=3)
    together = Together(replace(node, engine=impatient))
    evidence = [final(call.attempt_id) for call in calls[:4]]
    with (
        held(engine, calls[3].attempt_id),
        arriving_while_one_is_written(engine, pool, together, evidence) as (first, others),
    ):
        for said in [first, *others]:
            with pytest.raises(OperationalError) as caught:
                said.result(20)
            assert db.is_away(caught.value)
    assert {attempt_of(engine, call.attempt_id)["state"] for call in calls} == {"sending"}
    assert all(together.record(item).moved for item in evidence)
    impatient.dispose()


def test_no_line_about_one_callback_has_another_ones_request_id(
    engine, calls, pool, together, lines
):
    for call in calls:
        ringing = final(call.attempt_id, progress=Progress.RINGING, carrier_call_id=sid_of(call))
        together.record(ringing)
    evidence = [
        final(call.attempt_id, progress=Progress.RINGING, carrier_call_id=f"{sid_of(call)}-other")
        for call in calls[:4]
    ]
    bound = SimpleNamespace(record=lambda item: record_as_a_request(together, item))
    with arriving_while_one_is_written(engine, pool, together, evidence, bound) as (first, others):
        pass
    for said in [first, *others]:
        said.result(20)
    wait_until(lambda: len(lines("stray_carrier_call")) == 4, 20, "the lines")
    for line in lines("stray_carrier_call"):
        assert line.get("request_id") in (None, f"r-{line['attempt_id']}")
    mine = lines("mine")
    assert len(mine) == 4
    assert all(line["request_id"] == f"r-{line['attempt_id']}" for line in mine)


def sid_of(call):
    return f"CA{call.call_id}"


def record_as_a_request(together, item):
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=item.request_id)
    settled = together.record(item)
    logs.get(__name__).info("mine", attempt_id=str(item.attempt_id))
    return settled
