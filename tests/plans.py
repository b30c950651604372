"""Statements as they run: which they were, and what PostgreSQL does for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, TextualSelect, event, text

from outbound.reconciler import leader
from outbound.reconciler.table import SWEEPS

_EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"


@dataclass(frozen=True)
class Plan:
    """What PostgreSQL did for one statement.

    Attributes:
        name: `module.NAME` of the constant, the statement's own text if it has none.
        buffers: pages touched, in the cache or not.
        rows: read from tables and indexes, also those that a condition then threw away.
        misses: pairs that a join compared and that do not belong together.
        indexes: all that it read.
        whole: tables that it read from end to end.
    """

    name: str
    statement: str
    buffers: int
    rows: int
    misses: int
    indexes: frozenset[str]
    whole: frozenset[str]

    @property
    def is_ours(self) -> bool:
        """Whether it has a name, and reads or writes anything."""
        return " " not in self.name and bool(self.buffers or self.indexes or self.whole)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Note the text of each statement that is executed in the block, in order."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def explained(engine: Engine) -> Iterator[list[Plan]]:
    """Note the plan of each statement just before it is executed, with its own values.

    Each runs twice then, the first time in a savepoint that is rolled back.
    """
    seen: list[Plan] = []

    def explain_first(
        _connection: Any, cursor: Any, statement: str, values: Any, context: Any, _many: bool
    ) -> None:
        with cursor.connection.cursor() as other:
            in_transaction = not cursor.connection.autocommit
            if in_transaction:
                other.execute("SAVEPOINT explained")
            other.execute(f"{_EXPLAIN} {statement}", values)
            ((answer,),) = other.fetchall()
            if in_transaction:
                other.execute("ROLLBACK TO SAVEPOINT explained; RELEASE SAVEPOINT explained")
        seen.append(_plan(_name_of(context, statement), statement, answer))

    event.listen(engine, "before_cursor_execute", explain_first)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", explain_first)


def explain(connection: Connection, statement: str, **values: Any) -> Plan:
    """Run one statement for its plan."""
    answer = connection.execute(text(f"{_EXPLAIN} {statement}"), values).scalar_one()
    return _plan(statement, statement, answer)


def settle_down(engine: Engine) -> None:
    """Do what autovacuum does in time."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("RESET statement_timeout"))


def _plan(name: str, statement: str, answer: Any) -> Plan:
    top = answer[0]["Plan"]
    nodes = list(_nodes(top))
    whole = [node for node in nodes if node["Node Type"] == "Seq Scan"]
    by_index = [node for node in nodes if "Index Name" in node]
    return Plan(
        name,
        statement,
        top["Shared Hit Blocks"] + top["Shared Read Blocks"],
        sum(_rows(node) for node in whole + by_index),
        sum(_each_time(node, "Rows Removed by Join Filter") for node in nodes),
        frozenset(node["Index Name"] for node in by_index),
        frozenset(node["Relation Name"] for node in whole),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: dict[str, Any]) -> int:
    return _each_time(
        node, "Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck"
    )


def _each_time(node: dict[str, Any], *names: str) -> int:
    """Sum what PostgreSQL gives as the mean of a node's runs."""
    return round(sum(node.get(name, 0) for name in names) * node["Actual Loops"])


def _name_of(context: Any, statement: str) -> str:
    """Name a statement by the constant of ours that it is, or the sweep whose candidates."""
    said = _text_of(context.invoked_statement) or statement
    if said == leader._probe_of(SWEEPS).text:
        return "leader._probe_of"
    for sweep in SWEEPS:
        if said.startswith(sweep.candidates):
            return sweep.name
    for name, module in list(sys.modules.items()):
        if name.startswith("outbound."):
            for constant, value in vars(module).items():
                if _text_of(value) == said:
                    return f"{name.removeprefix('outbound.')}.{constant}"
    return " ".join(said.split())


def _text_of(statement: Any) -> str | None:
    """Give the text of one that is written as such; its columns may be known besides."""
    whole = statement.element if isinstance(statement, TextualSelect) else statement
    return whole.text if isinstance(whole, TextClause) else None
