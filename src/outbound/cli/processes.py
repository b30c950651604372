"""The processes: web, worker, reconciler, emulator; and the migration."""

from __future__ import annotations

import time

import click
from sqlalchemy.exc import OperationalError

from outbound import config
from outbound.cli.errors import CommandError

STARTING_SECONDS, BUSY_SECONDS = 10, 60
_TOO_BUSY = (
    "a table could not be had for a minute: does a backup run, or an idle session hold it? Try"
    " again; what was migrated so far is whole, and both versions work on it"
)


@click.command()
def web() -> None:
    """Serve the API and the carrier's callbacks."""
    from outbound.api.server import serve

    serve(config.read("database_url", "redis_url", "public_base_url"))


@click.command()
def worker() -> None:
    """Dial; nothing else does."""
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
    """Bring the database to this version's schema, while it is used; never back.

    Waits 10 s for a server that is starting, a minute for one whose tables are busy.
    """
    from outbound import db, migrations

    engine = db.connect(config.read("database_url"), statement_seconds=600)
    started = time.monotonic()
    while True:
        try:
            migrations.migrate(engine)
            break
        except OperationalError as error:
            busy = db.sqlstate(error) in (db.DEADLOCK, db.LOCK_NOT_AVAILABLE)
            if time.monotonic() - started > (BUSY_SECONDS if busy else STARTING_SECONDS):
                if busy:
                    raise CommandError(_TOO_BUSY) from None
                raise
            # Those who waited behind us must get on before we make them wait again.
            time.sleep(1.0 if busy else 0.2)
    click.echo("the schema is this version's, or a newer one")
