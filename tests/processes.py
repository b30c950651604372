"""The real processes, started and ended by the tests that need them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from sqlalchemy import Engine

from outbound import accounts


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
    reader: threading.Thread | None = None

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

    def kill_with_children(self) -> None:
        """End a web process and its workers as the loss of their machine would."""
        path = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        for pid in path.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        self.kill()

    def terminate(self, seconds: float = 30) -> int:
        self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # faulthandler prints where each thread stands
            self.popen.wait(10)
            wait_until(lambda: not self.reader or not self.reader.is_alive())
            last = "\n".join(self.lines[-200:])
            raise AssertionError(f"{self.name} did not end within {seconds} s:\n{last}") from None


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
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **self.environment, **environment},
        )
        process = Process(" ".join(arguments), popen)
        process.reader = threading.Thread(target=process.read, daemon=True)
        process.reader.start()
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what is left, as a crash would: a clean stop takes seconds and has its own tests."""
        for process in self.started:
            if process.popen.poll() is None:
                process.kill_with_children()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World:
    """The whole system on this machine, with a carrier that keeps the ledger.

    The judge of every test is that ledger and the API, never our own tables.
    """

    def __init__(self, stack: Stack, ledger: Path, **emulator: str) -> None:
        self.stack = stack
        self.port, self.carrier_port = free_port(), free_port()
        self.carrier_url = f"http://127.0.0.1:{self.carrier_port}"
        self.base = f"http://127.0.0.1:{self.port}"
        stack.environment |= {
            "PORT": str(self.port),
            "PUBLIC_BASE_URL": self.base,
            "TWILIO_API_BASE_URL": self.carrier_url,
            "OUTBOUND_CARRIER_TIMEOUT_SECONDS": "1",
            "OUTBOUND_RECORD_MARGIN_SECONDS": "1",
            "OUTBOUND_LEASE_SECONDS": "3.2",
            "OUTBOUND_PRIVATE_ANSWER_URLS": "true",
        }
        self._emulator = [
            "--port",
            str(self.carrier_port),
            "--ledger",
            str(ledger),
            "--no-endings",
            "--account-sid",
            stack.environment["TWILIO_ACCOUNT_SID"],
            "--auth-token",
            stack.environment["TWILIO_AUTH_TOKEN"],
            *(f"--{k.replace('_', '-')}={v}" for k, v in emulator.items()),
        ]
        self.http = requests.Session()
        self.http.trust_env = False  # pytest changes the environment while threads ask
        self.web: Process | None = None

    def _begin_carrier(self, *options: str) -> Process:
        return self.stack.start(
            "emulator", *self._emulator, "--ring-seconds", "0.05", "--talk-seconds", "0.1", *options
        )

    def start_carrier(self, *options: str) -> Process:
        """Start the emulator; rings and talks are short unless the options say otherwise."""
        process = self._begin_carrier(*options)
        process.wait_for("emulator_ready")
        return process

    def start_roles(self, *roles: str) -> list[Process]:
        """Start web, worker or reconciler, each while the others get ready."""
        begun = [self.stack.start(role) for role in roles]
        for process in begun:
            if process.name == "web":
                self.web = process
                wait_until(self._is_ready, 30, f"web: {process.lines[-5:]}")
            else:
                process.wait_for(f"{process.name.upper()}_START")
        return begun

    def _is_ready(self) -> bool:
        try:
            return self.http.get(f"{self.base}/health/ready", timeout=2).status_code == 200
        except requests.RequestException:  # too busy with starting to answer in time
            return False

    def start_web(self) -> Process:
        return self.start_roles("web")[0]

    def start_worker(self) -> Process:
        return self.start_roles("worker")[0]

    def start_reconciler(self) -> Process:
        return self.start_roles("reconciler")[0]

    def start(self, *options: str, workers: int = 2) -> list[Process]:
        """Start everything; returns the workers."""
        carrier = self._begin_carrier(*options)
        _, _, *begun = self.start_roles("web", "reconciler", *["worker"] * workers)
        carrier.wait_for("emulator_ready")
        return begun

    def account(self, engine: Engine, **fields: Any) -> str:
        """Make an account; returns an admin key of it."""
        generous = {
            "caller_ids": ["+97231234567"],
            "max_live_calls": 1000,
            "calls_per_second": 1000.0,
            "min_seconds_between_calls": 0,
            "default_twiml": "<Response/>",
        }
        with engine.begin() as connection:
            account = accounts.create(connection, uuid4().hex, **(generous | fields))
            return accounts.create_key(connection, account, "admin")[1]

    def ask(self, method: str, path: str, key: str, **known: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} | known.pop("headers", {})
        url = f"{self.base}/api/outbound{path}"
        return self.http.request(method, url, headers=headers, timeout=30, **known)

    def post_run(self, key: str, phones: list[str], **fields: Any) -> str:
        body = {
            "leads": [{"lead_id": f"lead-{n}", "phone": p} for n, p in enumerate(phones)],
            "concurrency": 1000,
            "calls_per_second": 1000.0,
        }
        answer = self.ask("POST", "/runs", key, json=body | fields)
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == len(phones), answer.text
        return str(answer.json()["run_id"])

    def run(self, key: str, run: str) -> dict[str, Any]:
        """Read a run, and hold its numbers to what they must add up to."""
        answer = self.ask("GET", f"/runs/{run}", key)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        parts = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")
        assert sum(body[part] for part in parts) == body["total_leads"], body
        assert all(body[part] >= 0 for part in parts), body
        return dict(body)

    def wait_for_run(self, key: str, run: str, seconds: float = 60, **known: Any) -> dict[str, Any]:
        known = known or {"status": "completed"}
        seen: dict[str, Any] = {}

        def there() -> bool:
            seen.update(self.run(key, run))
            return all(seen[name] == value for name, value in known.items())

        wait_until(there, seconds, f"{known}; last seen {seen}")
        return seen

    def ledger(self) -> list[dict[str, Any]]:
        return list(self.http.get(f"{self.carrier_url}/_emulator/ledger", timeout=10).json())

    def summary(self) -> dict[str, Any]:
        return dict(self.http.get(f"{self.carrier_url}/_emulator/summary", timeout=10).json())

    def faults(self, **faults: Any) -> None:
        answer = self.http.put(f"{self.carrier_url}/_emulator/faults", json=faults, timeout=10)
        assert answer.status_code == 200, answer.text


