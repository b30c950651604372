"""Processes that freeze for longer than they are trusted, and wake up.

OUTBOUND_CHAOS_ROUNDS says how often at each point (once if it is not set).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import text

from chaos import report
from chaos.fleet import LEASE, LOCK_TTL
from chaos.judge import Judge
from chaos.lane import Lane, lanes, on_lanes, selected
from chaos.report import Result
from chaos.steps import PAUSES, Pause
from chaos.test_every_step import SENDERS, Case
from factories import rows
from outbound.reconciler.leader import TICK
from processes import Process, wait_until

ROUNDS = int(os.environ.get("OUTBOUND_CHAOS_ROUNDS", "1"))
LANES = 4 if ROUNDS == 1 else 6
LEADS = 2 * SENDERS

ATTEMPTS = """
    SELECT id, state, fence, claimed_at, lease_until, decided_by FROM attempts
     WHERE run_id = :run ORDER BY fence, claimed_at
"""
LEFT_OVER = """
    SELECT id FROM attempts WHERE account_id = :account AND state = 'sending' FOR UPDATE
"""
ANSWERED = ("call_placed", "call_not_placed", "attempt_released")
EPOCHS = ("leader_elected", "leader_stepped_down")


@dataclass(frozen=True)
class Figures:
    """What one pause led to.

    Attributes:
        result: the judge's words.
        late_sends: calls that the carrier took after their claim's lease.
        late_claims: those of them whose lease was looked at after the pause.
        released: attempts given back; `released_called` of them the carrier has.
        uncommitted: carrier calls without a committed attempt.
        deposed_sweeps: sweeps that acted under an epoch that was over.
    """

    result: Result
    late_sends: int
    late_claims: int
    released: int
    released_called: int
    uncommitted: int
    deposed_sweeps: int


class Siblings:
    """A lane's second worker and second reconciler, of which nobody asks anything odd."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.worker = lane.stack.start("worker")
        self.reconciler = lane.stack.start("reconciler")
        self.worker.wait_for("WORKER_START", 60)
        self.reconciler.wait_for("RECONCILER_START", 60)

    def thaw(self) -> None:
        for process in (self.worker, self.reconciler):
            process.popen.send_signal(signal.SIGCONT)

    def give_way(self) -> None:
        """Have the lane's own reconciler lead."""
        own = self._lane.process("reconciler")
        # One that was frozen believes for a moment that it still leads.
        wait_until(lambda: leads(own) != leads(self.reconciler), 40, "one leader")
        if not leads(own):
            self.reconciler.popen.terminate()
            self.reconciler = self._lane.stack.start("reconciler")
            wait_until(lambda: leads(own), 40, "the lane's leader")
        self.reconciler.wait_for("RECONCILER_START", 60)

    def wait_to_lead(self, elected: int) -> None:
        """Wait until the other reconciler was elected once more than so often."""
        wait_until(
            lambda: len(self.reconciler.has_logged("leader_elected")) > elected,
            LOCK_TTL + 40,
            "somebody else to lead",
        )


def leads(process: Process) -> bool:
    told = [line["event"] for line in process.events if line["event"] in EPOCHS]
    return bool(told) and told[-1] == EPOCHS[0]


SIBLINGS: dict[Lane, Siblings] = {}


def freeze_there(case: Case, pause: Pause, siblings: Siblings) -> None:
    """Bring the process to its point, where it stops itself."""
    lane = case.lane
    before = len(lane.fired(pause.process))
    lane.order(pause.process, str(pause.at), pause.when, about=pause.about, name="STOP")
    # The lane's own worker has to do the work, or it would never come there.
    siblings.worker.popen.send_signal(signal.SIGSTOP)
    if pause.about == "stale_claims":
        lane.order("worker", "outbound.dialer:Dialer._ask", "before", name="STOP")
    case.post(LEADS)
    wait_until(lambda: len(lane.fired(pause.process)) > before, 20, f"the pause: {pause.name}")


def freeze_at_random(case: Case, pause: Pause) -> None:
    case.post(3 * LEADS, calls_per_second=40.0)
    # Not waiting for a condition: any moment is as good.
    time.sleep(random.uniform(0, 1.2))  # noqa: S311
    case.lane.process(pause.process).popen.send_signal(signal.SIGSTOP)


def outlast(case: Case, pause: Pause, siblings: Siblings, elected: int) -> None:
    """Keep it frozen until nobody trusts it any more."""
    if pause.process == "worker":
        # Not waiting for a condition: this is how long the pause lasts.
        time.sleep(LEASE + 1.5 * TICK)
    elif pause.about and pause.when == "before":
        wake_up_to_work(case, siblings, elected)
    else:
        siblings.wait_to_lead(elected)


def wake_up_to_work(case: Case, siblings: Siblings, elected: int) -> None:
    """Have the frozen leader find, when it wakes, what the next one did not sweep."""
    zombie, other = case.lane.process("reconciler"), siblings.reconciler
    with case.lane.engine.begin() as connection:
        connection.execute(text(LEFT_OVER), {"account": case.account})
        siblings.wait_to_lead(elected)
        other.popen.send_signal(signal.SIGSTOP)
    zombie.popen.send_signal(signal.SIGCONT)
    wait_until(lambda: not leads(zombie), 20, "the frozen leader to give way")
    other.popen.send_signal(signal.SIGCONT)


