"""How many calls a second are claimed, placed and written, with a carrier that answers at once.

Ours is measured twice. `settled`: the null carrier refuses every callee, which is the one answer
that settles a call, so both sides write an intent and an end. `placed`: it accepts, and the
answer is written; a call then waits for its callback, which part `callbacks` measures.
Seconds are the database's own, from the first claim to the last written answer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks import plot, references
from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.results import Report, Turn, in_turn, say
from processes import Process, wait_until

# References are quicker or slower than ours by far: each has as many calls as take it seconds.
FULL = {
    "rounds": 7, "calls": 20_000, "senders": "8,64,128,256,400",
    "series_calls": 1000, "sql_calls": 20_000, "dramatiq_calls": 1500, "dramatiq_threads": "4,8,16",
    "rq_calls": 50,
}  # fmt: skip
QUICK = {
    "rounds": 1, "calls": 400, "senders": "8,16", "series_calls": 200,
    "sql_calls": 2000, "dramatiq_calls": 300, "dramatiq_threads": "4,8", "rq_calls": 100,
}  # fmt: skip
_ENDS = {"refuses": "ended_at", "accepts": "placed_at"}


def run(ground: Ground, report: Report, **sizes: Any) -> None:
    senders = [int(word) for word in sizes["senders"].split(",")]
    threads = [int(word) for word in sizes["dramatiq_threads"].split(",")]
    with Ours(ground, "refuses") as ours:
        ours.start_roles("web", "reconciler")
        best = _series(report, ours, senders, sizes["series_calls"])
        turns = _rounds(ground, ours, best, _best_threads(ground, threads, sizes), sizes)
        _compare(report, turns)
    with Ours(ground, "accepts") as ours:
        ours.start_roles("web", "reconciler")
        for processes, most in best.items():
            turn = dial(ours, processes, most, sizes["calls"], "accepts")
            report.one_side(f"placed, {processes} worker(s), {most} senders", "/s", [turn])


def dial(
    ours: Ours,
    processes: int,
    senders: int,
    calls: int,
    carrier: str = "refuses",
    around: Callable[[Process], AbstractContextManager[None]] = nullcontext,
) -> Turn:
    """Let so many fresh workers dial so many calls; `around` is given one of them."""
    ours.forget()
    ours.hold()
    workers = [ours.begin_worker(OUTBOUND_SENDERS=str(senders)) for _ in range(processes)]
    run = ours.post(calls)
    ours.lift_limits()
    ours.ground.settle_down("ours")
    for worker in workers:
        worker.wait_for("WORKER_START")
    wanted = {"queued": 0, "failed": calls} if carrier == "refuses" else {"queued": 0}
    with ours.ground.metered(*ours.pids) as meter, around(workers[0]):
        ours.let_go()
        ours.wait_for_count(60 + calls / 20, **wanted)
        seconds = _until_written(ours, run, calls, _ENDS[carrier])
    for worker in workers:
        worker.kill()
    claims = ours.one("SELECT count(DISTINCT fence) AS n FROM attempts").n
    return Turn(calls, seconds, meter.cost, {"calls a claim": round(calls / claims, 1)})


def _until_written(ours: Ours, run: str, calls: int, column: str) -> float:
    def written() -> Any:
        row = ours.one(
            f"""SELECT count({column}) AS written,
                       extract(epoch FROM max({column}) - min(claimed_at))::float AS seconds
                  FROM attempts WHERE run_id = :run""",
            run=run,
        )
        return row.seconds if row.written == calls else None

    return float(wait_until(written, 30, f"{calls} written answers"))


def _series(report: Report, ours: Ours, senders: list[int], calls: int) -> dict[int, int]:
    """Draw calls/s and CPU against senders, for one process and two; returns the best of each."""
    rates: dict[str, plot.Points] = {}
    costs: dict[str, plot.Points] = {}
    best: dict[int, int] = {}
    for processes in (1, 2):
        name = f"{processes} worker process{'es' if processes > 1 else ''}"
        rates[name], costs[name] = [], []
        for most in senders:
            # At least so many claims: of few, the first and the last decide.
            turn = dial(ours, processes, most, max(calls, 20 * most))
            what = f"settled, {processes} worker(s), {most} senders"
            report.one_side(what, "/s", [turn], **turn.more)
            rates[name].append((float(most), turn.rate))
            costs[name].append((float(most), turn.per_thousand(turn.cost.cpu) * 1000))
        best[processes] = int(max(rates[name], key=lambda point: point[1])[0])
    title, x_name = "Calls settled, null carrier", "OUTBOUND_SENDERS of each worker"
    plot.write(report.directory / "dialling.svg", title, x_name, "calls/s", rates)
    unit = "CPU of all processes and servers, µs a call"
    plot.write(report.directory / "dialling-cpu.svg", title, x_name, unit, costs)
    return best


def _best_threads(ground: Ground, threads: list[int], sizes: dict[str, Any]) -> int:
    calls = sizes["dramatiq_calls"] // 2
    return max(threads, key=lambda count: _dramatiq(ground, calls, count).rate)


def _dramatiq(ground: Ground, calls: int, threads: int) -> Turn:
    return references.dialled(
        ground, calls, "reference_dramatiq", ground.redis_url(2), str(calls), str(threads)
    )


def _rounds(
    ground: Ground, ours: Ours, best: dict[int, int], threads: int, sizes: dict[str, Any]
) -> dict[str, list[Turn]]:
    sql, jobs = sizes["sql_calls"], sizes["rq_calls"]
    small = ("reference_sql", "2", "small")
    others = {
        "SQL, small tables, 2 connections": partial(references.dialled, ground, sql, *small),
        f"Dramatiq, {threads} threads": partial(
            _dramatiq, ground, sizes["dramatiq_calls"], threads
        ),
    }
    if find_spec("rq"):
        arguments = ("reference_rq", ground.redis_url(2), str(jobs))
        others["RQ"] = partial(references.dialled, ground, jobs, *arguments)
    else:
        say("  rq is not installed (tests/benchmarks/requirements.txt): left out")
    mine = {
        f"ours, {processes} worker(s), {most} senders": partial(
            dial, ours, processes, most, sizes["calls"]
        )
        for processes, most in best.items()
    }
    sides: dict[str, Callable[[], Turn]] = {
        **mine,
        "SQL, 2 connections": partial(_sql_on_our_tables, ours, sql),
        **{name: partial(ours.while_stopped, side) for name, side in others.items()},
    }
    return in_turn(sizes["rounds"], sides)


def _sql_on_our_tables(ours: Ours, calls: int) -> Turn:
    ours.forget()
    ours.hold()
    ours.post(calls)
    ours.ground.settle_down("ours")
    arguments = ("reference_sql", "2", "ours")
    return ours.while_stopped(partial(references.measured, ours.ground, "ours", calls, *arguments))


def _compare(report: Report, turns: dict[str, list[Turn]]) -> None:
    mine = {name: taken for name, taken in turns.items() if name.startswith("ours")}
    for name, taken in mine.items():
        for other, reference in turns.items():
            if other not in mine:
                report.compare(f"{name} : {other}", taken, reference)
    one, two = mine.values()
    gain = statistics.median(b.rate / a.rate for a, b in zip(one, two, strict=True))
    report.tell("two workers by one", "x", gain)
