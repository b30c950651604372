"""Where the time of dialling and of callbacks goes; not part of a whole run, ask for it by name.

Our functions by py-spy, which samples the thread that holds the interpreter's lock:
waiting for a server is not in it. PostgreSQL's statements by its log, in a turn of their own;
waiting for locks is in those. Both are printed, and written beside the figures.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.callbacks import settle
from benchmarks.dialling import dial
from benchmarks.ground import Ground, Statement
from benchmarks.ours import Ours
from benchmarks.results import Report, say
from processes import Process

FULL = {"calls": 5000, "senders": 64, "callbacks": 2000, "connections": 16, "lines": 25}
QUICK = {"calls": 400, "senders": 64, "callbacks": 200, "connections": 4, "lines": 12}
_LITERALS = (
    (re.compile(r"'(?:[^']|'')*'"), "?"),
    (re.compile(r"ARRAY\[[^]]*\]"), "ARRAY[?]"),
    (re.compile(r"\b\d+(\.\d+)?\b"), "?"),
)


def run(
    ground: Ground,
    report: Report,
    *,
    calls: int,
    senders: int,
    callbacks: int,
    connections: int,
    lines: int,
) -> None:
    folded = report.directory / "samples.folded"
    with Ours(ground, "refuses") as ours:
        ours.start_roles("web", "reconciler")
        turn = dial(ours, 1, senders, calls, around=lambda worker: _Sampled(worker, folded))
        report.one_side("calls settled, while sampled", "/s", [turn])
        told = _functions("worker", folded, lines)
        with ground.logged() as statements:
            dial(ours, 1, senders, calls)
        told += _statements("dramatiq_worker", statements, calls, lines)
    with Ours(ground) as ours:
        web = ours.start_web()
        with _Sampled(web, folded):
            turn = settle(ours, callbacks, connections, [])
        report.one_side("callbacks settled, while sampled", "/s", [turn])
        told += _functions("web", folded, lines)
        with ground.logged() as statements:
            settle(ours, callbacks, connections, [])
        told += _statements("api", statements, callbacks, lines)
    (report.directory / "profile.txt").write_text(told)
    say(told)


class _Sampled:
    """py-spy beside a process and its children, until the end of the block."""

    def __init__(self, process: Process, path: Path) -> None:
        program = Path(sys.executable).with_name("py-spy")
        options = ["--subprocesses", "--gil", "--nonblocking", "--rate", "250", "--format", "raw"]
        options += ["--output", str(path), "--pid"]
        self._process = subprocess.Popen(
            [program, "record", *options, str(process.popen.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)


def _functions(role: str, path: Path, lines: int) -> str:
    """Say in which functions the samples ended, and below which of ours they were."""
    ended, below, total = Counter[str](), Counter[str](), 0
    for line in path.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        many = int(samples)
        total += many
        ended[frames[-1]] += many
        for frame in {one for one in frames if "outbound/" in one}:
            below[frame] += many
    told = _ranking(f"{role}: samples that ended in", ended, total, lines)
    return told + _ranking(f"{role}: samples in or below", below, total, lines)


def _ranking(title: str, found: Counter[str], total: int, lines: int) -> str:
    rows = [f"  {many / total:6.1%}  {name}" for name, many in found.most_common(lines)]
    return "\n".join([f"{title} ({total} samples)", *rows, "", ""])


def _statements(role: str, statements: list[Statement], units: int, lines: int) -> str:
    """Say which statements took the server's time, and how many there were for each unit."""
    spent, many, total = Counter[str](), Counter[str](), 0.0
    for one in statements:
        if f" {role} " not in one.application:
            continue
        name = _name(one.text)
        spent[name] += one.milliseconds
        many[name] += 1
        total += one.milliseconds
    rows = [
        f"  {ms / total:6.1%}  {ms / many[name]:8.3f} ms  {many[name] / units:6.3f} each  {name}"
        for name, ms in spent.most_common(lines)
    ]
    head = f"{role}'s statements: {total / units:.3f} ms and {many.total() / units:.2f} each"
    return "\n".join([head, *rows, "", ""])


def _name(statement: str) -> str:
    for pattern, mark in _LITERALS:
        statement = pattern.sub(mark, statement)
    return statement[:110]
