"""Watching a run: a live bar on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from typing import Any

import click
import requests
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from outbound.cli.client import Client
from outbound.cli.output import show

POLL_SECONDS = 0.5
ENDED = ("completed", "cancelled", "expired")
_PARTS = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")


def watch(client: Client, run_id: str, *, as_json: bool = False) -> dict[str, Any]:
    """Follow a run until it has ended; returns it as it is then."""
    console = Console(stderr=as_json)
    if console.is_terminal and not as_json:
        body = _live(client, run_id, console)
    else:
        body = _lines(client, run_id, quiet=as_json)
    if as_json:
        show(body, as_json=True)
    return body


def _live(client: Client, run_id: str, console: Console) -> dict[str, Any]:
    body: dict[str, Any] = {}
    with Live(console=console, auto_refresh=False) as screen:
        for found, age in _follow(client, run_id):
            body = found or body
            if body:
                screen.update(_picture(body, age), refresh=True)
    return body


def _lines(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    body: dict[str, Any] = {}
    said = ""
    for found, age in _follow(client, run_id):
        body = found or body
        line = f"the API is away; numbers are {age:.0f} s old" if age > 3 else summary(body)
        if line != said and not quiet:
            click.echo(line)
        said = line
    return body


def _follow(client: Client, run_id: str) -> Any:
    """Yield each new answer with the age of the numbers in seconds, until the run has ended."""
    etag, fresh = "", time.monotonic()
    while True:
        body = None
        try:
            answer = client.send("GET", f"/runs/{run_id}", headers={"If-None-Match": etag})
            fresh = time.monotonic()
            if answer.status_code == 200:
                body, etag = answer.json(), answer.headers.get("ETag", "")
        except requests.RequestException:
            pass  # told by the age of the numbers, which the caller shows
        yield body, time.monotonic() - fresh
        if body and body["status"] in ENDED:
            return
        time.sleep(POLL_SECONDS)


def summary(body: dict[str, Any]) -> str:
    """Say a run's numbers in one line."""
    parts = "  ".join(f"{name} {body[name]}" for name in _PARTS if name in body)
    error = f"  ! {body['last_error']}" if body.get("last_error") else ""
    return f"{body.get('status', 'unknown run')}  {parts}{error}"


def _picture(body: dict[str, Any], age: float) -> Table:
    done = body["total_leads"] - body["queued"] - body["in_progress"]
    picture = Table.grid(padding=(0, 2))
    picture.add_row(body["name"] or body["run_id"], f"[bold]{body['status']}[/bold]")
    picture.add_row(
        ProgressBar(total=body["total_leads"], completed=done, width=40),
        f"{done} of {body['total_leads']}",
    )
    picture.add_row("calls", "  ".join(f"{name} {body[name]}" for name in _PARTS))
    outcomes = body["outcomes"].items()
    picture.add_row("outcomes", "  ".join(f"{name} {count}" for name, count in outcomes))
    if body["last_error"]:
        picture.add_row("[red]last error[/red]", body["last_error"])
    if age > 3:
        picture.add_row("[red]the API is away[/red]", f"these numbers are {age:.0f} s old")
    return picture
