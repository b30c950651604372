"""A process killed at every step of a call's way, right before and right after.

OUTBOUND_CHAOS_ROUNDS says how often at each (once if it is not set).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from chaos import report
from chaos.judge import Judge, Watched
from chaos.lane import Lane, lanes, on_lanes, selected
from chaos.report import Result
from chaos.steps import STEPS, Pause, Step
from outbound import doorbell, policy
from outbound.reconciler import leader
from processes import Process, wait_until

ROUNDS = int(os.environ.get("OUTBOUND_CHAOS_ROUNDS", "1"))
LANES = 4 if ROUNDS == 1 else 8  # once: another test process has faults of its own beside
SENDERS = 8
UNHEARD = [step for step in STEPS if step.scene == "unheard"]
LEADS = 20


@dataclass
class Case:
    """One kill: a run in whose middle a process of the lane dies."""

    lane: Lane
    step: Step | Pause
    judge: Judge
    key: str
    run: Watched | None = None
    undecided: int = 0
    armed_after: int = field(default=-1)
    process: Process | None = None

    def arm(self) -> None:
        step = self.step
        assert isinstance(step, Step)
        self.armed_after = len(self.lane.fired(step.process))
        self.process = self.lane.process(step.process)
        self.lane.order(step.process, step.at, step.when, about=step.about, parent=step.parent)

    def fired(self) -> dict[str, Any] | None:
        found = self.lane.fired(self.step.process)
        return found[-1] if len(found) > self.armed_after else None

    def post(self, leads: int, ending: str | None = None, **fields: Any) -> Watched:
        phones = self.lane.phones(leads, ending)
        body = {
            "leads": [{"lead_id": f"lead-{n}", "phone": p} for n, p in enumerate(phones)],
            "concurrency": 1000,
            "calls_per_second": 1000.0,
            "ring_timeout": 5,
            "max_call_duration": 10,
        }
        headers = {"Idempotency-Key": uuid4().hex}
        ask = partial(self.lane.patiently, "POST", "/runs", self.key, headers=headers)
        answer = ask(json=body | fields).json()
        assert answer["accepted"] == leads, answer
        most = fields.get("retry", {}).get("max_attempts", 1)
        self.run = self.judge.watch(Watched(self.key, answer["run_id"], phones, most))
        return self.run

    def wait(self, seconds: float = 30, **known: Any) -> None:
        """Wait until the API says this of the run."""
        run = self.run
        assert run
        wait_until(
            lambda: run.last and all(run.last[name] == value for name, value in known.items()),
            seconds,
            f"{known} at {self.step.name}; last seen {run.last}",
        )

    def settle(self) -> None:
        """Wait until nothing moves: neither at the carrier, nor, read after that, with us."""
        # Of a call that nobody hears of, and that a look-up found still ringing, the carrier is
        # asked again a minute later.
        longer = policy.LOOKUP_AGAIN.seconds if self.step in UNHEARD else 0
        wait_until(self._rests, 60 + longer, f"rest after {self.step}; last seen {self.run}")
        self.judge.settle()
        # What was unknown when its run ended may ring late; that is shown, and re-opens nothing.
        late = "ended with work left"
        self.judge.wrong = [one for one in self.judge.wrong if not one.startswith(late)]

    def _rests(self) -> bool:
        run = self.run
        assert run
        if not self.carrier_rests():
            return False
        # Read anew: a call that was unknown a moment ago may ring.
        body = self.lane.patiently("GET", f"/runs/{run.run_id}", self.key).json()
        return body["queued"] + body["in_progress"] == 0

    def carrier_rests(self) -> bool:
        assert self.run
        phones = set(self.run.phones)
        return all(row["ended_at"] for row in self.lane.ledger() if row["to"] in phones)

    def cancel(self, **body: Any) -> None:
        assert self.run
        self.lane.patiently("POST", f"/runs/{self.run.run_id}/cancel", self.key, json=body)

    def do(self, statement: str) -> None:
        """Let time pass for this account's rows, or make them as an earlier crash would have."""
        with self.lane.engine.begin() as connection:
            connection.execute(text(statement), {"account": self.account})

    @property
    def account(self) -> str:
        return str(self.lane.patiently("GET", "/account", self.key).json()["account_id"])

    def do_not_ring(self, actor: str) -> None:
        """Have rings get lost, but the leader's: it looks as if a worker had died with one."""
        key = doorbell.ring_key(actor, self.account)
        self.lane.redis.set(key, b"1", ex=doorbell.RING_SECONDS)


