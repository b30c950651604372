"""Calls: list, show, cancel, and decide what is unknown."""

from __future__ import annotations

from typing import Any

import click

from outbound.cli.client import Client, an_id, with_client
from outbound.cli.output import json_option, show

COLUMNS = ("call_id", "lead_id", "phone", "state", "outcome", "waiting_for", "next_attempt_at")
ATTEMPT_COLUMNS = (
    "number",
    "state",
    "outcome",
    "carrier_call_id",
    "claimed_at",
    "ended_at",
    "error",
    "attempt_id",
)


@click.group()
def calls() -> None:
    """Look at calls, cancel one, and decide what is unknown."""


@calls.command("list")
@click.argument("run_id", type=an_id)
@click.option("--state")
@click.option("--outcome")
@click.option("--limit", type=int)
@click.option("--cursor")
@json_option
@with_client
def list_calls(client: Client, run_id: str, *, as_json: bool, **query: Any) -> None:
    """List a run's calls, newest first."""
    found = client.get(f"/runs/{run_id}/calls", **query)
    show(found if as_json else found["items"], as_json=as_json, columns=COLUMNS)


@calls.command("show")
@click.argument("run_id", type=an_id)
@click.argument("call_id", type=an_id)
@json_option
@with_client
def show_call(client: Client, run_id: str, call_id: str, *, as_json: bool) -> None:
    """Show one call: its attempts and what happened when."""
    found = client.get(f"/runs/{run_id}/calls/{call_id}")
    if as_json:
        show(found, as_json=True)
        return
    attempts, timeline = found["attempts"], found["timeline"]
    show({n: v for n, v in found.items() if n not in ("attempts", "timeline")}, as_json=False)
    click.echo()
    show(attempts, as_json=False, columns=ATTEMPT_COLUMNS)
    click.echo()
    show(timeline, as_json=False, columns=("at", "event", "source", "attempt_id"))


@calls.command("cancel")
@click.argument("run_id", type=an_id)
@click.argument("call_id", type=an_id)
@click.option("--hang-up", is_flag=True, help="Also if it rings or talks.")
@json_option
@with_client
def cancel_call(client: Client, run_id: str, call_id: str, *, hang_up: bool, as_json: bool) -> None:
    """Dial this lead no more in this run."""
    found = client.post(f"/runs/{run_id}/calls/{call_id}/cancel", {"hang_up": hang_up})
    show(found if as_json else {name: found[name] for name in COLUMNS}, as_json=as_json)


@calls.command("resolve")
@click.argument("run_id", type=an_id)
@click.argument("call_id", type=an_id, required=False)
@click.option("--all", "everything", is_flag=True, help="All that are older than 15 minutes.")
@click.option("--decision", type=click.Choice(["placed", "not_placed", "redial"]), required=True)
@click.option("--outcome", help="With placed: answered, busy, no_answer, failed or cancelled.")
@click.option("--note")
@click.option("--force", is_flag=True, help="Also before the 15 minutes are over.")
@json_option
@with_client
def resolve(
    client: Client,
    run_id: str,
    call_id: str | None,
    *,
    everything: bool,
    as_json: bool,
    **body: Any,
) -> None:
    """Settle an unknown call by your word; the carrier's later word corrects it.

    \b
        outbound calls list RUN_ID --state unknown
        outbound calls resolve RUN_ID CALL_ID --decision placed --outcome answered
        outbound calls resolve RUN_ID CALL_ID --decision not_placed --note "not in the console"
        outbound calls resolve RUN_ID --all --decision redial

    not_placed: the attempt does not count, and the call is queued again. redial: it counts, and
    the lead is dialled once more; the first call may have happened.
    """  # noqa: D301 - click keeps the lines after this mark as they are
    if bool(call_id) == everything:
        raise click.UsageError("name one CALL_ID, or --all")
    where = f"/runs/{run_id}/resolve" if everything else f"/runs/{run_id}/calls/{call_id}/resolve"
    wanted = {name: value for name, value in body.items() if value is not None}
    show(client.post(where, wanted), as_json=as_json)
