"""``python -m outbound.carriers.emulator``: an emulator from the command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from .behaviours import parse_mix
from .errors import EmulatorError
from .faults import parse_faults
from .server import serve
from .settings import EmulatorSettings


def main(arguments: list[str] | None = None) -> int:
    """Run an emulator.

    Args:
        arguments: The command line without the program's name; by default this process's.

    Returns:
        The exit code: 0 after a clean stop, 1 if it could not start.
    """
    asked = vars(_parser().parse_args(arguments))
    # What is not given keeps the default that the settings have, and only they.
    given = {name: value for name, value in asked.items() if value is not None}
    try:
        serve(EmulatorSettings(**given))
    except EmulatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Argparse would print the whole usage; `outbound` says each mistake in one line.
        self.exit(2, f"error: {message}. See `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="outbound emulator",
        description="A Twilio-shaped carrier to develop and test against. It calls nobody.",
    )
    _add_server(parser)
    _add_phones(parser)
    _add_callbacks(parser)
    parser.add_argument("--faults", type=_faults, help='such as {"refuse_429": 10} (per cent)')
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help="0 picks a free one")
    parser.add_argument("--host")
    parser.add_argument("--ledger", type=Path, required=True, help="append-only file of the calls")
    parser.add_argument("--account-sid")
    parser.add_argument("--auth-token")
    parser.add_argument(
        "--caller-id",
        dest="caller_ids",
        action="append",
        help="take calls from this number only (may be repeated)",
    )


def _add_phones(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int)
    parser.add_argument("--queue-seconds", type=float)
    parser.add_argument("--ring-seconds", type=float)
    parser.add_argument("--talk-seconds", type=float)
    parser.add_argument("--spread", type=float, help="0.2: ring and talk vary by 20 per cent")
    parser.add_argument("--mix", type=_mix, help="such as answered=0.6,busy=0.2,no_answer=0.2")
    parser.add_argument(
        "--no-endings",
        dest="endings",
        action="store_false",
        default=None,
        help="the mix decides for every number",
    )


def _add_callbacks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--callback-retry-delay", type=float, help="doubled for each retry")
    parser.add_argument("--callback-total-seconds", type=float, help="then it is given up")
    parser.add_argument("--callback-connections", type=int)


def _mix(text: str) -> dict[str, float]:
    try:
        return parse_mix(text)
    except EmulatorError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _faults(text: str) -> dict[str, float]:
    try:
        return parse_faults(json.loads(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
