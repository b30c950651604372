"""Statements that PostgreSQL plans once for each connection, instead of each time.

Of its time for a batch of four callbacks parsing and planning were four fifths: 2.9 ms, now 0.6.
A plan is then made for any values, and kept while the tables grow: only statements that find
their rows by an index, whatever the values, may be prepared.

SQL's own PREPARE, since the driver has no other way. It belongs to the server's session: behind a
pooler, which may give each transaction another one, every statement is planned each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from sqlalchemy import Engine, Executable, column, event, text

_FOR_ALL_VALUES = """
    SET plan_cache_mode = force_generic_plan;  -- else the first five plans are thrown away
    SET enable_seqscan = off  -- the cheapest while a table is empty, and ruinous a minute later
"""
_AS = "prepared_as"
SESSION_LOST = ("26000", "42P05", "0A000")
"""The server's session has no such statement, or another of that name, or its columns changed: the
connection is closed, and the same transaction works on another."""


def prepared(sql: str, columns: Iterable[str] = ()) -> Executable:
    """Build a statement that is planned once for each connection.

    Args:
        sql: as for text(); each parameter's type must follow from the statement itself, and it
            names the columns that it returns: with `*` a migration that adds one would break it.
        columns: those names, in their order, where there are many: SQLAlchemy then works out once
            how rows are read, not each time.
    """
    name = f"outbound_{sha256(sql.encode()).hexdigest()[:16]}"
    statement: Executable = text(sql).columns(*map(column, columns)) if columns else text(sql)
    return statement.execution_options(**{_AS: name})


def use(engine: Engine) -> None:
    """Have the engine's connections prepare such statements as they first come."""

    @event.listens_for(engine, "connect")
    def begin(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            ((pid,),) = cursor.fetchall()
            # A pooler tells its clients another one than the server's.
            if pid == connection.info.backend_pid:
                cursor.execute(_FOR_ALL_VALUES)
                record.info[_AS] = set()
        connection.commit()

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def execute(
        connection: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        name = context.execution_options.get(_AS)
        if not name or many or (known := connection.connection.info.get(_AS)) is None:
            return statement, values
        if name not in known:
            numbered = {one: f"${number}" for number, one in enumerate(values, 1)}
            cursor.execute(f"PREPARE {name} AS {statement % numbered}")
            known.add(name)
        return _execute(name, tuple(values)), values

    @event.listens_for(engine, "handle_error")
    def forget(context: Any) -> None:
        here = context.execution_context
        code = getattr(context.original_exception, "pgcode", None)
        if code in SESSION_LOST and here and here.execution_options.get(_AS):
            context.is_disconnect = True  # what is prepared goes with the connection


@lru_cache
def _execute(name: str, values: tuple[str, ...]) -> str:
    given = ", ".join(f"%({one})s" for one in values)
    return f"EXECUTE {name} ({given})" if given else f"EXECUTE {name}"
