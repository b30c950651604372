"""GET run: while it is dialled beside a route that does nothing, and by how many rows there are.

The first is asked for in turn with /health/live on one connection, while a worker dials with the
null carrier. The second is what PostgreSQL reads for one GET, by EXPLAIN (ANALYZE, BUFFERS).
"""

from __future__ import annotations

import statistics
import time
from typing import Any
from uuid import UUID

from benchmarks import wire
from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.placed import fill
from benchmarks.results import Report, percentile
from outbound import accounts, calls, progress
from plans import explain

FULL = {"rounds": 7, "calls": 5000, "rows": "1000,100000,1000000"}
QUICK = {"rounds": 1, "calls": 300, "rows": "1000,10000"}
REST = 0.005
"""Seconds before each request."""
_CALLS = """
    INSERT INTO calls (run_id, account_id, lead_id, phone, state, outcome, attempts, last_number)
    SELECT r.id, r.account_id, 'lead-' || n, '+1' || (2020000000 + n), 'completed', 'answered', 1, 1
      FROM generate_series(CAST(:low AS integer), CAST(:high AS integer)) n
      CROSS JOIN (SELECT id, account_id FROM runs WHERE id = :run) r
     WHERE n % 2 = :part
"""
_COUNTERS = """
    INSERT INTO run_counters (run_id, shard, completed, answered, attempts)
    SELECT :run, n, :each, :each, :each FROM generate_series(0, 15) n
    ON CONFLICT (run_id, shard) DO UPDATE SET completed = excluded.completed
"""
_FIRST_PAGE = {"states": None, "outcome": None, "search": None, "limit": 101, "before": None}


def run(ground: Ground, report: Report, *, rounds: int, calls: int, rows: str) -> None:
    with Ours(ground, "refuses") as ours:
        ours.start_roles("web", "reconciler", "worker")
        found = [_while_dialling(ours, calls) for _ in range(rounds)]
    for when in ("idle", "while dialling"):
        for share in (0.5, 0.99):
            _tell(report, when, share, [one[when] for one in found])
    with Ours(ground) as ours:
        ours.start_web()
        _by_rows(report, ours, [int(word) for word in rows.split(",")])


def _tell(report: Report, when: str, share: float, rounds: list[dict[str, list[float]]]) -> None:
    """Compare a percentile of the two, round by round."""
    mine, others = (
        [percentile(seconds, share) * 1000 for seconds in side]
        for side in zip(*(one.values() for one in rounds), strict=True)
    )
    what = f"GET run : GET /health/live, {when}, p{share * 100:.0f}"
    samples = [len(one["GET run"]) for one in rounds]
    figure = report.tell(what, "ms", statistics.median(mine), samples=samples)
    figure.beside(statistics.median(others), [a / b for a, b in zip(mine, others, strict=True)])


def _while_dialling(ours: Ours, calls: int) -> dict[str, dict[str, list[float]]]:
    """Ask for a run before it is dialled and meanwhile; returns seconds, by when and by what."""
    ours.forget()
    ours.hold()
    posted = ours.post(calls)
    ours.lift_limits()
    ours.ground.settle_down("ours")
    line = wire.Line(ours.base)  # one for all: a page in a browser keeps its connection, too
    asked = {"GET run": ours.get(f"/runs/{posted}"), "GET /health/live": _live(ours)}
    _ask(line, asked, 0.3)
    before = _ask(line, asked, 1)
    ours.let_go()
    during = {name: list[float]() for name in asked}
    while ours.counted()["queued"]:
        for name, seconds in _ask(line, asked, 0.2).items():
            during[name] += seconds
    line.close()
    ours.wait_for_count(30, in_progress=0)
    return {"idle": before, "while dialling": during}


def _live(ours: Ours) -> bytes:
    return wire.request("GET", f"{ours.base}/health/live")


def _ask(line: wire.Line, asked: dict[str, bytes], seconds: float) -> dict[str, list[float]]:
    """Ask for each in turn, some 80 times a second, and each after the same rest.

    The one that came first after a rest would find the caches cold, the other one warm.
    """
    found: dict[str, list[float]] = {name: [] for name in asked}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, request in asked.items():
            time.sleep(REST)
            found[name].append(line.timed(request, 200))
    return found


def _by_rows(report: Report, ours: Ours, sizes: list[int]) -> None:
    ours.hold()
    run = ours.post(1)
    filled = 0
    for rows in sizes:
        fill(ours, _CALLS, _COUNTERS, run=run, low=filled + 1, high=rows, each=rows // 16)
        filled = rows
        account = ours.one("SELECT account_id FROM runs WHERE id = :run", run=run).account_id
        asked = {"hash": accounts.digest(ours.key), "run": UUID(run)}
        buffers = _buffers(ours, str(progress._BY_KEY), **asked)
        report.tell(f"buffers of GET run, {rows:,} calls", "pages", buffers)
        page = _buffers(ours, calls._PAGE.text, run=UUID(run), account=account, **_FIRST_PAGE)
        report.tell(f"buffers of a page of its calls, {rows:,} calls", "pages", page)
        seconds = wire.send_all(ours.base, [ours.get(f"/runs/{run}")] * 200, 1, 200).seconds
        report.tell(f"GET run, {rows:,} calls, p50", "ms", percentile(seconds, 0.5) * 1000)


def _buffers(ours: Ours, statement: str, **values: Any) -> int:
    with ours.engine.connect() as connection:
        return explain(connection, statement, **values).buffers
