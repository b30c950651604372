"""One whole system whose processes die, or freeze, where they are told to."""

from __future__ import annotations

import itertools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, cast

import redis
import requests
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from chaos import at_step
from chaos.fleet import SECONDS, told
from processes import Process, Stack, World, wait_until

ROLES = ("web", "worker", "reconciler")


class Hatched:
    """A process that the nest forked, with what the tests use of a Popen."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._output = output
        self._fd = os.pidfd_open(pid)
        self._has_ended = False

    @cached_property
    def stdout(self) -> TextIO:
        return self._output.open()  # waits for the process to open its end

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout)
        return 0

    def _ended(self, seconds: float) -> int | None:
        if not self._has_ended:
            poll = select.poll()  # select() knows no descriptor above 1,023
            poll.register(self._fd, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return None
            self._has_ended = True
            os.close(self._fd)  # thousands of processes come and go
        return 0

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Nest:
    """Forks processes of ours that have imported everything: 0.1 s of work for 0.8."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._popen = subprocess.Popen(
            [sys.executable, at_step.__file__, "--nest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hatch(self, role: str, environment: dict[str, str], output: Path) -> Process:
        os.mkfifo(output)
        asked = {"command": [role], "environment": environment, "output": str(output)}
        with self._lock:
            assert self._popen.stdin
            assert self._popen.stdout
            self._popen.stdin.write(json.dumps(asked) + "\n")
            self._popen.stdin.flush()
            hatched = Hatched(int(self._popen.stdout.readline()), output)
        process = Process(role, cast("subprocess.Popen[str]", hatched))
        threading.Thread(target=process.read, daemon=True).start()
        return process

    def close(self) -> None:
        self._popen.communicate()


class Lane(World):
    """A database, a Redis number, a carrier and one process of each kind.

    A dead process is replaced by a new one: it goes on where the dead one stopped, and takes the
    next order. So a step costs one start, which passes while the dead one's lease runs out.
    """

    def __init__(self, nest: Nest, database_url: str, redis_url: str, directory: Path) -> None:
        self._nest = nest
        stack = Stack(
            {
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
                "TWILIO_AUTH_TOKEN": "token-of-the-emulator",
                "OUTBOUND_DB_POOL": "10",
            }
        )
        super().__init__(stack, directory / "ledger.ndjson")
        # How a phone ends is part of a scene: its number's ending says it.
        self._emulator.remove("--no-endings")
        stack.environment |= SECONDS
        self.engine: Engine = create_engine(
            make_url(database_url).set(drivername="postgresql+psycopg2"), pool_size=1
        )
        self.redis = redis.Redis.from_url(redis_url)
        self.redis.flushdb()
        self._directory = directory
        self._processes: dict[str, Process] = {}
        self._phones = itertools.count()

    def begin(self) -> None:
        self.start_carrier("--callback-retry-delay", "0.2")
        self.ready()

    def end(self) -> None:
        self.stack.stop()
        self.engine.dispose()
        self.redis.close()

    def process(self, role: str) -> Process:
        return self._processes[role]

    def keep_up(self) -> None:
        """Start anew whoever is dead; they are ready some time later."""
        for role in ROLES:
            if role not in self._processes or self.process(role).popen.poll() is not None:
                self._processes[role] = self._start(role)

    def serves(self) -> bool:
        """Tell whether the web process that lives has the port.

        The workers of a dead master keep it for some seconds; a new one gives up after five.
        """
        self.keep_up()
        return bool(self.process("web").has_logged("web_ready"))

    def ready(self) -> None:
        """Have every process up, thawed and without orders."""
        self.keep_up()
        for role in ROLES:
            self._order_of(role).unlink(missing_ok=True)
            self.process(role).popen.send_signal(signal.SIGCONT)
        self.process("worker").wait_for("WORKER_START", 60)
        self.process("reconciler").wait_for("RECONCILER_START", 60)
        wait_until(self._is_ready, 60, "web")

    def _start(self, role: str) -> Process:
        environment = self.stack.environment | {at_step.ORDER: str(self._order_of(role))}
        output = self._directory / f"{role}-{len(self.stack.started)}.out"
        process = self._nest.hatch(role, environment, output)
        self.stack.started.append(process)
        return process

    def _order_of(self, role: str) -> Path:
        return self._directory / f"{role}.order"

    def order(self, role: str, at: str, when: str, **known: Any) -> None:
        """Tell a process where to signal itself; see at_step.write_order."""
        at_step.write_order(self._order_of(role), at, when, **known)

    def fired(self, role: str) -> list[dict[str, Any]]:
        return at_step.fired(self._order_of(role))

    def tell(self) -> str:
        """Say what everybody did last, and what holds the account back: for a failed test."""
        return told(self._processes.items(), self.engine)

    def phones(self, n: int, ending: str | None = None) -> list[str]:
        """Numbers that nobody has called before; answered, unless the ending says otherwise."""
        return [
            f"+1202{200 + i // 100:03d}{i % 100:02d}{ending or '88'}"
            for i in itertools.islice(self._phones, n)
        ]

    def patiently(self, method: str, path: str, key: str, **known: Any) -> requests.Response:
        """Ask until it is answered well: the web process may be the one that dies."""

        def asked() -> requests.Response | None:
            self.keep_up()
            try:
                answer = self.ask(method, path, key, **known)
            except requests.RequestException:
                return None
            return answer if answer.ok else None

        answer: requests.Response = wait_until(asked, 30, f"{method} {path}")
        return answer


@contextmanager
def lanes(
    count: int, postgres_url: str, template: str, redis_url: str, directory: Path
) -> Iterator[list[Lane]]:
    """Run so many systems side by side: most of a step's time is waiting."""
    server = make_url(postgres_url).set(drivername="postgresql+psycopg2")
    admin = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    names = [f"outbound_lane_{os.getpid()}_{n}" for n in range(count)]
    made: list[Lane] = []
    nest = Nest()
    try:
        for n, name in enumerate(names):
            with admin.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
            database = server.set(drivername="postgresql", database=name)
            (directory / name).mkdir()
            made.append(
                Lane(
                    nest,
                    database.render_as_string(hide_password=False),
                    f"{redis_url.rsplit('/', 1)[0]}/{n + 1}",
                    directory / name,
                )
            )
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Lane.begin, made))
        yield made
    finally:
        for lane in made:
            lane.end()
        nest.close()
        for name in names:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@contextmanager
def on_lanes(
    made: list[Lane], play: Callable[[Lane, Any], Any], cases: list[Any], rounds: int
) -> Iterator[dict[Any, list[Future[Any]]]]:
    """Play every case so often, each on whichever lane is free, and wait until all are over.

    Were the tests to run meanwhile, pytest would change os.environ under the threads' hands.
    """
    free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    for lane in made:
        free.put(lane)

    def on_one(case: Any) -> Any:
        lane = free.get()
        try:
            return play(lane, case)
        finally:
            free.put(lane)

    with ThreadPoolExecutor(len(made)) as pool:
        played = {case: [pool.submit(on_one, case) for _ in range(rounds)] for case in cases}
    yield played


def selected(session: Any, test: Any, name: str) -> list[Any]:
    """Return what the selected items of a parametrized test are about."""
    items = [item for item in session.items if getattr(item, "function", None) is test]
    return [item.callspec.params[name] for item in items]
