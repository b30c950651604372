"""Turns of two sides, their ratios, one table, and a JSON file."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.ground import Cost


@dataclass(frozen=True)
class Turn:
    """What one side did in one round.

    Attributes:
        units: calls, callbacks or leads.
        more: what explains it.
    """

    units: int
    seconds: float
    cost: Cost = field(default_factory=Cost)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.units / self.seconds

    def per_thousand(self, amount: float) -> float:
        return amount / self.units * 1000


def in_turn(rounds: int, sides: dict[str, Callable[[], Turn]]) -> dict[str, list[Turn]]:
    """Let every side have its turn in every round; who begins changes, so that nobody profits."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(sides):
            started = time.monotonic()
            turns[name].append(sides[name]())
            took = f"{turns[name][-1].rate:,.1f}/s, {time.monotonic() - started:.1f} s with set-up"
            say(f"  round {number + 1}/{rounds} {name}: {took}")
    return turns


def say(line: str) -> None:
    """Tell whoever waits, beside the table."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass
class Figure:
    """One line of the table.

    Attributes:
        ours, reference: medians, in `unit`.
        ratios: of each round, ours by the reference's.
        cpu, wal: CPU-seconds and kB of WAL for 1,000 units, by side.
        more: what does not fit the table.
    """

    part: str
    what: str
    unit: str
    ours: float
    reference: float | None = None
    ratios: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    wal: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def beside(self, reference: float, ratios: Sequence[float] = ()) -> None:
        """Compare with something that was measured at the same time, in each of the rounds."""
        self.reference = reference
        self.ratios = [*ratios] or ([self.ours / reference] if reference else [])


class Report:
    """Collects figures, and shows them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.part = ""
        self.about: dict[str, Any] = {}
        self.figures: list[Figure] = []
        directory.mkdir(parents=True, exist_ok=True)

    def tell(self, what: str, unit: str, value: float, **more: Any) -> Figure:
        """Note a figure that has no reference."""
        figure = Figure(self.part, what, unit, value, more=more)
        self.figures.append(figure)
        say(f"  {what}: {value:,.3f} {unit}")
        return figure

    def one_side(self, what: str, unit: str, turns: Sequence[Turn], **more: Any) -> Figure:
        """Note a rate with its costs."""
        figure = self.tell(what, unit, statistics.median(t.rate for t in turns), **more)
        self._add_costs(figure, "ours", turns)
        return figure

    def compare(
        self,
        what: str,
        ours: Sequence[Turn],
        reference: Sequence[Turn],
        *,
        seconds: bool = False,
        **more: Any,
    ) -> Figure:
        """Note two sides' rates, or seconds, round by round."""

        def values(turns: Sequence[Turn]) -> list[float]:
            return [turn.seconds if seconds else turn.rate for turn in turns]

        mine, others = values(ours), values(reference)
        figure = Figure(
            self.part,
            what,
            "s" if seconds else "/s",
            statistics.median(mine),
            statistics.median(others),
            [a / b for a, b in zip(mine, others, strict=True)],
            more=more,
        )
        self._add_costs(figure, "ours", ours)
        self._add_costs(figure, "reference", reference)
        self.figures.append(figure)
        return figure

    @staticmethod
    def _add_costs(figure: Figure, side: str, turns: Sequence[Turn]) -> None:
        def median(amount: Callable[[Cost], float]) -> float:
            return statistics.median(turn.per_thousand(amount(turn.cost)) for turn in turns)

        figure.cpu[side] = median(lambda cost: cost.cpu)
        figure.cpu[f"{side} servers"] = median(lambda cost: cost.postgres + cost.redis)
        figure.wal[side] = median(lambda cost: cost.wal / 1000)

    def write(self) -> Path:
        """Write the JSON; returns where."""
        path = self.directory / "figures.json"
        body = {"about": self.about, "figures": [asdict(figure) for figure in self.figures]}
        path.write_text(json.dumps(body, indent=1) + "\n")
        return path

    def table(self) -> str:
        """Show everything, a line each."""
        rows = [_HEAD, *(_cells(figure) for figure in self.figures)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
        lines = [
            "  ".join(_pad(c, w, i) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


_HEAD = (
    "part",
    "figure",
    "ours",
    "reference",
    "ratio",
    "spread",
    "CPU s/1000 (servers)",
    "reference's",
    "WAL kB/1000",
    "reference's",
)


def _pad(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _cells(figure: Figure) -> tuple[str, ...]:
    ratios = figure.ratios
    return (
        figure.part,
        figure.what,
        f"{_number(figure.ours)} {figure.unit}",
        "" if figure.reference is None else f"{_number(figure.reference)} {figure.unit}",
        f"{statistics.median(ratios):.3f}" if ratios else "",
        f"{min(ratios):.3f}..{max(ratios):.3f}" if ratios else "",
        _cpu(figure, "ours"),
        _cpu(figure, "reference"),
        _number(figure.wal["ours"]) if figure.wal.get("ours") else "",
        _number(figure.wal["reference"]) if figure.wal.get("reference") else "",
    )


def _cpu(figure: Figure, side: str) -> str:
    if not figure.cpu.get(side):
        return ""
    return f"{figure.cpu[side]:.2f} ({figure.cpu[f'{side} servers']:.2f})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; the largest for few values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
