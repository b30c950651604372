"""`outbound audit`: our record of a run against the carrier's."""

from __future__ import annotations

import sys
from dataclasses import asdict
from uuid import UUID

import click

from outbound import audit as verb
from outbound import config, db, logs, node
from outbound.audit import Report
from outbound.carriers import base
from outbound.cli.errors import explain
from outbound.cli.output import json_option, show

COLUMNS = ("kind", "call_id", "attempt_id", "carrier_call_id", "ours", "carriers")
NOT_DONE = 2


@click.command()
@click.argument("run_id", type=click.UUID)
@click.option("--repair", is_flag=True, help="Take the carrier's word where it is certain.")
@json_option
def audit(run_id: UUID, *, repair: bool, as_json: bool) -> int:
    """Compare a run with the carrier's list, call by call.

    Finds calls of the carrier's that we do not know and the other way round, second calls of one
    attempt, wrong outcomes, leads called too often, and counters that the calls do not bear out.

    With --repair the carrier's word is recorded where it is certain, second calls are recorded
    and hung up, and counters are corrected. It dials nothing and decides nothing: what it could
    not mend, it still shows.

    Exit code: 0 if nothing differs (any more), 1 if anything does, 2 if it could not be done.
    """
    try:
        report = _run(run_id, repair=repair)
    except Exception as error:
        # Not 1: whoever reads only the exit code must not take it for a finding.
        if explain(error) is None:
            raise
        return NOT_DONE
    _show(report, repair=repair, as_json=as_json)
    return 0 if report.agrees else 1


def _run(run_id: UUID, *, repair: bool) -> Report:
    settings = config.read("database_url", *(["redis_url"] if repair else []))
    # To stderr: on stdout is the answer, and with --json nothing else.
    logs.set_up(settings, "cli", sys.stderr)
    carrier = base.load(settings)
    if repair:
        return verb.repair(node.build(settings, "cli"), carrier, run_id)
    return verb.audit(db.connect(settings), carrier, run_id)


def _show(report: Report, *, repair: bool, as_json: bool) -> None:
    rows = [asdict(one) for one in report.differences]
    if as_json:
        numbers = {"attempts": report.attempts, "known_strays": report.known_strays}
        show(numbers | {"differences": rows}, as_json=True)
    elif rows:
        show(rows, as_json=False, columns=(("repaired",) if repair else ()) + COLUMNS)
    else:
        click.echo(
            f"{report.attempts} attempts agree with the carrier's record; "
            "the counters with the rows"
        )
    if report.known_strays and not as_json:
        click.echo(f"{report.known_strays} calls too many are known from an earlier repair")
