"""What a call costs in a database that has grown, and while somebody holds a snapshot open.

`past attempts`: two databases side by side, one of them filled with calls that are over, their
attempts and three events each; the same calls are dialled in both, with the null carrier. They
are among the phones that were called before.

`snapshot held`: a transaction of another connection has read something and stays open, as a long
report or pg_dump does, so that nothing dead can be taken away. Calls are dialled in windows, in
the full database: the last one is compared with the first. The same without a snapshot shows what
of it is the snapshot's. Seconds of a window are the benchmark's own, from one look at the
counters to another.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from benchmarks import plot
from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.placed import fill
from benchmarks.results import Report, Turn, in_turn
from processes import wait_until

FULL = {
    "rounds": 7, "attempts": 1_000_000, "calls": 5000, "held_rounds": 7, "held_calls": 10_000,
    "windows": 5, "senders": 256,
}  # fmt: skip
QUICK = {
    "rounds": 1, "attempts": 10_000, "calls": 400, "held_rounds": 1, "held_calls": 1000,
    "windows": 4, "senders": 16,
}  # fmt: skip
CALLS_OF_A_RUN = 500
# The run that was posted is the first of those that are over; the others have its columns.
_NONE_OPEN = """
    UPDATE runs SET status = 'completed', total_leads = :each, ended_at = now();
    DELETE FROM calls; DELETE FROM run_counters
"""
_RUNS = """
    INSERT INTO runs
    SELECT (jsonb_populate_record(r, jsonb_build_object('id', uuidv7()))).*
      FROM runs r, generate_series(2, CAST(:runs AS integer))
"""
_CALLS = """
    INSERT INTO calls (run_id, account_id, lead_id, phone, state, outcome, attempts, last_number)
    SELECT p.id, p.account_id, 'lead-' || n,
           '+1' || (2022000000 + (p.place - 1) * CAST(:each AS bigint) + n),
           'completed', 'answered', 1, 1
      FROM (SELECT id, account_id, row_number() OVER (ORDER BY id) AS place FROM runs) p,
           generate_series(0, CAST(:each AS integer) - 1) n
     WHERE p.place % 2 = :part ORDER BY p.place, n
"""
_ATTEMPTS = """
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier,
           carrier_call_id, state, outcome, phone_held, fence, worker_id, claimed_at, lease_until,
           occupies_until, placed_at, ended_at)
    SELECT uuidv7(), id, run_id, account_id, 1, phone, '+97231234567', 'twilio',
           'CA' || md5(id::text), 'ended', 'answered', false, 1, 'bench:1',
           now() - interval '2 hours', now() - interval '2 hours', now() - interval '1 hour',
           now() - interval '2 hours', now() - interval '1 hour'
      FROM calls WHERE id % 2 = :part ORDER BY id
"""
_EVENTS = """
    INSERT INTO events (account_id, run_id, call_id, attempt_id, event, source, worker_id)
    SELECT account_id, run_id, call_id, id, 'carrier_said_' || word, 'webhook', 'bench:1'
      FROM attempts, unnest(ARRAY['ringing', 'in_progress', 'answered']) word
     WHERE call_id % 2 = :part ORDER BY attempts.id
"""
_COUNTERS = """
    INSERT INTO run_counters (run_id, shard, completed, answered, attempts)
    SELECT id, 0, :each, :each, :each FROM runs
"""
# Of one run: to read all counters over and over would cost more where there are more of them.
_DIALLED = "SELECT coalesce(sum(failed), 0)::int AS n FROM run_counters WHERE run_id = :run"
_SPENT = """
    SELECT extract(epoch FROM max(ended_at) - min(claimed_at))::float AS s
      FROM attempts WHERE call_id = ANY (ARRAY(SELECT id FROM calls WHERE run_id = :run))
