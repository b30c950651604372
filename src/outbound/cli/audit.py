"""`outbound audit`: our record of a run against the carrier's."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

import click

from outbound import audit as verb
from outbound import config, db
from outbound.carriers import base
from outbound.cli.output import json_option, show


@click.command()
@click.argument("run_id", type=click.UUID)
@json_option
def audit(run_id: UUID, *, as_json: bool) -> int:
    """Compare a run with the carrier's list, call by call; exit code 1 if anything differs."""
    settings = config.read("database_url")
    compared, found = verb.audit(db.connect(settings), base.load(settings), run_id)
    rows = [asdict(one) for one in found]
    if as_json:
        show({"attempts": compared, "differences": rows}, as_json=True)
    elif rows:
        columns = ("kind", "attempt_id", "carrier_call_id", "ours", "carriers")
        show(rows, as_json=False, columns=columns)
    else:
        click.echo(
            f"{compared} attempts agree with the carrier's record; the counters with the rows"
        )
    return 1 if rows else 0
