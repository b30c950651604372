"""Starts the system's processes as children, watches them, and stops them in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import requests

from outbound.carriers.emulator import DEV_ACCOUNT_SID, DEV_AUTH_TOKEN
from outbound.children import ending_with_us
from outbound.cli.errors import CommandError
from outbound.config import Settings
from outbound.embedded import EmbeddedPostgres, EmbeddedRedis

STOP_SECONDS = 30
READY_SECONDS = 60


@dataclass
class Child:
    """One process, and the file with what it prints (None: our own output)."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)


@dataclass
class Supervisor:
    """The whole system on this machine.

    Attributes:
        directory: for data of the embedded servers, the ledger, and logs.
        logs_to_files: else the children's lines come through this process's output.
    """

    directory: Path
    settings: Settings
    port: int
    logs_to_files: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)
    carrier_url: str | None = None
    _servers: list[EmbeddedPostgres | EmbeddedRedis] = field(default_factory=list)

    def start_servers(self) -> None:
        """Start PostgreSQL and Redis where no URL is set.

        Raises:
            EmbeddedError: one of them cannot be had.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.environment |= {"PORT": str(self.port)}
        if not self.settings.database_url:
            self.environment["DATABASE_URL"] = self._serve(EmbeddedPostgres(self.directory / "pg"))
        if not self.settings.redis_url:
            self.environment["REDIS_URL"] = self._serve(EmbeddedRedis(self.directory / "redis"))
        if not self.settings.public_base_url:
            self.environment["PUBLIC_BASE_URL"] = f"http://127.0.0.1:{self.port}"

    def _serve(self, server: EmbeddedPostgres | EmbeddedRedis) -> str:
        server.start()
        self._servers.append(server)
        return server.url

    def start_carrier(self, *options: str) -> None:
        """Start the emulator and make it the carrier of everything started after it.

        Whatever the environment names: a rehearsal must reach no real carrier, and the emulator's
        callbacks no other installation.
        """
        port = free_port()
        self.carrier_url = f"http://127.0.0.1:{port}"
        self.environment |= {
            "OUTBOUND_CARRIER": "twilio",
            "PUBLIC_BASE_URL": f"http://127.0.0.1:{self.port}",
            "TWILIO_ACCOUNT_SID": DEV_ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": DEV_AUTH_TOKEN,
            "TWILIO_API_BASE_URL": self.carrier_url,
            "OUTBOUND_PRIVATE_ANSWER_URLS": "true",
        }
        ledger = str(self.directory / "ledger.ndjson")
        child = self.start("emulator", "--port", str(port), "--ledger", ledger, *options)
        self.wait_for(child, lambda: answers(f"{self.carrier_url}/_emulator/summary"))

    def start(self, *arguments: str) -> Child:
        """Start one process of ours."""
        name = f"{arguments[0]}-{len(self.children)}"
        log = self.directory / f"{name}.log" if self.logs_to_files else None
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | None = stack.enter_context(log.open("ab")) if log else None
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "outbound", *arguments],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                # A session of its own: Ctrl-C must reach us alone, else the servers go first.
                start_new_session=True,
                preexec_fn=ending_with_us(signal.SIGTERM),  # noqa: PLW1509 - started before any thread
            )
        child = Child(name, process, log)
        self.children.append(child)
        return child

    def start_web(self) -> Child:
        """Start the API, and wait until it is ready."""
        child = self.start("web")
        self.wait_for(child, lambda: answers(f"http://127.0.0.1:{self.port}/health/ready"))
        return child

    def run(self, *arguments: str) -> None:
        """Run one command to its end. Raises CommandError if it fails or takes too long."""
        child = self.start(*arguments)
        self.children.remove(child)
        try:
            code = child.process.wait(READY_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            raise CommandError(f"{arguments[0]} took too long{_tail(child)}") from None
        if code:
            raise CommandError(f"{arguments[0]} failed{_tail(child)}")

    def wait_for(self, child: Child, ready: Callable[[], bool]) -> None:
        """Wait until a child is ready. Raises CommandError if it dies or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if not child.is_alive or time.monotonic() > deadline:
                raise CommandError(f"{child.name} did not become ready{_tail(child)}")
            time.sleep(0.05)

    def first_dead(self) -> Child | None:
        """Find a child that ended by itself."""
        return next((child for child in self.children if not child.is_alive), None)

    def stop(self) -> None:
        """Stop everything: web first, the carrier last, then the servers. Bounded."""
        order = ("web", "worker", "reconciler", "emulator")
        for name in order:
            group = [child for child in self.children if child.name.startswith(name)]
            for child in group:
                if child.is_alive:
                    child.process.terminate()
            for child in group:
                _end(child)
        for server in reversed(self._servers):
            server.stop()
        self.children.clear()
        self._servers.clear()


def _end(child: Child) -> None:
    try:
        child.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


def _tail(child: Child) -> str:
    if child.log is None:
        return ""
    lines = child.log.read_text(errors="replace").splitlines()[-3:]
    return f"; its log {child.log} ends with: {' | '.join(lines)}"


def answers(url: str) -> bool:
    """Tell whether a URL answers 200 now."""
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def free_port() -> int:
    """Pick a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Tell whether this port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - where web will listen
        except OSError:
            return False
        return True
