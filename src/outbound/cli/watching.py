"""Watching a run: a live bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from outbound.cli.client import Away, Client
from outbound.cli.output import harmless, show

POLL_SECONDS = 0.5
READ_SECONDS = 5
OLD_SECONDS = 3
ENDED = ("completed", "cancelled", "expired")
_PARTS = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")


def watch(client: Client, run_id: str, *, as_json: bool = False) -> dict[str, Any]:
    """Follow a run until it has ended, or all that is left of it is unknown.

    Returns:
        The run as it is then.

    Raises:
        CommandError: there is no such run, or the API does not answer the first request.
    """
    console = Console(stderr=as_json)
    if console.is_terminal and not as_json:
        body = _live(client, run_id, console)
    else:
        body = _lines(client, run_id, quiet=as_json)
    if as_json:
        show(body, as_json=True)
    elif body["status"] not in ENDED:
        click.echo(f"all that is left is unknown: see `outbound calls list {run_id}`")
    return body


def _live(client: Client, run_id: str, console: Console) -> dict[str, Any]:
    body: dict[str, Any] = {}
    with Live(console=console, auto_refresh=False) as screen:
        for body, age in _follow(client, run_id):
            screen.update(picture(body, age), refresh=True)
    return body


def _lines(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    said = ""
    for body, age in _follow(client, run_id):
        away = "the API is away; these numbers are old:  " if age > OLD_SECONDS else ""
        line = away + summary(body)
        if line != said and not quiet:
            click.echo(line)
        said = line
    return body


def _follow(client: Client, run_id: str) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the run with the age of its numbers in seconds, until there is nothing to wait for."""
    path = f"/runs/{run_id}"
    body, etag = client.get_changed(path, "", READ_SECONDS)
    fresh = time.monotonic()
    while True:
        yield body, time.monotonic() - fresh
        if is_over(body):
            return
        time.sleep(POLL_SECONDS)
        try:
            changed, etag = client.get_changed(path, etag, READ_SECONDS)
        except Away:
            continue  # told by the age of the numbers, which the caller shows
        body, fresh = changed or body, time.monotonic()


def is_over(body: dict[str, Any]) -> bool:
    """Tell whether a run has ended, or waits for a person alone."""
    under_way = body["queued"] + body["in_progress"]
    return body["status"] in ENDED or (not under_way and body["unknown"] > 0)


def summary(body: dict[str, Any]) -> str:
    """Say a run's numbers in one line."""
    parts = "  ".join(f"{name} {body[name]}" for name in _PARTS)
    error = f"  ! {harmless(body['last_error'])}" if body.get("last_error") else ""
    return f"{body['status']}  {parts}{error}"


def picture(body: dict[str, Any], age: float) -> Table:
    """Draw a run; its own words are Text, since `[x]` in a name is no mark-up of ours."""
    done = body["total_leads"] - body["queued"] - body["in_progress"]
    drawn = Table.grid(padding=(0, 2))
    drawn.add_row(Text(harmless(body["name"] or body["run_id"])), f"[bold]{body['status']}[/bold]")
    drawn.add_row(
        ProgressBar(total=body["total_leads"], completed=done, width=40),
        f"{done} of {body['total_leads']}",
    )
    drawn.add_row("calls", "  ".join(f"{name} {body[name]}" for name in _PARTS))
    outcomes = body["outcomes"].items()
    drawn.add_row("outcomes", "  ".join(f"{name} {count}" for name, count in outcomes))
    if body["last_error"]:
        drawn.add_row("[red]last error[/red]", Text(harmless(body["last_error"])))
    if age > OLD_SECONDS:
        drawn.add_row("[red]the API is away[/red]", f"these numbers are {age:.0f} s old")
    return drawn
