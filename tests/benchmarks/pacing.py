"""Whether calls_per_second is what the carrier sees, over any ten seconds, by its own times.

Three accounts at once, each with a run of another pace. A window begins at each call that has
ten seconds behind it within the run.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import datetime

from benchmarks.ground import Ground
from benchmarks.ours import Ours, phones
from benchmarks.results import Report

FULL = {"seconds": 30, "rates": "0.5,5,50", "window": 10}
QUICK = {"seconds": 6, "rates": "1,10", "window": 2}


def run(ground: Ground, report: Report, *, seconds: int, rates: str, window: int) -> None:
    paces = [float(word) for word in rates.split(",")]
    with Ours(ground) as ours:
        ours.start_carrier()
        ours.start_roles("web", "reconciler", "worker")
        posted = []
        for number, rate in enumerate(paces):
            key, numbers = ours.account(ours.engine), phones(int(rate * seconds), 50_000 * number)
            posted.append((rate, key, ours.post_run(key, numbers, calls_per_second=rate), numbers))
        for rate, key, one, numbers in posted:
            ours.wait_for_run(key, one, seconds + 60)
            _tell(report, rate, _accepted(ours, numbers), window)


def _accepted(ours: Ours, numbers: list[str]) -> list[float]:
    known = set(numbers)
    rows = [row for row in ours.ledger() if row["to"] in known]
    return sorted(datetime.fromisoformat(row["accepted_at"]).timestamp() for row in rows)


def _tell(report: Report, rate: float, at: list[float], window: int) -> None:
    begins = [n for n, start in enumerate(at) if start + window <= at[-1]]
    counts = [bisect_left(at, at[n] + window) - n for n in begins]
    wanted = rate * window
    for name, count in (("most", max(counts)), ("least", min(counts))):
        what = f"{rate:g}/s: {name} calls in {window} s, of {wanted:g}"
        report.tell(what, "%", count / wanted * 100, calls=count, windows=len(counts))
    mean = (len(at) - 1) / (at[-1] - at[0])
    report.tell(f"{rate:g}/s: over the whole run", "%", mean / rate * 100)
