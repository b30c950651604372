"""How long it takes until somebody goes on: kills one after the other, with a stopwatch."""

import itertools
import statistics
import time
from datetime import datetime

import pytest
import redis
from sqlalchemy import text

from chaos import report
from chaos.faults import LONG
from chaos.fleet import LEASE
from chaos.judge import LOOK_UP_SECONDS, OUTCOMES
from processes import wait_until

LEADER_KILLS = 100 if LONG else 6
WORKER_KILLS = 40 if LONG else 4
LAST_WORDS = {f"carrier_said_{outcome}" for outcome in OUTCOMES.values()}


def epoch(fleet):
    with fleet.engine.connect() as connection:
        return connection.execute(text("SELECT epoch FROM leader_epoch")).scalar_one()


def until_next_epoch(fleet, end):
    """Seconds from the leader's end to the COMMIT of the next epoch, seen on its own session."""
    fleet.ready()
    before, started = epoch(fleet), time.monotonic()
    end(fleet.leader())
    # No back-off here: the COMMIT is to be seen to a hundredth of a second.
    wait_until(lambda: epoch(fleet) > before, 20, "the next epoch")
    return time.monotonic() - started


@pytest.mark.timeout(60 + 12 * LEADER_KILLS)
def test_a_killed_leader_is_followed(fleet):
    times = [until_next_epoch(fleet, lambda m: m.process.kill()) for _ in range(LEADER_KILLS)]
    report.figure("leader SIGKILL to COMMIT of the next epoch, s", times, "3.5 p99")
    assert statistics.median(times) < 3.5


@pytest.mark.timeout(60 + 12 * LEADER_KILLS)
def test_a_leader_told_to_stop_is_followed_at_once(fleet):
    def stop(member):
        member.process.popen.terminate()

    times = []
    for _ in range(LEADER_KILLS):
        times.append(until_next_epoch(fleet, stop))
        wait_until(lambda: len(fleet.of("reconciler")) == 1, 10, "the old leader to end")
    report.figure("leader SIGTERM to COMMIT of the next epoch, s", times, "0.3")
    assert statistics.median(times) < 0.3


def accepted(fleet, phones):
    return sorted(
        datetime.fromisoformat(row["accepted_at"]).timestamp()
        for row in fleet.ledger()
        if row["to"] in phones
    )


@pytest.mark.timeout(120 + 12 * WORKER_KILLS)
def test_a_killed_workers_work_goes_on_in_another(fleet, judge, post):
    # Enough for a machine that needs six seconds to start a worker.
    leads, pace = 300 * WORKER_KILLS, 40.0
    run = post(leads, pace)
    kills = []
    for _ in range(WORKER_KILLS):
        before = run.last.get("attempts", 0)
        wait_until(lambda before=before: run.last.get("attempts", 0) > before + 60, 60)
        victim = fleet.of("worker")[0]
        kills.append(time.time())
        victim.process.kill()
        fleet.replace(victim)
        fleet.ready()
    judge.settle(LOOK_UP_SECONDS + leads / pace)
    times = accepted(fleet, set(run.phones))
    gaps = [
        max(gap for gap in _gaps(times) if gap[0] <= kill + 3 and gap[1] >= kill) for kill in kills
    ]
    report.figure(
        "worker SIGKILL: longest pause of the run around it, s",
        [b - a for a, b in gaps],
        "2.5 p99",
    )
    late = [_seconds_to_unknown(fleet, run, call) for call in judge.calls(run, "state=unknown")]
    if late:
        report.figure("lease's end to `unknown`, s", late, "5 p99")
    report.figure("unknown a kill", [len(late) / len(kills)], "8 = OUTBOUND_SENDERS")
    report.add(judge.verdict("a worker is killed, one after the other", len(kills)))


def _gaps(times):
    return list(itertools.pairwise(times))


def _seconds_to_unknown(fleet, run, call):
    one = fleet.ask("GET", f"/runs/{run.run_id}/calls/{call['call_id']}", run.key).json()
    claimed = datetime.fromisoformat(one["attempts"][-1]["claimed_at"]).timestamp()
    at = next(e["at"] for e in one["timeline"] if e["event"] == "attempt_unknown")
    return datetime.fromisoformat(at).timestamp() - claimed - LEASE


@pytest.mark.timeout(240)
def test_dialling_goes_on_after_redis_was_emptied(fleet, judge, post):
    times = 20 if LONG else 4
    run = post(100 * times)
    emptied = []
    with redis.Redis.from_url(fleet.redis.url) as client:
        for _ in range(times):
            before = run.last.get("attempts", 0)
            wait_until(lambda before=before: run.last.get("attempts", 0) > before + 60, 60)
            client.flushall()
            emptied.append(time.time())
    judge.settle()
    at = accepted(fleet, set(run.phones))
    gaps = [next((t - moment for t in at if t > moment), 0.0) for moment in emptied]
    report.figure("Redis emptied to the next call, s", gaps, "2.5")
    report.add(judge.verdict("redis is emptied, one after the other", times))


def test_an_unknown_is_settled_when_the_carrier_speaks_of_it(fleet, judge, post):
    # Every fourth one: ten in a row would open the breaker.
    delay = 2.0
    fleet.faults(
        accept_then_reset=25, lookup_empty=100, callbacks_delayed=100, callback_delay_seconds=delay
    )
    run = post(200 if LONG else 60)
    judge.settle()
    rows = {row["attempt_id"]: row for row in fleet.ledger()}
    waited = []
    for call in judge.calls(run):
        one = fleet.ask("GET", f"/runs/{run.run_id}/calls/{call['call_id']}", run.key).json()
        told = {event["event"]: event["at"] for event in one["timeline"]}
        if "attempt_unknown" in told:
            row = rows[one["attempts"][-1]["attempt_id"]]
            said = next(at for event, at in told.items() if event in LAST_WORDS)
            waited.append(seconds_between(row["ended_at"], said) - delay)
    report.figure("an unknown: the carrier's last word to settled", waited, "1")
    report.add(judge.verdict("answers get lost, and the carrier speaks", len(waited)))
    assert waited


def seconds_between(before, after):
    return (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
