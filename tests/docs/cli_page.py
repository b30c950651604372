"""Writes docs/cli.md from the commands themselves.

python tests/docs/cli_page.py > docs/cli.md
"""

from __future__ import annotations

import click

from outbound.cli import SECTIONS, cli

HEAD = """\
# Command line

Made from the commands by `tests/docs/cli_page.py`; a test compares them. `outbound X --help` says
more. Where it fits, `--json` prints the data for programs; errors are one line on stderr.

Commands marked *key* ask the API: with `OUTBOUND_API_KEY` (or `--key`), at `OUTBOUND_URL` (or
`--url`), else at this machine's `PORT`. The others read the settings of the installation:
[configuration.md](configuration.md).

Exit codes: 0 done; 1 not done, or `outbound audit` or `outbound doctor` found something wrong; 2
the command line is wrong, or the audit could not be done; 130 ended by Ctrl-C.
"""
COMMON = {"--json", "--key", "--url"}


def page() -> str:
    """Put the page together."""
    parts = [HEAD]
    for title, names in SECTIONS.items():
        parts += [f"## {title}\n", "| command | | does | options |\n|---|---|---|---|"]
        for name in names:
            command = cli.get_command(click.Context(cli), name)
            assert command
            parts += _rows(f"outbound {name}", command)
        parts.append("")
    return "\n".join(parts)


def _rows(path: str, command: click.Command) -> list[str]:
    if isinstance(command, click.Group):
        below = command.commands.items()
        return [row for name, one in below for row in _rows(f"{path} {name}", one)]
    arguments = [_argument(one) for one in command.params if isinstance(one, click.Argument)]
    options = [one.opts[0] for one in command.params if isinstance(one, click.Option)]
    own = " ".join(f"`{name}`" for name in options if name not in COMMON)
    key = "key" if "--key" in options else ""
    usage = " ".join([path, *arguments])
    return [f"| `{usage}` | {key} | {command.get_short_help_str(200)} | {own} |"]


def _argument(one: click.Argument) -> str:
    return f"[{str(one.name).upper()}]" if not one.required else str(one.name).upper()


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201 - its purpose
