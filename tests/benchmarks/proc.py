"""What the kernel knows of a process: its CPU time, its memory, its children."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that any of its threads started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text().split()]
        except OSError:
            continue  # the thread ended meanwhile
    return found


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, of all below it, and of children that ended and were waited for."""
    total = 0
    for one in tree(pid):
        try:
            # The name in parentheses may contain spaces; utime, stime, cutime, cstime follow.
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(word) for word in words[11:15])
    return total / TICK


def forget_peak(pid: int) -> None:
    """Let VmHWM start anew from what the process has now."""
    for one in tree(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The most memory that any one process of the tree held since `forget_peak`."""
    return max(_kib(one, "VmHWM") for one in tree(pid)) / 1024


@contextmanager
def watched_mib(pid: int) -> Iterator[list[float]]:
    """Look 20 times a second at what the whole tree holds; shared pages count in each process.

    What a process that has ended held, nothing else can tell.
    """
    over, seen = threading.Event(), [0.0]

    def look() -> None:
        while not over.wait(0.05):
            seen.append(sum(_kib(one, "VmRSS") for one in tree(pid)) / 1024)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _kib(pid: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it ended meanwhile
    for line in lines:
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0
