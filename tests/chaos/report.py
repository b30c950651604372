"""What a fault did: one JSON line each, and the table at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "OUTBOUND_CHAOS_REPORT"


@dataclass(frozen=True)
class Result:
    """What became of the leads around one kind of fault.

    Attributes:
        times: how often the fault really happened.
        duplicates: carrier calls too many.
        lost: accepted leads that ended nowhere.
        unknown: leads that are shown as unknown at the end, and `why`.
        stall: longest pause between two calls, in seconds.
    """

    fault: str
    times: int
    calls: int
    duplicates: int
    lost: int
    unknown: int
    why: str
    stall: float


def add(result: Result) -> None:
    """Append to the report that the environment names, if it names one."""
    _append(asdict(result))


def figure(name: str, values: list[float], bar: str) -> None:
    """Append a measured figure, with the bar that it is held to."""
    _append({"figure": name, "values": [round(value, 3) for value in values], "bar": bar})


def _append(row: dict[str, object]) -> None:
    if path := os.environ.get(FILE):
        with Path(path).open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Iterable[dict[str, object]]) -> str:
    """Sum up by fault, in the order of first appearance."""
    sums: dict[str, dict[str, object]] = {}
    for row in (row for row in rows if "fault" in row):
        known = sums.setdefault(str(row["fault"]), {"why": set(), "stall": 0.0})
        for name in ("times", "calls", "duplicates", "lost", "unknown"):
            known[name] = int(known.get(name, 0)) + int(row.get(name) or 0)  # type: ignore[call-overload]
        known["stall"] = max(float(known["stall"]), float(row["stall"] or 0))  # type: ignore[arg-type]
        known["why"] |= {row["why"]} - {"", None}  # type: ignore[operator]
    head = f"{'fault':<44}{'times':>6}{'calls':>8}{'dupl.':>6}{'lost':>6}{'unkn.':>6}{'stall s':>9}"
    lines = [head, "-" * len(head)]
    total = dict.fromkeys(("times", "calls", "duplicates", "lost", "unknown"), 0)
    for fault, known in sums.items():
        lines.append(_line(fault, known))
        for name in total:
            total[name] += int(known[name])  # type: ignore[call-overload]
    longest = max((float(known["stall"]) for known in sums.values()), default=0.0)  # type: ignore[arg-type]
    return "\n".join([*lines, _line("all", {**total, "stall": longest, "why": set()})])


def figures(rows: Iterable[dict[str, object]]) -> str:
    """Median, 99th percentile and most of every figure, over all that was measured of it."""
    known: dict[str, tuple[list[float], str]] = {}
    for row in (row for row in rows if "figure" in row):
        values, _ = known.setdefault(str(row["figure"]), ([], str(row["bar"])))
        values += row["values"]  # type: ignore[operator]
    head = f"{'figure':<54}{'n':>6}{'median':>8}{'p99':>8}{'most':>8}  bar"
    lines = [head, "-" * len(head)]
    for name, (values, bar) in known.items():
        if not values:
            continue
        values.sort()
        p99 = values[math.ceil(0.99 * len(values)) - 1]
        median = values[(len(values) - 1) // 2]
        lines.append(
            f"{name:<54}{len(values):>6}{median:>8.2f}{p99:>8.2f}{values[-1]:>8.2f}  {bar}"
        )
    return "\n".join(lines) if known else ""


def _line(fault: str, known: dict[str, object]) -> str:
    why = "; ".join(sorted(known["why"]))  # type: ignore[call-overload]
    return (
        f"{fault:<44}{known['times']:>6}{known['calls']:>8}{known['duplicates']:>6}"
        f"{known['lost']:>6}{known['unknown']:>6}{known['stall']:>9.2f}  {why}"
    )
