"""What the dashboards show, counted from log lines: in one pass, in memory that does not grow.

Whatever a file may hold (binary data, other programs' lines, lines of a gigabyte) is passed over
and counted. Of what there could be any number of, so many are kept and the rest goes together.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

MOST_KEYS = 500
OTHERS = "(others)"
MOST_LEADER_CHANGES = 200
MOST_SLOW = 20
SLOW_MS = 1000
LONGEST_LINE = 1 << 20
LONGEST_TEXT = 200

SWEEP_FIGURES = ("rows", "unknown", "settled", "redialled", "ended", "rung")
LEADER_EVENTS = ("leader_elected", "leader_stepped_down")
RUN_EVENTS = ("run_created", "run_completed", "run_cancelled", "run_expired", "run_reopened")
FINAL_WORDS = ("answered", "busy", "no_answer", "failed", "cancelled")
GRAVE = ("error", "critical")

Line = dict[str, Any]


class Tally(Counter[str]):
    """Counts of words; beyond so many different ones, the rest together."""

    def add(self, word: str | None, count: float = 1) -> None:
        """Count a word, unless it is none."""
        if word is not None and count:
            known = word in self or len(self) < MOST_KEYS
            self[word if known else OTHERS] += int(count)


class Quantiles:
    """Quantiles to within one per cent, from counts of logarithmic steps."""

    STEP = math.log(1.02)

    def __init__(self) -> None:
        self.count = 0
        self._steps: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Take a value; below a thousandth all are alike."""
        self.count += 1
        self._steps[round(math.log(max(value, 0.001)) / self.STEP)] += 1

    def at(self, part: float) -> float | None:
        """Return the value that `part` of all do not exceed; None without any."""
        left = math.ceil(self.count * part)
        for step, count in sorted(self._steps.items()):
            left -= count
            if left <= 0:
                return round(math.exp(step * self.STEP), 1)
        return None


@dataclass
class Seen:
    """How often, and from when to when."""

    count: int = 0
    first: str | None = None
    last: str | None = None

    def add(self, at: str | None) -> None:
        """Take one more. The times are all of one form, so they sort as text."""
        self.count += 1
        if at:
            self.first = min(self.first or at, at)
            self.last = max(self.last or at, at)


