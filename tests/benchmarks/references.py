"""The references' tables, and their processes: ready, go, done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.ground import Ground
from benchmarks.results import Turn

DATABASE = "reference"
_TABLES = """
    CREATE TABLE calls (
        id bigint PRIMARY KEY, phone text NOT NULL, state text NOT NULL DEFAULT 'queued',
        outcome text, attempts smallint NOT NULL DEFAULT 0) WITH (fillfactor = 80);
    CREATE INDEX calls_due ON calls (id) WHERE state = 'queued';
    CREATE TABLE attempts (
        call_id bigint NOT NULL, number smallint NOT NULL, state text NOT NULL,
        claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz,
        carrier_call_id text, PRIMARY KEY (call_id, number)) WITH (fillfactor = 80);
"""
_SPENT = "SELECT count(ended_at), extract(epoch FROM max(ended_at) - min(claimed_at)) FROM attempts"


def fresh(ground: Ground, calls: int) -> str:
    """Make the tables anew with so many queued calls; returns the URL."""
    url = ground.database(DATABASE)
    ground.sql(_TABLES, database=DATABASE)
    ground.sql(
        "INSERT INTO calls (id, phone) SELECT n, '+1202' || (2000000 + n)"
        " FROM generate_series(1, %s) n",
        calls,
        database=DATABASE,
    )
    ground.settle_down(DATABASE)
    return url


class Reference:
    """A reference in a process of its own, which says when it is ready and when it is done."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self._read("ready")

    def _read(self, wanted: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(wanted):
                return line.removeprefix(wanted).strip()
        raise AssertionError(f"{self.process.args} ended with {self.process.wait()}")

    def go(self) -> dict[str, float]:
        """Let it work; returns what it says when it is done."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return dict(json.loads(self._read("done") or "{}"))

    def end(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()
        self.process.kill()
        self.process.wait(10)


def serve(work: Callable[[], dict[str, float] | None]) -> None:
    """In the reference's process: wait for the word, work, say so."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    told = work() or {}
    sys.stdout.write(f"done {json.dumps(told)}\n")
    sys.stdout.flush()
    sys.stdin.readline()


def dialled(ground: Ground, calls: int, module: str, *arguments: str) -> Turn:
    """One reference's turn at dialling so many calls of its tables."""
    fresh(ground, calls)
    ground.client(2).flushdb()
    return measured(ground, DATABASE, calls, module, *arguments)


def measured(ground: Ground, database: str, calls: int, module: str, *arguments: str) -> Turn:
    """Let a reference dial all calls that are there, by the database's own times."""
    reference = Reference(module, ground.url(database), *arguments)
    try:
        with ground.metered(reference.process.pid) as meter:
            reference.go()
        ((ended, seconds),) = ground.sql(_SPENT, database=database)
    finally:
        reference.end()
    assert ended == calls, f"{module} dialled {ended} of {calls}"
    return Turn(calls, float(seconds), meter.cost)
