"""The processes: web, worker, reconciler, emulator; and the migration."""

from __future__ import annotations

import time

import click
from sqlalchemy.exc import OperationalError

from outbound import config


@click.command()
def web() -> None:
    """Serve the API and the carrier's callbacks."""
    from outbound.api.server import serve

    serve(config.read("database_url", "redis_url", "public_base_url"))


@click.command()
def worker() -> None:
    """Dial. Nothing else does."""
    from outbound.worker import serve

    serve(config.read("database_url", "redis_url", "public_base_url"))


@click.command()
def reconciler() -> None:
    """Repair what a crash left; of several, one leads."""
    from outbound.reconciler import serve

    serve(config.read("database_url", "redis_url"))


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def emulator(options: tuple[str, ...]) -> None:
    """Run a carrier to develop and test against (--help tells its options)."""
    from outbound.carriers.emulator.__main__ import main

    settings = config.read()
    known = {
        "--account-sid": settings.twilio_account_sid,
        "--auth-token": settings.twilio_auth_token,
    }
    given = [word for name, value in known.items() if value for word in (name, value)]
    raise SystemExit(main([*given, *options]))


@click.command()
def migrate() -> None:
    """Bring the database to this version's schema; waits 10 s for one that is starting."""
    from outbound import db, migrations

    engine = db.connect(config.read("database_url"), statement_seconds=600)
    deadline = time.monotonic() + 10
    while True:
        try:
            migrations.migrate(engine)
            break
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    click.echo("the database has this version's schema")
