"""Printing: JSON for programs, tables for people, colours only on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.console import Console
from rich.table import Table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def show(data: Any, *, as_json: bool, columns: Iterable[str] = ()) -> None:
    """Print one mapping or a list of them."""
    if as_json:
        click.echo(json.dumps(data, default=str, ensure_ascii=False))
    elif isinstance(data, list):
        show_table(data, list(columns))
    else:
        for name, value in data.items():
            click.echo(f"{name:<26} {_cell(value)}")


def show_table(rows: list[Mapping[str, Any]], columns: list[str]) -> None:
    """Print rows as a table with these columns."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    Console(soft_wrap=True, highlight=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (dict, list)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)
