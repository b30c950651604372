"""`outbound purge`: people's data, when its time is over."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

import click

from outbound import actions, config, db, logs, purging
from outbound.cli.output import json_option, show

_AGE = re.compile(r"([1-9]\d{0,3})([dw])", re.ASCII)


def _age(given: str) -> timedelta:
    found = _AGE.fullmatch(given)
    if not found:
        raise click.BadParameter(f"{given!r} is no age; write 90d, or 12w.")
    number, unit = found.groups()
    return timedelta(**{{"d": "days", "w": "weeks"}[unit]: int(number)})


@click.command()
@click.option("--older-than", type=_age, required=True, help="Since the run's end: 90d, 12w.")
@click.option("--account", "account_id", type=click.UUID, help="Default: all accounts.")
@json_option
def purge(older_than: timedelta, account_id: UUID | None, *, as_json: bool) -> None:
    """Delete phones, lead ids, variables, scripts, names and notes of runs that ended long ago.

    Counts, outcomes and times stay; so do suppressions. Left alone: runs that have not ended,
    that have an unknown call of the last 30 days, or whose calls still keep their phones from
    being called again (min_seconds_between_calls). It can be interrupted and run again.
    """
    settings = config.read("database_url")
    # To stderr: on stdout is the answer.
    logs.set_up(settings, "cli", sys.stderr)
    engine = db.connect(settings, pool=1, statement_seconds=60)
    done = purging.purge(engine, actions.at_this_machine(settings), older_than, account_id)
    show(asdict(done), as_json=as_json)
