"""How soon a call follows what allows it, by the carrier's own times, and how full slots are.

`posted`: from sending POST runs with one lead to the carrier's acceptance, all idle before.
`freed`: one slot; from the end of a call at the carrier to its acceptance of the next one.
`slots in use`: calls of two seconds, twenty at once; the share of slot-seconds that were used
between the first moment when all could be and the last acceptance.
"""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from typing import Any

from benchmarks import plot
from benchmarks.ground import Ground
from benchmarks.ours import Ours, phones
from benchmarks.results import Report, percentile
from processes import wait_until

FULL = {"posts": 50, "freed": 100, "slots": 20, "slot_calls": 200}
QUICK = {"posts": 5, "freed": 8, "slots": 5, "slot_calls": 15}
CALL_SECONDS = 2.0
SHARES = (1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0)


def run(
    ground: Ground, report: Report, *, posts: int, freed: int, slots: int, slot_calls: int
) -> None:
    with Ours(ground) as ours:
        carrier = ours.start_carrier("--ring-seconds", "0.02", "--talk-seconds", "0.02")
        ours.start_roles("web", "reconciler", "worker")
        took = {
            "POST run -> call at the carrier": _posted(ours, posts),
            "slot free -> next call at the carrier": _freed(ours, freed),
        }
        for what, seconds in took.items():
            _tell(report, what, seconds)
        plot.write(
            report.directory / "reacting.svg",
            "How soon a call follows what allows it",
            "of a hundred calls",
            "ms",
            {
                what.partition(" ->")[0]: [(p, percentile(seconds, p / 100) * 1000) for p in SHARES]
                for what, seconds in took.items()
            },
        )
        carrier.terminate()
        ours.start_carrier("--ring-seconds", "0.5", "--talk-seconds", str(CALL_SECONDS - 0.5))
        share = _slots_in_use(ours, slots, slot_calls)
        report.tell(f"slots in use, {slots} of {CALL_SECONDS:g} s", "%", share * 100)


def _tell(report: Report, what: str, seconds: list[float]) -> None:
    for share in (0.5, 0.99):
        value = percentile(seconds, share) * 1000
        report.tell(f"{what}, p{share * 100:.0f}", "ms", value, samples=len(seconds))


def _posted(ours: Ours, posts: int) -> list[float]:
    sent: dict[str, float] = {}
    for number in range(posts):
        (phone,) = phones(1, number)
        sent[phone] = time.time()
        run = ours.post(1, number)
        ours.wait_for_run(ours.key, run, 30)
    return [_at(row, "accepted_at") - sent[row["to"]] for row in ours.ledger()]


def _freed(ours: Ours, calls: int) -> list[float]:
    run = ours.post(calls, 100_000, concurrency=1)
    ours.wait_for_run(ours.key, run, 30 + calls)
    rows = _of(ours, 100_000, calls)
    return [_at(b, "accepted_at") - _at(a, "ended_at") for a, b in itertools.pairwise(rows)]


def _slots_in_use(ours: Ours, slots: int, calls: int) -> float:
    run = ours.post(calls, 200_000, concurrency=slots)
    ours.wait_for_run(ours.key, run, 60 + 3 * CALL_SECONDS * calls / slots)
    wait_until(lambda: all(row["ended_at"] for row in ours.ledger()))
    rows = _of(ours, 200_000, calls)
    spans = [(_at(row, "accepted_at"), _at(row, "ended_at")) for row in rows]
    begin, end = spans[slots - 1][0], spans[-1][0]
    used = sum(max(0.0, min(b, end) - max(a, begin)) for a, b in spans)
    return used / (slots * (end - begin))


def _of(ours: Ours, first: int, calls: int) -> list[dict[str, Any]]:
    known = set(phones(calls, first))
    rows = [row for row in ours.ledger() if row["to"] in known]
    return sorted(rows, key=lambda row: str(row["accepted_at"]))


def _at(row: dict[str, Any], name: str) -> float:
    return datetime.fromisoformat(row[name]).timestamp()
