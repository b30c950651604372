"""Runs: create, list, show, watch, pause, resume, cancel, reconcile."""

from __future__ import annotations

from typing import Any

import click

from outbound.cli import watching
from outbound.cli.client import Client, an_id, with_client
from outbound.cli.output import json_option, show
from outbound.cli.reading import read_body

COLUMNS = (
    "run_id",
    "name",
    "status",
    "total_leads",
    "queued",
    "in_progress",
    "completed",
    "failed",
    "cancelled",
    "unknown",
)


@click.group()
def run() -> None:
    """Create, watch and control runs."""


@run.command("create")
@click.argument("file")
@click.option("--name")
@click.option("--concurrency", type=int)
@click.option("--calls-per-second", type=float)
@click.option("--caller-id")
@click.option("--answer-url")
@click.option("--twiml")
@click.option("--ring-timeout", type=int)
@click.option("--max-call-duration", type=int)
@click.option("--max-attempts", type=int, help="With retries after busy and no_answer.")
@click.option("--retry-delay", type=int, help="Seconds.")
@click.option("--retry-on", multiple=True)
@click.option("--redial-unknown-after", type=int, help="Seconds; default: hold them.")
@click.option("--start-at", help="RFC 3339, such as 2026-12-01T09:00:00+02:00.")
@click.option("--expires-at")
@click.option("--allow-duplicate", is_flag=True, default=None)
@click.option("--idempotency-key")
@json_option
@with_client
def create(
    client: Client, file: str, idempotency_key: str | None, *, as_json: bool, **given: Any
) -> None:
    """Post a run. FILE is CSV (lead_id, phone, …), JSON Lines or JSON; - reads standard input.

    Other columns become the variables that fill {{name}} in the TwiML:

    \b
        outbound run create leads.csv --twiml '<Response><Say>Hi {{name}}</Say></Response>'
        outbound run create leads.jsonl --answer-url https://crm.example/twiml --max-attempts 3
        outbound run create body.json        # a whole request body, or a list of leads
    """  # noqa: D301 - click keeps the lines after this mark as they are
    body = read_body(file) | _settings(given)
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
    show(client.post("/runs", body, **headers), as_json=as_json)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    retry = {
        "max_attempts": given.pop("max_attempts"),
        "delay": given.pop("retry_delay"),
        "on": list(given.pop("retry_on")) or None,
    }
    after = given.pop("redial_unknown_after")
    given["retry"] = {name: value for name, value in retry.items() if value is not None} or None
    given["on_unknown"] = {"action": "redial", "after": after} if after is not None else None
    return {name: value for name, value in given.items() if value is not None}


@run.command("list")
@click.option("--status")
@click.option("--limit", type=int)
@click.option("--cursor")
@json_option
@with_client
def list_runs(client: Client, *, as_json: bool, **query: Any) -> None:
    """List runs, newest first."""
    found = client.get("/runs", **query)
    show(found if as_json else found["items"], as_json=as_json, columns=COLUMNS)


@run.command("show")
@click.argument("run_id", type=an_id)
@json_option
@with_client
def show_run(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show one run."""
    show(client.get(f"/runs/{run_id}"), as_json=as_json)


@run.command("watch")
@click.argument("run_id", type=an_id)
@json_option
@with_client
def watch(client: Client, run_id: str, *, as_json: bool) -> None:
    """Draw a run's progress until it has ended, or all that is left of it is unknown.

    Without a terminal it prints a line for each change; with --json the run as it is at the end.

    Exit code: 0 then, whatever became of the calls; 1 if the run cannot be watched.
    """
    watching.watch(client, run_id, as_json=as_json)


@run.command("pause")
@click.argument("run_id", type=an_id)
@json_option
@with_client
def pause(client: Client, run_id: str, *, as_json: bool) -> None:
    """Stop dialling; calls under way go on."""
    show(client.post(f"/runs/{run_id}/pause"), as_json=as_json)


@run.command("resume")
@click.argument("run_id", type=an_id)
@json_option
@with_client
def resume(client: Client, run_id: str, *, as_json: bool) -> None:
    """Go on dialling."""
    show(client.post(f"/runs/{run_id}/resume"), as_json=as_json)


@run.command("cancel")
@click.argument("run_id", type=an_id)
@click.option("--hang-up", is_flag=True, help="Also end the calls that ring or talk.")
@json_option
@with_client
def cancel(client: Client, run_id: str, *, hang_up: bool, as_json: bool) -> None:
    """End a run for good."""
    show(client.post(f"/runs/{run_id}/cancel", {"hang_up": hang_up}), as_json=as_json)


@click.command()
@json_option
@with_client
def reconcile(client: Client, *, as_json: bool) -> None:
    """Repair this account's runs now; once a minute."""
    show(client.post("/runs/reconcile"), as_json=as_json)