"""


def run(
    ground: Ground,
    report: Report,
    *,
    rounds: int,
    attempts: int,
    calls: int,
    held_rounds: int,
    held_calls: int,
    windows: int,
    senders: int,
) -> None:
    settings = {"OUTBOUND_SENDERS": str(senders)}
    with (
        Ours(ground, "refuses", **settings) as fresh,
        Ours(ground, "refuses", name="grown", number=3, **settings) as grown,
    ):
        for ours in (fresh, grown):
            ours.start_web()
        _grow(grown, attempts)
        for ours in (fresh, grown):
            ours.start_reconciler()
            # Of a table that was empty PostgreSQL knows nothing, and reads it whole: not here.
            _dial(ours, calls // 5)
        turns = in_turn(
            rounds,
            {
                "grown": partial(fresh.while_stopped, partial(_dial, grown, calls)),
                "fresh": partial(grown.while_stopped, partial(_dial, fresh, calls)),
            },
        )
        what = f"{attempts:,} past attempts : none"
        report.compare(what, turns["grown"], turns["fresh"])
        plot.write(
            report.directory / "growing-size.svg",
            "Calls settled a second, median of the rounds",
            "attempts in the database before",
            "calls/s",
            {
                "1 worker process": [
                    (float(size), statistics.median(turn.rate for turn in turns[name]))
                    for size, name in ((0, "fresh"), (attempts, "grown"))
                ]
            },
        )
        fresh.stack.stop()
        _hold(report, grown, held_rounds, held_calls, windows)


def _grow(ours: Ours, attempts: int) -> None:
    ours.hold()
    ours.post(1)
    runs = max(1, attempts // CALLS_OF_A_RUN)
    statements = (_NONE_OPEN, _RUNS, _CALLS, _ATTEMPTS, _EVENTS, _COUNTERS)
    fill(ours, *statements, runs=runs, each=attempts // runs)


def _dial(ours: Ours, calls: int) -> Turn:
    """Dial so many calls; those of the turns before stay, beside all that is there."""
    with _ready(ours, calls) as run, ours.ground.metered(*ours.pids) as meter:
        ours.let_go()
        _wait(ours, run, calls)
    return Turn(calls, ours.one(_SPENT, run=run).s, meter.cost)


@contextmanager
def _ready(ours: Ours, calls: int) -> Iterator[str]:
    """Have a run that nobody dials yet, and a fresh worker that waits for it."""
    ours.hold()
    worker = ours.begin_worker()
    run = ours.post(calls)
    ours.lift_limits()
    ours.ground.sql("VACUUM", database=ours.name)
    ours.ground.settle_down(ours.name)
    worker.wait_for("WORKER_START")
    yield run
    worker.kill()


def _wait(ours: Ours, run: str, calls: int) -> int:
    def dialled() -> int | None:
        n: int = ours.one(_DIALLED, run=run).n
        return n if n >= calls else None

    return int(wait_until(dialled, 60 + calls / 20, f"{calls} calls dialled"))


def _hold(report: Report, ours: Ours, rounds: int, calls: int, windows: int) -> None:
    turns = in_turn(
        rounds,
        {
            "snapshot held": partial(_dial_in_windows, ours, calls, windows, held=True),
            "no snapshot": partial(_dial_in_windows, ours, calls, windows, held=False),
        },
    )
    report.compare(
        f"snapshot held, {calls:,} calls : no snapshot",
        turns["snapshot held"],
        turns["no snapshot"],
    )
    for name, taken in turns.items():
        first, last = ([turn.more["windows"][n] for turn in taken] for n in (0, -1))
        what = f"{name}, the last {calls // windows:,} of {calls:,} calls : the first"
        report.compare(what, last, first)
    plot.write(
        report.directory / "growing.svg",
        f"Calls settled a second, in windows of {calls // windows:,}, last round",
        "window",
        "calls/s",
        {
            name: [(n + 1, one.rate) for n, one in enumerate(taken[-1].more["windows"])]
            for name, taken in turns.items()
        },
    )


def _dial_in_windows(ours: Ours, calls: int, windows: int, *, held: bool) -> Turn:
    turns, before = list[Turn](), 0
    with (
        _ready(ours, calls) as run,
        _snapshot(ours) if held else nullcontext(),
        ours.ground.metered(*ours.pids) as whole,
    ):
        ours.let_go()
        for number in range(windows):
            with ours.ground.metered(*ours.pids) as meter:
                dialled = _wait(ours, run, calls * (number + 1) // windows)
            turns.append(Turn(dialled - before, meter.seconds, meter.cost))
            before = dialled
    return Turn(calls, whole.seconds, whole.cost, {"windows": turns})


@contextmanager
def _snapshot(ours: Ours) -> Iterator[None]:
    connection = ours.ground.connect(ours.name)
    try:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM runs")
            yield
    finally:
        connection.close()
