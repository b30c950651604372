"""Measure, print one table, write figures.json and plots: python -m benchmarks [PART …] [a=1 …]."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.ground import Ground
from benchmarks.results import Report, say

PARTS = ("dialling", "callbacks", "idle", "reacting", "posting", "reading", "through_http",
         "pacing", "sweeping", "held_phones", "sharing", "growing")  # fmt: skip

_SHOWN = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")


def main(arguments: list[str]) -> int:
    asked = _parser().parse_intermixed_args(arguments)
    parts = [word for word in asked.words if "=" not in word] or list(PARTS)
    sizes = dict(word.split("=", 1) for word in asked.words if "=" in word)
    report = Report(asked.out)
    report.about = _about(asked.quick, sizes)
    directory = Path(tempfile.mkdtemp(prefix="outbound-bench-"))
    ground = Ground(directory)
    report.about["postgresql"] = {name: ground.sql(f"SHOW {name}")[0][0] for name in _SHOWN}
    failed = []
    try:
        for part in parts:
            try:
                _measure(part, ground, report, quick=asked.quick, sizes=sizes)
            except Exception:  # noqa: BLE001 - the other parts' figures are worth having
                failed.append(part)
                say(f"{part} failed:\n{traceback.format_exc()}")
    finally:
        ground.stop()
        shutil.rmtree(directory, ignore_errors=True)
    report.about["failed"] = failed
    sys.stdout.write(f"\n{report.table()}\n{report.write()}\n")
    if failed:
        sys.stdout.write(f"FAILED, with figures missing: {', '.join(failed)}\n")
    return 1 if failed else 0


def _measure(
    name: str, ground: Ground, report: Report, *, quick: bool, sizes: dict[str, str]
) -> None:
    part = importlib.import_module(f"benchmarks.{name}")
    chosen: dict[str, Any] = part.FULL | (part.QUICK if quick else {})
    for size, value in sizes.items():
        if size in chosen:
            chosen[size] = type(chosen[size])(value)
    report.part, started = name, time.monotonic()
    say(f"{name}: {chosen}")
    part.run(ground, report, **chosen)
    report.about.setdefault("seconds", {})[name] = round(time.monotonic() - started, 1)
    report.write()  # a later part may fail


def _about(quick: bool, sizes: dict[str, str]) -> dict[str, Any]:
    place = tempfile.gettempdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True)
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "sizes": sizes,
        "cores": len(os.sched_getaffinity(0)),
        "load before": os.getloadavg(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "file system": kind.stdout.strip(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("words", nargs="*", help=f"parts ({', '.join(PARTS)}) and sizes: calls=500")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