@dataclass
class Summary:
    """Everything that is counted. `take` each line, then read `as_dict`."""

    skipped: int = 0
    lines: Seen = field(default_factory=Seen)
    levels: Tally = field(default_factory=Tally)
    sources: Tally = field(default_factory=Tally)
    events: Tally = field(default_factory=Tally)
    starts: Tally = field(default_factory=Tally)
    runs: Tally = field(default_factory=Tally)
    claims: int = 0
    claimed_calls: int = 0
    conflicts: Tally = field(default_factory=Tally)
    placed: int = 0
    not_placed: Tally = field(default_factory=Tally)
    settled: Tally = field(default_factory=Tally)
    unknown: Tally = field(default_factory=Tally)
    sweeps: dict[str, Tally] = field(default_factory=dict)
    leader_changes: int = 0
    leaders: deque[Line] = field(default_factory=lambda: deque(maxlen=MOST_LEADER_CHANGES))
    statuses: Tally = field(default_factory=Tally)
    all_requests: Quantiles = field(default_factory=Quantiles)
    requests: dict[str, Quantiles] = field(default_factory=dict)
    slow_requests: int = 0
    slowest: list[tuple[float, int, Line]] = field(default_factory=list)
    errors: dict[tuple[str, str], Seen] = field(default_factory=dict)

    def read(self, file: BinaryIO) -> None:
        """Take every line of a file."""
        for raw in _lines(file):
            line = _parse(raw)
            if line is None:
                self.skipped += 1
            else:
                self.take(line)

    def take(self, line: Line) -> None:
        """Count one line."""
        event, level = str(_text(line["event"])), _text(line.get("level"))
        self.lines.add(_text(line.get("timestamp")))
        self.events.add(event)
        self.levels.add(level)
        self.sources.add(_text(line.get("consumer_source")))
        if line.get("dedup_conflict") is True:
            self._take_conflict(event, line)
        if level in GRAVE:
            self._take_error(event, line)
        if event in RUN_EVENTS:
            self.runs.add(event)
        elif event in LEADER_EVENTS:
            self._take_leader(event, line)
        elif taker := _TAKERS.get(event):
            taker(self, line)

    def _take_conflict(self, event: str, line: Line) -> None:
        if event == "calls_moved_aside":
            for kind in ("phone", "recent_call"):
                self.conflicts.add(kind, _number(line.get(kind)))
        else:
            self.conflicts.add(event)

    def _take_error(self, event: str, line: Line) -> None:
        key = (event, _error(line))
        if key not in self.errors and len(self.errors) >= MOST_KEYS:
            key = (OTHERS, "")
        self.errors.setdefault(key, Seen()).add(_text(line.get("timestamp")))

    def _take_leader(self, event: str, line: Line) -> None:
        self.leader_changes += 1
        names = ("timestamp", "worker_id", "epoch", "reason")
        self.leaders.append({"event": event, **{name: _plain(line.get(name)) for name in names}})

    def take_start(self, line: Line) -> None:
        """Count a process that started."""
        self.starts.add(_text(line.get("consumer_source")))

    def take_claim(self, line: Line) -> None:
        """Count a claim and its calls."""
        self.claims += line.get("lock_acquired") is True
        self.claimed_calls += int(_number(line.get("claimed")))

    def take_placed(self, _: Line) -> None:
        """Count a call that the carrier took."""
        self.placed += 1

    def take_not_placed(self, line: Line) -> None:
        """Count a call that it did not take, or of which nobody knows."""
        verdict = _text(line.get("verdict"))
        self.not_placed.add(verdict)
        if verdict == "ambiguous":
            self.unknown.add("the answer was ambiguous")
        elif verdict == "refused_callee":
            self.settled.add("failed")

    def take_released(self, _: Line) -> None:
        """Count a call that its worker gave back."""
        self.not_placed.add("given back unsent")

    def take_callback(self, line: Line) -> None:
        """Count an outcome, if the callback was news."""
        progress = _text(line.get("progress"))
        if line.get("changed") is True and progress in FINAL_WORDS:
            self.settled.add(progress)

    def take_look_up(self, line: Line) -> None:
        """Count outcomes that look-ups found."""
        outcomes = line.get("outcomes")
        known = outcomes if isinstance(outcomes, dict) else {}
        for outcome in FINAL_WORDS:
            self.settled.add(outcome, _number(known.get(outcome)))

    def take_sweep(self, line: Line) -> None:
        """Count a repair."""
        name = _text(line.get("sweep")) or OTHERS
        if name not in self.sweeps and len(self.sweeps) >= MOST_KEYS:
            name = OTHERS
        tally = self.sweeps.setdefault(name, Tally())
        tally.add("times")
        for figure in SWEEP_FIGURES:
            tally.add(figure, _number(line.get(figure)))
        self.unknown.add(f"sweep {name}", _number(line.get("unknown")))

    def take_request(self, line: Line) -> None:
        """Count a request by status, and its time."""
        self.statuses.add(_text(line.get("status")))
        took = _number(line.get("duration_ms"))
        route = _text(line.get("route")) or "(no route)"
        if route not in self.requests and len(self.requests) >= MOST_KEYS:
            route = OTHERS
        self.requests.setdefault(route, Quantiles()).add(took)
        self.all_requests.add(took)
        if took > SLOW_MS:
            self._take_slow(took, line)

    def _take_slow(self, took: float, line: Line) -> None:
        self.slow_requests += 1
        names = ("timestamp", "method", "route", "status", "request_id")
        item = {"duration_ms": took, **{name: _plain(line.get(name)) for name in names}}
        heapq.heappush(self.slowest, (took, self.slow_requests, item))
        if len(self.slowest) > MOST_SLOW:
            heapq.heappop(self.slowest)

    def as_dict(self) -> dict[str, Any]:
        """Return it all, the most frequent first."""
        return {
            "lines": self.lines.count,
            "skipped": self.skipped,
            "first": self.lines.first,
            "last": self.lines.last,
            "levels": _most_first(self.levels),
            "sources": _most_first(self.sources),
            "events": _most_first(self.events),
            "starts": _most_first(self.starts),
            "runs": _most_first(self.runs),
            "claims": self.claims,
            "claimed_calls": self.claimed_calls,
            "dedup_conflicts": _most_first(self.conflicts),
            "placed": self.placed,
            "not_placed": _most_first(self.not_placed),
            "settled": _most_first(self.settled),
            "unknown": _most_first(self.unknown),
            "sweeps": [
                {"sweep": name, "times": tally["times"], **{f: tally[f] for f in SWEEP_FIGURES}}
                for name, tally in sorted(self.sweeps.items())
            ],
            "leader_changes": self.leader_changes,
            "leaders": sorted(self.leaders, key=lambda one: one["timestamp"] or ""),
            "http_statuses": dict(sorted(self.statuses.items())),
            "http_requests": self._requests(),
            "slow_requests": self.slow_requests,
            "slowest": [item for _, _, item in sorted(self.slowest, reverse=True)],
            "errors": [
                {"event": event, "error": error, **vars(seen)}
                for (event, error), seen in sorted(
                    self.errors.items(), key=lambda one: -one[1].count
                )
            ],
        }

    def _requests(self) -> list[dict[str, Any]]:
        if not self.requests:
            return []
        by_count = sorted(self.requests.items(), key=lambda one: -one[1].count)
        return [
            {"route": route, "count": q.count, "p50_ms": q.at(0.5), "p99_ms": q.at(0.99)}
            for route, q in [("(all)", self.all_requests), *by_count]
        ]


_TAKERS = {
    "WORKER_START": Summary.take_start,
    "RECONCILER_START": Summary.take_start,
    "calls_claimed": Summary.take_claim,
    "call_placed": Summary.take_placed,
    "call_not_placed": Summary.take_not_placed,
    "attempt_released": Summary.take_released,
    "callback_received": Summary.take_callback,
    "looked_up": Summary.take_look_up,
    "sweep_done": Summary.take_sweep,
    "http_request": Summary.take_request,
}


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines; of one that is too long to be ours, its beginning alone."""
    while raw := file.readline(LONGEST_LINE):
        yield raw
        while len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            raw = file.readline(LONGEST_LINE)


def _parse(raw: bytes) -> Line | None:
    # Supervisors and `docker compose logs` put a name before the line.
    start = raw.find(b"{")
    if start < 0:
        return None
    try:
        line = json.loads(raw[start:])
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("event"), str) else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value)[:LONGEST_TEXT]


def _plain(value: Any) -> str | int | None:
    return value if isinstance(value, int) else _text(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    # Beyond it is no count and no time of ours, and no number that can be added up.
    return float(value) if 0 <= value <= 1e12 else 0.0


def _error(line: Line) -> str:
    exceptions = line.get("exception")
    if isinstance(exceptions, list) and exceptions and isinstance(exceptions[0], dict):
        return _text(exceptions[0].get("exc_type")) or ""
    for name in ("error", "reason", "message"):
        if found := _text(line.get(name)):
            return found
    return ""


def _most_first(tally: Tally) -> dict[str, int]:
    return dict(tally.most_common())
