"""Connections to PostgreSQL, and transactions that survive what can be survived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InvalidatePoolError

from outbound import __version__, as_json, prepared
from outbound.config import Settings
from outbound.errors import ConfigError

T = TypeVar("T")

DEADLOCK, SERIALIZATION, UNIQUE = "40P01", "40001", "23505"
LOCK_NOT_AVAILABLE = "55P03"
TRIES = 4
"""A transaction is tried once and again up to three times."""

PING_AFTER_SECONDS = 1.0
"""A connection that rested for longer is asked whether it still lives before it is used. Asked each
time, a busy process spent a tenth of its statements on that."""


def connect(
    settings: Settings,
    *,
    pool: int | None = None,
    statement_seconds: float = 10,
    source: str = "cli",
) -> Engine:
    """Build an engine; no connection is opened yet, so call it after a fork.

    Args:
        settings: where the database is.
        pool: connections at most; the settings' own number if None.
        statement_seconds: after which the server ends a statement.
        source: what kind of process this is; the server tells it to the others (system.py).

    Raises:
        ConfigError: DATABASE_URL is not set.
    """
    if not settings.database_url:
        raise ConfigError(
            "DATABASE_URL is not set, for example DATABASE_URL=postgresql://db/outbound"
        )
    milliseconds = int(statement_seconds * 1000)
    engine = create_engine(
        make_url(settings.database_url).set(drivername="postgresql+psycopg2"),
        pool_size=pool or settings.db_pool,
        max_overflow=0,
        pool_timeout=5,
        hide_parameters=True,  # else an error's text shows people's data
        connect_args={
            "connect_timeout": 3,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 8000,
            "application_name": f"outbound {source} {settings.worker_id} {__version__}"[:63],
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout=5000 "
            f"-c idle_in_transaction_session_timeout={max(milliseconds, 1000)} -c timezone=UTC "
            # It compiles longer than these statements run.
            "-c jit=off",
        },
    )
    _ping_the_rested(engine)
    if source != "cli":  # a command runs each statement once
        prepared.use(engine)
    return engine


def _ping_the_rested(engine: Engine) -> None:
    @event.listens_for(engine, "checkin")
    def note(_: Any, record: Any) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: Any, _: Any) -> None:
        now = time.monotonic()
        if now - record.info.get("rests_since", now) < PING_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection for statements that only read, and need no snapshot in common.

    Without a transaction around it each takes one round trip to the server, not three.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        # Not by SQLAlchemy's isolation level: where its reset fails, since the server went away,
        # the driver's bare error comes out, and the connection never goes back to the pool.
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False


def transaction(engine: Engine, body: Callable[[Connection], T]) -> T:
    """Run `body` in one transaction, whole again after a deadlock or a lost connection.

    Only for bodies that may safely run twice, since the answer to a COMMIT can get lost: every
    write in them is guarded or absorbed by a constraint. A claim has its own way (claims.py).

    Raises:
        DBAPIError: whatever is left after the tries.
    """
    for again in range(TRIES):
        try:
            with engine.begin() as connection:
                return body(connection)
        except DBAPIError as error:
            if again == TRIES - 1 or not repeatable(error):
                raise
            time.sleep(0.02 * 3**again)
    raise AssertionError("unreachable")


def repeatable(error: DBAPIError) -> bool:
    """Tell whether the same transaction may succeed when it is run again from the start."""
    # A unique constraint that decided against us shows us the winner at the next try.
    known = (DEADLOCK, SERIALIZATION, UNIQUE)
    return error.connection_invalidated or sqlstate(error) in known


def sqlstate(error: DBAPIError) -> str | None:
    """Return the server's five-letter code, None if the server said nothing."""
    return getattr(error.orig, "pgcode", None)


def is_away(error: BaseException) -> bool:
    """Tell whether the database is away (down, starting, out of connections), not our SQL wrong."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__ == "TimeoutError" and "sqlalchemy" in type(error).__module__
    code = sqlstate(error) or ""
    return (
        error.connection_invalidated
        or not code
        or code[:2] in ("08", "53", "57")
        or code == "25006"
    )


def array(ids: Iterable[UUID | int]) -> str:
    """Write ids as PostgreSQL writes an array, to be CAST: the driver would quote each of them."""
    return f"{{{as_json.dumps([*ids])[1:-1]}}}"  # a list is written as an array is, but for [ and ]


def set_timeouts(connection: Connection, *, statement_ms: int, lock_ms: int | None = None) -> None:
    """Bound what this one transaction may take, in milliseconds."""
    connection.execute(
        text(
            "SELECT set_config('statement_timeout', :statement, true),"
            " set_config('idle_in_transaction_session_timeout', :statement, true),"
            " set_config('lock_timeout', :lock, true)"
        ),
        {"statement": str(statement_ms), "lock": str(lock_ms or statement_ms)},
    )
