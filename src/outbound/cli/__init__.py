"""The command line. Each command is loaded when it is called: `outbound web` needs no other."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from outbound import __version__
from outbound.cli.errors import explain, explain_usage

COMMANDS = {
    "up": "outbound.cli.up:up",
    "demo": "outbound.cli.demo:demo",
    "migrate": "outbound.cli.processes:migrate",
    "web": "outbound.cli.processes:web",
    "worker": "outbound.cli.processes:worker",
    "reconciler": "outbound.cli.processes:reconciler",
    "emulator": "outbound.cli.processes:emulator",
    "account": "outbound.cli.accounts:account",
    "key": "outbound.cli.accounts:key",
    "run": "outbound.cli.runs:run",
    "reconcile": "outbound.cli.runs:reconcile",
    "calls": "outbound.cli.calls:calls",
    "suppressions": "outbound.cli.suppressions:suppressions",
    "audit": "outbound.cli.audit:audit",
    "purge": "outbound.cli.purge:purge",
    "doctor": "outbound.cli.doctor:doctor",
    "logs": "outbound.cli.logs:logs",
}


SECTIONS = {
    "To see it work": ("up", "demo", "emulator"),
    "To run it": ("migrate", "web", "worker", "reconciler", "doctor"),
    "Accounts": ("account", "key", "suppressions"),
    "Runs and calls": ("run", "calls", "reconcile", "audit"),
    "What is left of them": ("logs", "purge"),
}


class Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        listed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in COMMANDS if name not in listed)
        for title, names in (SECTIONS | {"Others": others}).items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(f"{name:<12}", one.get_short_help_str(200)) for name, one in found if one]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="outbound")
def cli() -> None:
    """Place batches of phone calls, each lead exactly as often as meant.

    Everything on one machine, to see it work:

    \b
        outbound demo
        outbound up                          # in another terminal: . .outbound/env
        outbound account create acme --caller-id +97231234567
        outbound key create --account ACCOUNT_ID --role admin

    A run, with OUTBOUND_API_KEY set to that key:

    \b
        outbound run create leads.csv --twiml '<Response><Say>Hi</Say></Response>'
        outbound run watch RUN_ID
        outbound audit RUN_ID

    With --json a command prints its data for programs. Errors are one line on stderr.

    \b
    Exit codes:
        0    done
        1    not done; or audit or doctor found something wrong
        2    the command line is wrong; or audit could not be done
        130  ended by Ctrl-C
    """  # noqa: D301 - click keeps the lines after this mark as they are


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that a user can cause is one line on stderr."""
    try:
        code: Any = cli.main(arguments, prog_name="outbound", standalone_mode=False)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        code = explain_usage(error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
    sys.exit(code if isinstance(code, int) else 0)
