"""Our side: the real processes with their default settings, driven through the API."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import text

from benchmarks import wire
from benchmarks.ground import Ground
from benchmarks.proc import tree
from outbound import config, db
from outbound.counters import SUMS
from processes import Process, Stack, World, wait_until

T = TypeVar("T")

NULL_CARRIER = "benchmarks.null_carrier"
# World's own are short, so that tests are: here they are what a user has.
_AS_SHIPPED = {
    "OUTBOUND_CARRIER_TIMEOUT_SECONDS": "8",
    "OUTBOUND_RECORD_MARGIN_SECONDS": "5",
    "OUTBOUND_LEASE_SECONDS": "15",
}
_WORK = (
    "runs, run_counters, calls, attempts, unknown_attempts, events, rejections, idempotency_keys,"
    " breakers"
)
_LEFT = text(f"SELECT {SUMS} FROM run_counters c")
# What the API allows an account and a run at most would be the limit that is measured.
_LIFT = (
    "UPDATE account_pace SET max_live_calls = 1000000, calls_per_second = 1000000",
    "UPDATE runs SET concurrency = 1000000, calls_per_second = 1000000",
)


class Ours(World):
    """A database of its own, and the processes on it.

    Args:
        ground: the servers.
        carrier: a factory of `null_carrier`; None for the emulator.
        name: of the database.
        number: of the Redis database; both differ where two of us have turns beside each other.
        environment: for all processes.
    """

    def __init__(
        self,
        ground: Ground,
        carrier: str | None = None,
        *,
        name: str = "ours",
        number: int = 1,
        **environment: str,
    ) -> None:
        self.ground = ground
        self.name = name
        url = ground.database(name, migrated=True)
        self.redis = ground.client(number)
        self.redis.flushdb()
        stack = Stack(
            {
                "DATABASE_URL": url,
                "REDIS_URL": ground.redis_url(number),
                "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
                "TWILIO_AUTH_TOKEN": "token-of-the-emulator",
                "PYTHONPATH": str(Path(__file__).parents[1]),  # where the null carrier is
            }
        )
        super().__init__(stack, ground.directory / f"ledger-{os.urandom(4).hex()}.ndjson")
        stack.environment |= _AS_SHIPPED | environment
        if carrier:
            stack.environment["OUTBOUND_CARRIER"] = f"{NULL_CARRIER}:{carrier}"
        self.engine = db.connect(
            config.read(environ={"DATABASE_URL": url}), pool=8, statement_seconds=300
        )
        self.key = self.account(self.engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()
        self.engine.dispose()
        self.http.close()

    @property
    def pids(self) -> list[int]:
        alive = (process.popen for process in self.stack.started)
        return [popen.pid for popen in alive if popen.poll() is None]

    def begin_worker(self, **environment: str) -> Process:
        """Start one that gets ready meanwhile: wait for its WORKER_START before it is measured."""
        return self.stack.start("worker", **environment)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            for one in tree(pid):
                os.kill(one, number)

    def while_stopped(self, work: Callable[[], T]) -> T:
        """Do something while our processes, kept for the next round, cost nothing."""
        self._signal(signal.SIGSTOP)
        try:
            return work()
        finally:
            self._signal(signal.SIGCONT)
            # Asleep for longer than a connection is kept alive, they close it as they wake.
            self.http.close()

    def do(self, statement: str, **values: Any) -> None:
        # A sweep that reads while tables are emptied may be in the way.
        db.transaction(self.engine, lambda connection: connection.execute(text(statement), values))

    def one(self, statement: str, **values: Any) -> Any:
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).one()

    def forget(self) -> None:
        """Take away all runs, and keep the account."""
        self.do(f"TRUNCATE {_WORK} CASCADE")
        self.do("UPDATE account_pace SET next_send_at = NULL, last_claim_at = NULL")
        self.redis.flushdb()

    def post(self, calls: int, first: int = 0, **fields: Any) -> str:
        return self.post_run(self.key, phones(calls, first), allow_duplicate=True, **fields)

    def get(self, path: str) -> bytes:
        """Write a GET of the API down, for `wire`."""
        url = f"{self.base}/api/outbound{path}"
        return wire.request("GET", url, Authorization=f"Bearer {self.key}")

    def hold(self) -> None:
        """Stop the account, through the API: runs can be posted and nothing is dialled."""
        answer = self.ask("POST", "/account/stop", self.key, json={})
        assert answer.status_code in (200, 202), answer.text

    def let_go(self) -> None:
        answer = self.ask("POST", "/account/start", self.key, json={})
        assert answer.status_code == 200, answer.text

    def lift_limits(self) -> None:
        for statement in _LIFT:
            self.do(statement)

    def counted(self) -> dict[str, int]:
        """All runs' numbers together, from their counters."""
        with self.engine.connect() as connection:
            return dict(connection.execute(_LEFT).mappings().one())

    def wait_for_count(self, seconds: float, **wanted: int) -> None:
        def there() -> bool:
            counted = self.counted()
            return all(counted[name] == value for name, value in wanted.items())

        wait_until(there, seconds, f"{wanted}")


def phones(n: int, first: int = 0) -> list[str]:
    """Valid numbers, all different."""
    return [f"+1202{200 + i // 10_000:03d}{i % 10_000:04d}" for i in range(first, first + n)]
