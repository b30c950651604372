"""Printing: JSON for programs, plain columns for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console

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
    """Print rows as a table with these columns.

    Nothing is shortened to the terminal's width: half an id is of no use.
    """
    grid = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*grid, strict=True)]
    for cells in grid:
        padded = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def is_screen(console: Console) -> bool:
    """Tell whether a person looks at it; FORCE_COLOR asks for colours, not for moving pictures."""
    return console.file.isatty() and not console.is_dumb_terminal


def harmless(text: str) -> str:
    """Spell out what would act on the terminal: a lead's name may hold an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (dict, list)):
        return harmless(json.dumps(value, default=str, ensure_ascii=False))
    return harmless(str(value))
