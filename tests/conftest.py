"""What every tier shares: the servers, and a fresh migrated database for each test."""

from __future__ import annotations

import io
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from outbound import db, logs, migrations
from outbound.config import Settings, read
from outbound.embedded import EmbeddedPostgres, EmbeddedRedis
from outbound.models import metadata
from outbound.node import Node, build

TEMPLATE = f"outbound_template_{os.getpid()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.parent.name
        item.add_marker(getattr(pytest.mark, tier))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server's URL: DATABASE_URL if set, else an embedded server of this test run."""
    if given := os.environ.get("DATABASE_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with EmbeddedPostgres(Path(directory) / "pg", durable=False) as server:
            yield server.url


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedRedis(Path(directory), durable=False) as server,
    ):
        yield server.url


def _server(postgres_url: str) -> URL:
    return make_url(postgres_url).set(drivername="postgresql+psycopg2")


def _admin(url: URL, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> Iterator[str]:
    server = _server(postgres_url)
    _admin(server, f"CREATE DATABASE {TEMPLATE}")
    engine = create_engine(server.set(database=TEMPLATE), poolclass=NullPool)
    migrations.migrate(engine)
    engine.dispose()
    yield TEMPLATE
    _admin(server, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")


def _clone(server: URL, template: str) -> Iterator[str]:
    name = f"outbound_test_{uuid.uuid4().hex[:12]}"
    _admin(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    _admin(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def fresh_database_url(postgres_url: str, template: str) -> Iterator[str]:
    """A migrated database that nobody used before, for tests of the schema and of statistics."""
    yield from _clone(_server(postgres_url), template)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, template: str) -> Iterator[str]:
    """A migrated database of the module's own, for tests of what takes long to fill."""
    yield from _clone(_server(postgres_url), template)


@pytest.fixture(scope="session")
def shared_database_url(postgres_url: str, template: str) -> Iterator[str]:
    yield from _clone(_server(postgres_url), template)


@pytest.fixture
def database_url(shared_database_url: str) -> str:
    """A migrated, empty database. Emptied, not made anew: that takes a fifth of the time."""
    engine = create_engine(_server(shared_database_url), poolclass=NullPool)
    tables = "; ".join(f"DELETE FROM {table.name}" for table in metadata.sorted_tables)
    with engine.begin() as connection:
        connection.execute(text(_OTHERS))  # what a test killed may still hold locks
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(text(f"SET LOCAL session_replication_role = replica; {tables}"))
    engine.dispose()
    return shared_database_url


_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def redis_url(redis_server_url: str) -> Iterator[str]:
    """A Redis database that is empty before and after (from number 9 on: keep them for tests)."""
    # Test processes side by side may share a server that was given to them.
    number = 9 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    url = urlsplit(redis_server_url)._replace(path=f"/{number}").geturl()
    client = redis.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return read(
        environ={
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "PUBLIC_BASE_URL": "http://127.0.0.1:8000",
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "test-token",
        }
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = db.connect(settings)
    yield engine
    engine.dispose()


@pytest.fixture
def node(settings: Settings) -> Iterator[Node]:
    """A process of ours, in this process."""
    logs.set_up(settings, "dramatiq_worker")
    built = build(settings, "dramatiq_worker")
    yield built
    built.engine.dispose()
    built.doorbell.close()


@pytest.fixture
def lines(node: Node) -> Callable[[str], list[dict[str, Any]]]:
    """Return what was logged in this process of one event, from the beginning of the test."""
    told = io.StringIO()
    logs.set_up(node.settings, "dramatiq_worker", told)

    def lines(event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in told.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    return lines
