"""Errors as a person reads them: one line, and never a traceback for what a user did."""

from __future__ import annotations

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from outbound import db, logs
from outbound.errors import OutboundError, Refused

_NOT_ALLOWED = "42501"
_NO_TABLE = "42P01"


class CommandError(click.ClickException):
    """A command cannot do what it was asked; the message says why."""

    def show(self, file: object = None) -> None:
        """Print the one line."""
        del file
        _tell(self.message)


def explain_usage(error: click.ClickException) -> int:
    """Print the one line of a wrong command; the help itself where no command was given."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, (CommandError, click.exceptions.NoArgsIsHelpError)):
        error.show()
    else:
        hint = f" See `{context.command_path} --help`." if context else ""
        message = " ".join(error.format_message().split())
        _tell(f"{message}{hint}")
    return error.exit_code


def explain(error: Exception) -> int | None:
    """Print one line for an error that is not ours; None if it is a bug of ours."""
    line = _line(error)
    if line is None:
        return None
    _tell(line)
    return 1


def _tell(line: str) -> None:
    # It may repeat an argument or a URL, and ends up in the logs of whatever ran the command.
    click.echo(f"error: {logs.hide(line)}", err=True)


def _line(error: Exception) -> str | None:
    if isinstance(error, Refused):
        return " ".join([error.detail, *(f"{one.pointer}: {one.detail}" for one in error.faults)])
    if isinstance(error, OutboundError) or type(error).__module__.startswith(
        ("outbound.embedded", "outbound.carriers.emulator")
    ):
        return str(error)
    if isinstance(error, DBAPIError):
        return _database(error)
    if isinstance(error, UnicodeEncodeError):
        return "an argument is not UTF-8"  # the one way in for bytes that are no text
    if isinstance(error, (SQLAlchemyError, OSError)):
        return _first_line(error)
    return None


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _database(error: DBAPIError) -> str | None:
    first = _first_line(error.orig)
    code = db.sqlstate(error)
    if code == _NO_TABLE:
        return "the database has no schema yet: run `outbound migrate`"
    if code == _NOT_ALLOWED:
        return f"the database refuses: {first}"
    return f"the database is away: {first}" if db.is_away(error) else None
