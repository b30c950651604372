"""What every part stands on: durable servers, fresh databases, and what work on them costs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import redis

from benchmarks.proc import cpu_seconds
from outbound import config, db, migrations
from outbound.embedded import EmbeddedPostgres, EmbeddedRedis

TEMPLATE = "bench_template"


@dataclass(frozen=True)
class Cost:
    """CPU-seconds of one side's processes and of both servers meanwhile, and bytes of WAL."""

    own: float = 0.0
    postgres: float = 0.0
    redis: float = 0.0
    wal: int = 0

    @property
    def cpu(self) -> float:
        return self.own + self.postgres + self.redis


@dataclass
class Meter:
    """Read before and after; `cost` and `seconds` are there once the block is left."""

    cost: Cost = field(default_factory=Cost)
    seconds: float = 0.0


@dataclass(frozen=True)
class Statement:
    """One statement as PostgreSQL logged it."""

    session: str
    database: str
    application: str
    milliseconds: float
    text: str


_PREFIX = "~%p~%d~%a~"
_ENTRY = re.compile(r"^~(\d+)~([^~]*)~([^~]*)~LOG:  duration: ([0-9.]+) ms  [^:]*: (.*)", re.DOTALL)


_PREPARED = re.compile(r"^~[^~]*~[^~]*~[^~]*~DETAIL:  prepare: PREPARE \w+ AS (.*)", re.DOTALL)


def _statements(log: str) -> list[Statement]:
    """List what was executed; of a prepared statement the log has the text as a detail."""
    found: list[Statement] = []
    for entry in re.split(r"^(?=~)", log, flags=re.MULTILINE):
        if m := _ENTRY.match(entry):
            found.append(Statement(m[1], m[2], m[3], float(m[4]), " ".join(m[5].split())))
        elif m := _PREPARED.match(entry):
            found[-1] = replace(found[-1], text=" ".join(m[1].split()))
    return [one for one in found if not one.text.startswith("PREPARE ")]


class Ground:
    """PostgreSQL and Redis as they would be trusted: fsync and synchronous_commit are on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o755)  # else PostgreSQL's user cannot enter it
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self.redis = EmbeddedRedis(directory / "redis")
        self.postgres.start()
        self.redis.start()
        self.sql(f"CREATE DATABASE {TEMPLATE}")
        engine = db.connect(config.read(environ={"DATABASE_URL": self.url(TEMPLATE)}), pool=2)
        migrations.migrate(engine)
        engine.dispose()

    def stop(self) -> None:
        self.redis.stop()
        self.postgres.stop()

    def url(self, database: str) -> str:
        return self.postgres.url.removesuffix("/postgres") + f"/{database}"

    def redis_url(self, number: int) -> str:
        return self.redis.url.removesuffix("/0") + f"/{number}"

    def database(self, name: str, *, migrated: bool = False) -> str:
        """Make a database anew; returns its URL."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.sql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if migrated else 'template1'}")
        return self.url(name)

    def connect(self, database: str = "postgres") -> psycopg2.extensions.connection:
        connection = psycopg2.connect(self.url(database))
        connection.autocommit = True
        return connection

    def sql(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any]]:
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def settle_down(self, database: str) -> None:
        """Statistics are fresh, and no side pays for pages that the one before it made dirty."""
        self.sql("ANALYZE", database=database)
        self.sql("CHECKPOINT")

    def client(self, number: int = 0) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url(number))

    @contextmanager
    def logged(self) -> Iterator[list[Statement]]:
        """Have the server log every statement; nothing that is timed may run meanwhile."""
        path, found = self.postgres._log, list[Statement]()
        self._log_statements("0")
        start = path.stat().st_size
        try:
            yield found
        finally:
            self._log_statements("-1")
        with path.open("rb") as log:
            log.seek(start)
            found += _statements(log.read().decode(errors="replace"))

    def _log_statements(self, least_ms: str) -> None:
        self.sql(f"ALTER SYSTEM SET log_line_prefix = '{_PREFIX}'")
        self.sql(f"ALTER SYSTEM SET log_min_duration_statement = {least_ms}")
        self.sql("SELECT pg_reload_conf()")
        time.sleep(0.5)  # until every session has read it

    @contextmanager
    def metered(self, *pids: int) -> Iterator[Meter]:
        """Measure what these processes, their children and the servers spend in the block."""
        meter = Meter()
        connection = self.connect()
        try:
            before, started = self._read(connection, pids), time.monotonic()
            yield meter
            meter.seconds = time.monotonic() - started
            after = self._read(connection, pids)
        finally:
            connection.close()
        meter.cost = Cost(*(b - a for a, b in zip(before, after, strict=True)))

    def _read(
        self, connection: psycopg2.extensions.connection, pids: tuple[int, ...]
    ) -> tuple[float, float, float, int]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
            ((wal,),) = cursor.fetchall()
        own = sum(cpu_seconds(pid) for pid in pids)
        return own, cpu_seconds(self.postgres.pid), cpu_seconds(self.redis.pid), wal