def play(lane: Lane, pause: Pause) -> Figures:
    lane.faults()
    lane.ready()
    siblings = SIBLINGS.get(lane) or SIBLINGS.setdefault(lane, Siblings(lane))
    siblings.thaw()
    if pause.process == "reconciler":
        siblings.give_way()
    frozen = lane.process(pause.process)
    elected = len(siblings.reconciler.has_logged("leader_elected"))
    judge = Judge(lane)
    try:
        case = Case(lane, pause, judge, lane.account(lane.engine))
        if pause.at:
            freeze_there(case, pause, siblings)
        else:
            freeze_at_random(case, pause)
        siblings.worker.popen.send_signal(signal.SIGCONT)
        outlast(case, pause, siblings, elected)
        for process in (lane.process("reconciler"), lane.process("worker")):
            process.popen.send_signal(signal.SIGCONT)
        return settle(case, pause, frozen, siblings)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{lane.tell()}\n{siblings.reconciler.lines[-6:]}") from None
    finally:
        judge.close()


def settle(case: Case, pause: Pause, frozen: Process, siblings: Siblings) -> Figures:
    run = case.run
    assert run
    assert frozen.popen.poll() is None, frozen.lines[-5:]
    workers = (case.lane.process("worker"), siblings.worker)
    wait_until(lambda: all_answered(case, workers), 30, "the answer to each claimed call")
    case.settle()
    wait_until(lambda: run.last["status"] == "completed", 20, "the run's end")
    result = case.judge.verdict(pause.name, 1)
    assert result.unknown <= SENDERS, result
    figures = count(case, pause, result, deposed_sweeps(siblings, frozen))
    if result.unknown:
        decision = {"decision": "placed", "outcome": "failed", "force": True}
        case.lane.patiently("POST", f"/runs/{run.run_id}/resolve", case.key, json=decision)
    return figures


def all_answered(case: Case, workers: tuple[Process, ...]) -> bool:
    """Tell whether whoever woke up has written what became of all that was claimed."""
    assert case.run
    run = case.run.run_id
    claimed = len(rows(case.lane.engine, ATTEMPTS, run=run))
    said = [line for worker in workers for line in list(worker.lines) if run in line]
    return claimed == sum(any(f'"{event}"' in line for event in ANSWERED) for line in said)


def count(case: Case, pause: Pause, result: Result, deposed: int) -> Figures:
    """Hold the carrier's ledger to the rows of what we meant to do."""
    run = case.run
    assert run
    phones = set(run.phones)
    calls = [row for row in case.lane.ledger() if row["to"] in phones]
    attempts = {str(a["id"]): a for a in rows(case.lane.engine, ATTEMPTS, run=run.run_id)}
    late = [call for call in calls if is_late(call, attempts.get(call["attempt_id"]))]
    called = {call["attempt_id"] for call in calls}
    released = {one for one, row in attempts.items() if row["state"] == "released"}
    why = ", ".join(filter(None, [result.why, f"{len(late)} sent late" if late else ""]))
    return Figures(
        replace(result, why=why),
        late_sends=len(late),
        late_claims=len(late) if pause.checks_after else 0,
        released=len(released),
        released_called=len(released & called),
        uncommitted=len(called - attempts.keys()),
        deposed_sweeps=deposed,
    )


def is_late(call: dict[str, Any], attempt: Any) -> bool:
    taken = datetime.fromisoformat(call["accepted_at"])
    return bool(attempt) and taken > attempt["lease_until"]


def deposed_sweeps(siblings: Siblings, frozen: Process) -> int:
    """Count what a leader of an earlier epoch wrote after another one had been elected."""
    elected = siblings.reconciler.has_logged("leader_elected")
    since = {line["epoch"]: line["timestamp"] for line in elected}
    return sum(
        any(epoch > line["epoch"] and at < line["timestamp"] for epoch, at in since.items())
        for line in frozen.has_logged("sweep_done")
    )


@pytest.fixture(scope="module")
def told(request) -> Iterator[Counter[str]]:
    """The figures of all pauses, shown at the end."""
    sums: Counter[str] = Counter()
    yield sums
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{', '.join(f'{name} {n}' for name, n in sums.items())}\n")


@pytest.fixture(scope="module")
def pauses(
    postgres_url, template, redis_server_url, tmp_path_factory, request
) -> Iterator[dict[Pause, list[Future[Figures]]]]:
    """Every pause of the selected points, on as many lanes as there are."""
    directory = tmp_path_factory.mktemp("lanes")
    asked = selected(request.session, test_nothing_is_claimed_or_swept_by_what_woke_up, "pause")
    with (
        lanes(min(LANES, len(asked)), postgres_url, template, redis_server_url, directory) as made,
        on_lanes(made, play, asked, ROUNDS) as played,
    ):
        yield played
    SIBLINGS.clear()


@pytest.mark.timeout(600 + 150 * ROUNDS)
@pytest.mark.parametrize("pause", PAUSES, ids=lambda pause: pause.name)
def test_nothing_is_claimed_or_swept_by_what_woke_up(pauses, told, pause):
    for played in pauses[pause]:
        figures = played.result()
        report.add(figures.result)
        told["pauses"] += 1
        for name in ("late_sends", "late_claims", "released", "released_called", "uncommitted"):
            told[name] += getattr(figures, name)
        told["deposed_sweeps"] += figures.deposed_sweeps
        told["unknown"] += figures.result.unknown
        assert figures.late_claims == 0, figures
        assert figures.released_called == 0, figures
        assert figures.uncommitted == 0, figures
        assert figures.deposed_sweeps == 0, figures