def descendants(pid):
    found, todo = set(), [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            children = {int(child) for child in task.read_text().split()}
            todo += children - found
            found |= children
    return found


_OURS = ("DATABASE_URL", "REDIS_URL", "PUBLIC_BASE_URL", "TWILIO_", "OUTBOUND_", "PORT")
BARE = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
"""Our own environment without what we read."""


class Up:
    """`outbound up` in a directory of its own, with nothing of ours in its environment."""

    def __init__(self, directory, *options, **environment):
        self.directory, self.port = directory, free_port()
        self.out, self.err = directory.with_suffix(".out"), directory.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.popen = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "outbound",
                    "up",
                    "--dir",
                    str(directory),
                    "--port",
                    str(self.port),
                    *options,
                ],
                env=BARE | environment,
                stdout=out,
                stderr=err,
            )

    def wait(self):
        def is_up():
            assert self.popen.poll() is None, self.err.read_text()
            return "Outbound is up" in self.err.read_text()

        wait_until(is_up, 60, "outbound up")
        return self

    @property
    def environment(self):
        """What another shell has that read the file."""
        command = ["bash", "-c", f". {self.directory}/env && env -0"]
        out = subprocess.run(command, env=BARE, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in out.split("\0") if line)

    def outbound(self, *arguments, code=0, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "outbound", *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def children(self):
        return descendants(self.popen.pid)

    def stop(self, number=signal.SIGTERM):
        self.popen.send_signal(number)
        return self.popen.wait(60)
