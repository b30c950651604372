"""What the tests of this tier share: everything that is stored, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, Table, text

from outbound.models import metadata

Dump = dict[str, list[str]]
_SELECT = "SELECT t::text FROM {table} t {where} ORDER BY 1"


@pytest.fixture
def dump(engine: Engine) -> Callable[..., Dump]:
    """Read every row, of all accounts or of one, so that two moments can be compared."""

    def read(account: UUID | None = None) -> Dump:
        with engine.connect() as connection:
            return {
                table.name: list(
                    connection.execute(
                        text(_SELECT.format(table=table.name, where=_where(table, account))),
                        {"account": account},
                    ).scalars()
                )
                for table in metadata.sorted_tables
            }

    return read


def _where(table: Table, account: Any) -> str:
    if account is None:
        return ""
    if table.name == "accounts":
        return "WHERE id = :account"
    if "account_id" in table.columns:
        return "WHERE account_id = :account"
    for column in table.columns:
        for key in column.foreign_keys:
            owner = key.column.table.name
            return f"WHERE {column.name} IN (SELECT id FROM {owner} WHERE account_id = :account)"
    return "WHERE false"  # nobody's, such as who leads
