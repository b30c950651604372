"""Every process twice, on durable servers of their own, with a proxy in every line."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, text

from chaos.proxy import Network
from outbound import config, db, migrations
from outbound.embedded import EmbeddedPostgres, EmbeddedRedis
from processes import Process, Stack, World, free_port, wait_until

SECONDS = {
    "OUTBOUND_CARRIER_TIMEOUT_SECONDS": "0.6",
    "OUTBOUND_RECORD_MARGIN_SECONDS": "0.6",
    "OUTBOUND_LEASE_SECONDS": "2",
}
LEASE, LOCK_TTL = 2.0, 2.5
ROLES = ("web", "worker", "reconciler")


@dataclass
class Member:
    """One process of the fleet, and how to start it anew."""

    role: str
    process: Process
    environment: dict[str, str]

    @property
    def is_alive(self) -> bool:
        return self.process.popen.poll() is None


class Fleet(World):
    """Two of each process, PostgreSQL, Redis and the carrier, all behind proxies.

    Args:
        directory: for what they keep.
        database: for PostgreSQL, if it is to have another.
    """

    def __init__(self, directory: Path, *, database: Path | None = None) -> None:
        self.network = Network()
        # A server ends with the thread that started it: one thread, as old as the fleet.
        self._keeper = ThreadPoolExecutor(1)
        self.postgres = EmbeddedPostgres((database or directory) / "postgres")
        self.redis = EmbeddedRedis(directory / "redis")
        self.kept(self.postgres.start)
        self.kept(self.redis.start)
        self.database_line = self.network.proxy(self.postgres.port)
        self.redis_line = self.network.proxy(self.redis.port)
        stack = Stack(
            {
                "DATABASE_URL": self._through(self.postgres, self.database_line.port),
                "REDIS_URL": self._through(self.redis, self.redis_line.port),
                "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
                "TWILIO_AUTH_TOKEN": "token-of-the-emulator",
                "OUTBOUND_WEB_WORKERS": "1",
            }
        )
        super().__init__(stack, directory / "ledger.ndjson")
        self.carrier_line = self.network.proxy(self.carrier_port)
        self.web_ports = [free_port(), free_port()]
        self.front = self.network.proxy(*self.web_ports)
        self.base = f"http://127.0.0.1:{self.front.port}"
        stack.environment |= SECONDS | {
            "PUBLIC_BASE_URL": self.base,
            "TWILIO_API_BASE_URL": f"http://127.0.0.1:{self.carrier_line.port}",
        }
        self.engine: Engine = db.connect(
            config.read(environ={"DATABASE_URL": self.postgres.url}), pool=4
        )
        self.members: list[Member] = []
        self.carrier: Process | None = None
        self._phones = itertools.count()

    @staticmethod
    def _through(server: EmbeddedPostgres | EmbeddedRedis, port: int) -> str:
        return server.url.replace(f":{server.port}/", f":{port}/")

    def kept(self, work: Callable[[], Any]) -> Any:
        """Run something that starts or ends a server, on the thread that lives long enough."""
        return self._keeper.submit(work).result(90)

    def begin(self, *options: str) -> None:
        """Start everything."""
        migrations.migrate(self.engine)
        self.carrier = self.start_carrier(*options)
        for port in self.web_ports:
            self._add("web", PORT=str(port))
        for role in ("worker", "worker", "reconciler", "reconciler"):
            self._add(role)
        self.ready()

    def _add(self, role: str, **environment: str) -> Member:
        member = Member(role, self.stack.start(role, **environment), environment)
        self.members.append(member)
        return member

    def replace(self, member: Member, **environment: str) -> Member:
        """Start a process in the place of one that is dead; returns it before it is ready."""
        self.members.remove(member)
        return self._add(member.role, **(environment or member.environment))

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role and member.is_alive]

    @property
    def leaders(self) -> list[Member]:
        """Who believes to lead; the last line of each decides."""
        return [one for one in self.of("reconciler") if _last(one.process, _LEADS) == _LEADS[0]]

    def leader(self) -> Member:
        wait_until(lambda: len(self.leaders) == 1, 20, "one leader, by what the processes log")
        return self.leaders[0]

    def follower(self) -> Member:
        leader = self.leader()
        return next(one for one in self.of("reconciler") if one is not leader)

    def ready(self) -> None:
        """Start anew whoever is dead, and wait until all do their work."""
        for member in list(self.members):
            if not member.is_alive:
                self.replace(member)
        for member in self.members:
            if member.role != "web":
                event = "WORKER_START" if member.role == "worker" else "RECONCILER_START"
                member.process.wait_for(event, 60)
        for port in self.web_ports:
            wait_until(lambda port=port: self._serves(port), 60, f"web on {port}")
        self.leader()

    def _serves(self, port: int) -> bool:
        try:
            url = f"http://127.0.0.1:{port}/health/ready"
            return requests.get(url, timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def end(self) -> None:
        for member in self.members:
            if member.is_alive:
                member.process.popen.send_signal(signal.SIGCONT)
        self.stack.stop()
        self.engine.dispose()
        self.kept(self.redis.stop)
        self.kept(self.postgres.stop)

    def tell(self) -> str:
        """Say what everybody did last, and what holds the accounts back: for a failed test."""
        return told([(m.role, m.process) for m in self.members], self.engine)

    def phones(self, n: int) -> list[str]:
        """Numbers that nobody has called before."""
        return [
            f"+1202{200 + i // 10_000:03d}{i % 10_000:04d}"
            for i in itertools.islice(self._phones, n)
        ]


def told(processes: Iterable[tuple[str, Process]], engine: Engine) -> str:
    """Say what these processes did last, and what holds the accounts of this database back."""
    lines = []
    for role, process in processes:
        dead = "" if process.popen.poll() is None else " (dead)"
        lines += [f"{role} {process.popen.pid}{dead}: {line[:300]}" for line in process.lines[-6:]]
        lines += [line[:6000] for line in process.lines if _BUG in line][-2:]
    with engine.connect() as connection:
        for statement in _HELD_BACK:
            lines += [str(dict(row)) for row in connection.execute(text(statement)).mappings()]
    return "\n".join(lines)


_HELD_BACK = (
    "SELECT clock_timestamp(), * FROM leader_epoch",
    "SELECT * FROM breakers",
    "SELECT * FROM account_pace WHERE not_before > clock_timestamp() - interval '1 minute'",
    """SELECT state, count(*), count(carrier_call_id) AS known, min(claimed_at), max(claimed_at),
              min(next_lookup_at) FROM attempts WHERE ended_at IS NULL GROUP BY state""",
    """SELECT id, state, carrier_call_id, claimed_at, unknown_at, next_lookup_at, empty_lookups,
              error FROM attempts WHERE ended_at IS NULL ORDER BY claimed_at LIMIT 10""",
    """SELECT run_id, waiting_for, count(*), min(next_attempt_at) FROM calls
        WHERE state = 'queued' GROUP BY 1, 2 LIMIT 20""",
    """SELECT state, wait_event, now() - xact_start AS age, query FROM pg_stat_activity
        WHERE xact_start < now() - interval '1 s' LIMIT 10""",
)
_BUG = '"event": "request_failed"'
_LEADS = ("leader_elected", "leader_stepped_down")


def _last(process: Process, events: tuple[str, ...]) -> str | None:
    for line in reversed(process.lines):
        for event in events:
            if f'"{event}"' in line:
                return event
    return None
