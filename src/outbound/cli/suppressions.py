"""Numbers that are never called: list, add, remove."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from outbound.cli.client import Client, with_client
from outbound.cli.errors import CommandError
from outbound.cli.output import json_option, show
from outbound.schemas import MAX_SUPPRESSIONS

COLUMNS = ("phone", "reason", "actor_name", "actor", "created_at")


@click.group()
def suppressions() -> None:
    """See and change the numbers that are never called."""


@suppressions.command("list")
@click.option("--phone", help="Only this one.")
@click.option("--limit", type=int)
@click.option("--cursor")
@json_option
@with_client
def list_suppressions(client: Client, *, as_json: bool, **query: Any) -> None:
    """List suppressed numbers, newest first."""
    found = client.get("/suppressions", **query)
    show(found if as_json else found["items"], as_json=as_json, columns=COLUMNS)


@suppressions.command("add")
@click.argument("phones", nargs=-1)
@click.option("--file", type=click.Path(path_type=Path), help="One number a line.")
@click.option("--reason")
@json_option
@with_client
def add(
    client: Client, phones: tuple[str, ...], file: Path | None, reason: str | None, *, as_json: bool
) -> None:
    """Never call these numbers again. Twice is no error.

    A line that is no phone sinks no other; `index` in the answer counts numbers from 0.
    """
    wanted = [*phones, *(_lines(file) if file else ())]
    if not wanted:
        raise click.UsageError("name numbers, or a --file of them")
    total: dict[str, Any] = {"added": 0, "in_flight": 0, "rejections": []}
    for start in range(0, len(wanted), MAX_SUPPRESSIONS):
        body = {"phones": wanted[start : start + MAX_SUPPRESSIONS], "reason": reason}
        found = _post(client, body, start)
        total["added"] += found["added"]
        total["in_flight"] += found["in_flight"]
        total["rejections"] += [
            one | {"index": one["index"] + start} for one in found["rejections"]
        ]
    show(total, as_json=as_json)


def _post(client: Client, body: dict[str, Any], done: int) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.post("/suppressions", body)
    except CommandError as error:
        # What was sent stays suppressed, and sending it again does no harm.
        raise CommandError(f"after {done} numbers: {error.message}") from None
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


@suppressions.command("remove")
@click.argument("phone")
@json_option
@with_client
def remove(client: Client, phone: str, *, as_json: bool) -> None:
    """Allow calls to a number again."""
    client.delete(f"/suppressions/{quote(phone, safe='')}")
    show({"phone": phone, "removed": True}, as_json=as_json)