def dial(case: Case) -> None:
    case.arm()
    case.post(LEADS)


def unheard(case: Case) -> None:
    """The carrier takes the calls, and no callback says so: only a look-up can."""
    case.lane.faults(callbacks_lost=100)
    dial(case)


def last_lead(case: Case) -> None:
    case.arm()
    case.post(1)


def refused(case: Case) -> None:
    case.arm()
    case.post(1, "07")


def cancel(case: Case) -> None:
    run = case.post(LEADS, calls_per_second=2.0)
    wait_until(lambda: run.last.get("attempts"), 20, "the first call")
    case.arm()
    case.cancel()


def cancel_unrung(case: Case) -> None:
    # Slowly, and once the first call is over: a message that came in between, or one that was left
    # of the first ring, would take the key away.
    run = case.post(LEADS, calls_per_second=0.5)
    wait_until(
        lambda: run.last.get("attempts") and not run.last["in_progress"], 20, "the first call"
    )
    case.do_not_ring(doorbell.DIAL)
    case.arm()
    case.cancel()


def look_up(case: Case) -> None:
    case.lane.faults(accept_then_timeout=100, callbacks_lost=100, timeout_seconds=2)
    case.arm()
    case.post(SENDERS)


def hang_up(case: Case) -> None:
    let_it_ring(case)
    case.arm()
    case.cancel(hang_up=True)


def hang_up_unrung(case: Case) -> None:
    let_it_ring(case)
    case.do_not_ring(doorbell.HANG_UP)
    case.arm()
    case.cancel(hang_up=True)


def let_it_ring(case: Case) -> None:
    run = case.post(6, "05", max_call_duration=60)
    wait_until(lambda: len(case.judge.calls(run, "state=live")) == 6, 20, "six calls that ring")


def elect(case: Case) -> None:
    case.arm()
    case.lane.redis.delete(leader.KEY)
    case.post(6)


def resign(case: Case) -> None:
    leading = case.lane.process("reconciler")
    leading.wait_for("leader_elected")
    case.arm()
    leading.popen.terminate()
    case.post(6)


def die_sending(case: Case) -> None:
    case.arm()
    case.lane.order("worker", "outbound.dialer:Dialer._ask", "before", nth=4)
    case.post(SENDERS)
    case.lane.process("worker").popen.wait(20)
    case.lane.keep_up()


def stay_unknown(case: Case, **fields: Any) -> None:
    case.lane.faults(hang_without_accepting=100, timeout_seconds=2)
    case.post(3, **fields)
    case.wait(unknown=3)
    case.lane.faults()
    case.arm()


def redial(case: Case) -> None:
    retry = {"max_attempts": 2, "delay": 0, "on": ["busy"]}
    stay_unknown(case, on_unknown={"action": "redial", "after": 900}, retry=retry)
    case.do("""
        UPDATE attempts SET claimed_at = claimed_at - interval '1 hour', empty_lookups = 3
         WHERE account_id = :account""")


def give_phones_back(case: Case) -> None:
    stay_unknown(case)
    case.undecided = 3
    case.do("""
        UPDATE attempts SET unknown_at = unknown_at - interval '25 hours'
         WHERE account_id = :account""")


def start_later(case: Case) -> None:
    case.arm()
    soon = datetime.now(UTC) + timedelta(seconds=1)
    case.post(6, start_at=soon.isoformat())


def unended(case: Case) -> None:
    case.post(3)
    case.wait(status="completed")
    case.arm()
    case.do("UPDATE runs SET status = 'running', ended_at = NULL WHERE account_id = :account")


def unrung(case: Case) -> None:
    case.do_not_ring(doorbell.DIAL)
    case.arm()
    case.post(6)


def old_key(case: Case) -> None:
    case.post(3)
    case.arm()
    case.do("""
        UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'
         WHERE account_id = :account""")


