"""`outbound logs summary`: what the dashboards show, from log files alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from outbound.cli.errors import CommandError
from outbound.cli.output import json_option, show, show_table
from outbound.log_summary import SWEEP_FIGURES, Summary

STDIN = "-"
_TABLES = {
    "sweeps": ("sweep", "times", *SWEEP_FIGURES),
    "leaders": ("timestamp", "event", "worker_id", "epoch", "reason"),
    "http_requests": ("route", "count", "p50_ms", "p99_ms"),
    "slowest": ("duration_ms", "timestamp", "method", "route", "status", "request_id"),
    "errors": ("count", "event", "error", "first", "last"),
}


@click.group()
def logs() -> None:
    """Read log files."""


@logs.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def summary(files: tuple[str, ...], *, as_json: bool) -> None:
    """Count what log lines tell (FILE - is the standard input).

    Lines by event, level and source, claims, dedup conflicts, calls placed and settled, unknowns,
    sweeps, leaders, requests and their times, errors. Lines that are not Outbound's JSON are
    passed over and counted as skipped. Files of any size: nothing is held but the counts.
    """
    counted = Summary()
    for name in files:
        _read(counted, name)
    _show(counted.as_dict(), as_json=as_json)


def _read(counted: Summary, name: str) -> None:
    try:
        if name == STDIN:
            counted.read(sys.stdin.buffer)
            return
        with Path(name).open("rb") as file:
            counted.read(file)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror or error}") from None


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(found, as_json=True)
        return
    show({k: v for k, v in found.items() if not isinstance(v, (dict, list))}, as_json=False)
    for name, value in found.items():
        if isinstance(value, (dict, list)) and value:
            click.echo(f"\n{name}")
            show_table(*_table(name, value))


def _table(name: str, value: Any) -> tuple[list[Mapping[str, Any]], list[str]]:
    if isinstance(value, dict):
        return [{"count": count, name: word} for word, count in value.items()], ["count", name]
    return value, list(_TABLES[name])
