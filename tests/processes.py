"""The real processes, started and ended by the tests that need them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """Wait for a condition to be true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what or condition}")


@dataclass
class Process:
    """One process of ours, and every line that it printed."""

    name: str
    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.popen.stdout
        with self.popen.stdout:
            for line in self.popen.stdout:
                self.lines.append(line.rstrip("\n"))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def has_logged(self, event: str, **known: Any) -> list[dict[str, Any]]:
        return [
            line
            for line in self.events
            if line["event"] == event and all(line.get(k) == v for k, v in known.items())
        ]

    def wait_for(self, event: str, seconds: float = 20.0, **known: Any) -> dict[str, Any]:
        return wait_until(
            lambda: self.has_logged(event, **known),
            seconds,
            f"{event} from {self.name}; last lines: {self.lines[-5:]}",
        )[-1]

    def kill(self) -> None:
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)

    def terminate(self, seconds: float = 30) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(seconds)


class Stack:
    """Starts processes with one environment, and ends what is left."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.started: list[Process] = []

    def start(self, *arguments: str, **environment: str) -> Process:
        popen = subprocess.Popen(
            [sys.executable, "-m", "outbound", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.environment, **environment},
        )
        process = Process(" ".join(arguments), popen)
        threading.Thread(target=process.read, daemon=True).start()
        self.started.append(process)
        return process

    def stop(self) -> None:
        for process in self.started:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.started:
            try:
                process.popen.wait(15)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait(10)
