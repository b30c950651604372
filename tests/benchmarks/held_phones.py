"""A run half of whose phones are held by another run's live calls, beside one that is free.

Both dial as many free phones, with the null carrier, while as many other calls are live: only
in one of them the held phones are in the way, every second one.
"""

from __future__ import annotations

from functools import partial

from benchmarks.ground import Ground
from benchmarks.ours import Ours, phones
from benchmarks.placed import place
from benchmarks.results import Report, Turn, in_turn

FULL = {"rounds": 7, "calls": 2500, "senders": 64}
QUICK = {"rounds": 1, "calls": 100, "senders": 8}


def run(ground: Ground, report: Report, *, rounds: int, calls: int, senders: int) -> None:
    with Ours(ground, "refuses", OUTBOUND_SENDERS=str(senders)) as ours:
        ours.start_roles("web", "reconciler")
        turns = in_turn(
            rounds,
            {
                "half held": partial(_dial, ours, calls, held=True),
                "all free": partial(_dial, ours, calls, held=False),
            },
        )
    report.compare(f"{calls} free, {calls} held : all free", turns["half held"], turns["all free"])


def _dial(ours: Ours, calls: int, *, held: bool) -> Turn:
    ours.forget()
    ours.hold()
    worker = ours.begin_worker()
    place(ours, calls)
    free = phones(calls, 100_000)
    mixed = [one for pair in zip(phones(calls), free, strict=True) for one in pair]
    run = ours.post_run(ours.key, mixed if held else free)
    ours.lift_limits()
    ours.ground.settle_down("ours")
    worker.wait_for("WORKER_START")
    with ours.ground.metered(*ours.pids) as meter:
        ours.let_go()
        ours.wait_for_count(60 + calls / 10, failed=calls)
    row = ours.one(
        """SELECT extract(epoch FROM max(ended_at) - min(claimed_at))::float AS s
             FROM attempts WHERE run_id = :run""",
        run=run,
    )
    worker.kill()
    return Turn(calls, row.s, meter.cost)