SCENES: dict[str, Callable[[Case], None]] = {
    scene.__name__: scene
    for scene in (
        *(
            dial,
            unheard,
            last_lead,
            refused,
            cancel,
            cancel_unrung,
            look_up,
            hang_up,
            hang_up_unrung,
        ),
        *(elect, resign, die_sending, redial, give_phones_back, start_later, unended, unrung),
        old_key,
    )
}

SOONER = """
    UPDATE attempts
       SET next_lookup_at = least(next_lookup_at, clock_timestamp()),
           next_hang_up_at = least(next_hang_up_at, clock_timestamp())
     WHERE id = ANY (ARRAY(
        SELECT id FROM attempts
         WHERE account_id = :account AND ended_at IS NULL
           AND clock_timestamp() < ANY (ARRAY[next_lookup_at, next_hang_up_at])
         ORDER BY id FOR NO KEY UPDATE))
"""


def play(lane: Lane, step: Step) -> Result:
    """Kill once at this step, and judge what becomes of the run."""
    lane.faults()
    lane.ready()
    judge = Judge(lane)
    try:
        case = Case(lane, step, judge, lane.account(lane.engine))
        SCENES[step.scene](case)
        fired = wait_until(case.fired, 20, f"the kill: {step.name}")
        if case.process and (step.parent or step.process != "web"):
            case.process.popen.wait(10)
        if step.scene == "unheard":
            wait_until(case.carrier_rests, 20, "the end of calls that nobody hears of")
        lane.faults()
        wait_until(lane.serves, 60, "a web process with its port")
        # What a dead worker had taken for a look-up or a hang-up comes again in 10 or 30 s.
        case.do(SOONER)
        return settle(case, fired)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{lane.tell()}") from None
    finally:
        judge.close()


def settle(case: Case, fired: dict[str, Any]) -> Result:
    judge, step, run = case.judge, case.step, case.run
    assert run
    case.settle()
    case.wait(status="cancelled" if step.scene.startswith(("cancel", "hang_up")) else "completed")
    result = judge.verdict(step.name, 1)
    result = replace(result, stall=max(result.stall, _until_the_next_call(case, fired["time"])))
    unknown = judge.calls(run, "state=unknown")
    may_be = SENDERS if "worker" in (step.process, _dies_first(step)) else 0
    assert len(unknown) == case.undecided or len(unknown) <= may_be, result
    for call in unknown:
        claimed = datetime.fromisoformat(call["attempts"][-1]["claimed_at"]).timestamp()
        # The time is written before the signal, and its other threads go on until that comes.
        assert claimed <= fired["time"] + 0.1, f"unknown, yet claimed after the kill: {call}"
    if unknown:
        # Else their look-ups would go on in the middle of later steps.
        decision = {"decision": "placed", "outcome": "failed", "force": True}
        path = f"/runs/{run.run_id}/resolve"
        case.lane.patiently("POST", path, case.key, json=decision)
    return result


def _until_the_next_call(case: Case, died: float) -> float:
    assert case.run
    phones = set(case.run.phones)
    taken = [
        datetime.fromisoformat(row["accepted_at"]).timestamp() - died
        for row in case.lane.ledger()
        if row["to"] in phones
    ]
    return min((seconds for seconds in taken if seconds > 0), default=0.0)


def _dies_first(step: Step) -> str | None:
    return "worker" if step.scene == "die_sending" else None


@pytest.fixture(scope="module")
def kills(
    postgres_url, template, redis_server_url, tmp_path_factory, request
) -> Iterator[dict[Step, list[Future[Result]]]]:
    """Every kill of the selected steps, on as many lanes as there are."""
    directory = tmp_path_factory.mktemp("lanes")
    test = test_no_lead_is_called_twice_or_lost_by_a_kill
    asked = selected(request.session, test, "step")
    with (
        lanes(min(LANES, len(asked)), postgres_url, template, redis_server_url, directory) as made,
        on_lanes(made, play, asked, ROUNDS) as played,
    ):
        yield played


@pytest.mark.timeout(600 + 150 * ROUNDS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_no_lead_is_called_twice_or_lost_by_a_kill(kills, step):
    for kill in kills[step]:
        report.add(kill.result())
