"""Calls through the carrier's HTTP API and back to `settled`, beside a loop that only asks.

The reference makes the same requests with the same client (`Twilio.place`) from as many threads,
and takes the callbacks with a server that does nothing but answer 204. The emulator works as hard
for both, and is in neither side's costs.
"""

from __future__ import annotations

from functools import partial

from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.references import Reference
from benchmarks.results import Report, Turn, in_turn
from processes import Process, wait_until

FULL = {"rounds": 7, "calls": 300, "senders": 16}
QUICK = {"rounds": 1, "calls": 60, "senders": 8}


def run(ground: Ground, report: Report, *, rounds: int, calls: int, senders: int) -> None:
    with Ours(ground, OUTBOUND_SENDERS=str(senders)) as ours:
        carrier = ours.start_carrier("--ring-seconds", "0.02", "--talk-seconds", "0.02")
        ours.start_roles("web", "reconciler", "worker")
        turns = in_turn(
            rounds,
            {
                "ours": partial(_dial, ours, carrier, calls),
                "requests only": partial(_requests_only, ours, calls, senders),
            },
        )
    figure = report.compare(
        f"call -> settled, {senders} senders : requests only", turns["ours"], turns["requests only"]
    )
    own = sorted(turn.per_thousand(turn.cost.own) for turn in turns["ours"])
    report.tell("our processes' own CPU for a call", "ms", own[len(own) // 2])
    figure.more["own_cpu_ms_per_call"] = own


def _dial(ours: Ours, carrier: Process, calls: int) -> Turn:
    ours.forget()
    ours.hold()
    ours.post(calls)
    ours.lift_limits()
    ours.ground.settle_down("ours")
    own = [pid for pid in ours.pids if pid != carrier.popen.pid]
    with ours.ground.metered(*own) as meter:
        ours.let_go()
        ours.wait_for_count(60 + calls / 10, answered=calls, completed=calls)
    row = ours.one(
        "SELECT extract(epoch FROM max(ended_at) - min(claimed_at))::float AS s FROM attempts"
    )
    return Turn(calls, row.s, meter.cost)


def _requests_only(ours: Ours, calls: int, senders: int) -> Turn:
    environment = ours.stack.environment
    before = ours.summary()["calls"]
    reference = Reference(
        "reference_http",
        environment["TWILIO_API_BASE_URL"],
        environment["TWILIO_ACCOUNT_SID"],
        environment["TWILIO_AUTH_TOKEN"],
        str(calls),
        str(senders),
    )
    try:
        with ours.ground.metered(reference.process.pid) as meter:
            seconds = reference.go()["seconds"]
    finally:
        reference.end()
    wait_until(lambda: ours.summary()["calls"] == before + calls)
    return Turn(calls, seconds, meter.cost)
