"""`outbound doctor`: what a new installation gets wrong, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import click
import redis as redis_py
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from outbound import config, logs
from outbound.carriers.base import CarrierUnavailable
from outbound.cli.checks import Finding, database, outside, redis
from outbound.cli.output import harmless, is_screen, json_option, show
from outbound.config import Settings
from outbound.errors import ConfigError

NEEDED = ("database_url", "redis_url", "public_base_url")
_COLOURS = {"ok": "green", "info": "cyan", "warn": "yellow", "fail": "red"}
_WRONG = (SQLAlchemyError, redis_py.RedisError, OSError, ConfigError, CarrierUnavailable)


@click.command()
@json_option
def doctor(*, as_json: bool) -> int:
    """Check this installation, and say how to mend what is wrong.

    Settings, database, schema, Redis, leader, workers, versions, clocks, the public URL, the
    carrier's credentials, accounts. It changes nothing and calls nobody.

    Exit code: 1 if anything fails, 0 if not; a warning is no failure.
    """
    found = list(examine())
    if as_json:
        show([asdict(one) for one in found], as_json=True)
    else:
        console = Console(highlight=False, soft_wrap=True)
        for one in found:
            _tell(console, one)
    return 1 if any(one.result == "fail" for one in found) else 0


def _tell(console: Console, finding: Finding) -> None:
    result = Text(f"{finding.result:<4}", style=_COLOURS[finding.result])
    says = Text(f"{finding.check}: {harmless(logs.hide(finding.detail))}")
    mend = Text(f"→ {finding.mend}")
    if not is_screen(console):
        console.print(result, says, sep="  ")
        if finding.mend:
            console.print("    ", mend)
        return
    # What is too long for the screen goes on under its own beginning.
    drawn = Table.grid(padding=(0, 2, 0, 0))
    drawn.add_row(result, says)
    if finding.mend:
        drawn.add_row("", mend)
    console.print(drawn, soft_wrap=False)


def examine() -> Iterator[Finding]:
    """Run every check that the ones before it make possible."""
    wrong = list(_settings())
    yield from wrong or [Finding("settings", "ok", "all that is needed is set")]
    try:
        settings = config.read()
    except ConfigError:
        return
    yield from _times(settings)
    if settings.database_url:
        mend = "check DATABASE_URL, and that its server runs and lets this host in"
        yield from _guard("database", lambda: database.examine(settings), mend)
    if settings.redis_url:
        mend = "check REDIS_URL, and that its server runs and lets this host in"
        yield from _guard("redis", lambda: redis.examine(settings), mend)
    if settings.public_base_url:
        yield from outside.public_url(settings)
    mend = "check the carrier's account and token, and that this host reaches the carrier"
    yield from _guard("carrier", lambda: outside.carrier(settings), mend)


def _settings() -> Iterator[Finding]:
    """Name every needed variable that is missing, not just the first; or the malformed one."""
    said = set()
    for name in NEEDED:
        try:
            config.read(name)
        except ConfigError as error:
            if str(error) not in said:
                yield Finding("settings", "fail", str(error), "set it in the environment")
            said.add(str(error))


def _times(settings: Settings) -> Iterator[Finding]:
    # That the lease covers both is checked where the settings are read.
    needed = settings.carrier_timeout + settings.record_margin
    if settings.shutdown_seconds < needed:
        yield Finding(
            "settings",
            "warn",
            f"a worker that is stopped has {settings.shutdown_seconds:g} s, less than one request"
            f" and its answer may take ({needed:g} s): each stop may leave unknown calls",
            "raise OUTBOUND_SHUTDOWN_SECONDS above OUTBOUND_CARRIER_TIMEOUT_SECONDS +"
            " OUTBOUND_RECORD_MARGIN_SECONDS",
        )


def _guard(check: str, examine_it: Callable[[], Iterator[Finding]], mend: str) -> Iterator[Finding]:
    try:
        yield from examine_it()
    except _WRONG as error:
        says = str(getattr(error, "orig", error)).strip() or type(error).__name__
        yield Finding(check, "fail", says.splitlines()[0], mend)
