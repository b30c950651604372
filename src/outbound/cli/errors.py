"""Errors as a person reads them: one line, and never a traceback for what a user did."""

from __future__ import annotations

import click
import requests
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from outbound import db
from outbound.errors import OutboundError, Refused


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why."""

    def show(self, file: object = None) -> None:
        """Print the one line."""
        del file
        click.echo(f"error: {self.message}", err=True)


def explain(error: Exception) -> int | None:
    """Print one line for an error that is not ours; None if it is a bug of ours."""
    line = _line(error)
    if line is None:
        return None
    click.echo(f"error: {line}", err=True)
    return 1


def _line(error: Exception) -> str | None:
    if isinstance(error, Refused):
        return " ".join([error.detail, *(f"{one.pointer}: {one.detail}" for one in error.faults)])
    if isinstance(error, (OutboundError, click.UsageError)) or type(error).__module__.startswith(
        ("outbound.embedded", "outbound.carriers.emulator")
    ):
        return str(error)
    if isinstance(error, requests.RequestException):
        return f"the API does not answer ({type(error).__name__}); is `outbound web` running?"
    if isinstance(error, DBAPIError):
        return _database(error)
    if isinstance(error, (SQLAlchemyError, OSError)):
        return str(error).splitlines()[0]
    return None


def _database(error: DBAPIError) -> str | None:
    first = str(error.orig).strip().splitlines()[0]
    if db.sqlstate(error) == "42P01":
        return "the database has no schema yet: run `outbound migrate`"
    return f"the database is away: {first}" if db.is_away(error) else None
