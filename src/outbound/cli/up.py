"""`outbound up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from pathlib import Path

import click

from outbound import config, signals
from outbound.cli.errors import CommandError
from outbound.cli.supervisor import Supervisor, is_free

WORKERS = 2
WATCH_SECONDS = 0.5
_SHARED = (
    "DATABASE_URL",
    "REDIS_URL",
    "OUTBOUND_CARRIER",
    "PUBLIC_BASE_URL",
    "PORT",
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "TWILIO_API_BASE_URL",
    "OUTBOUND_PRIVATE_ANSWER_URLS",
)


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=Path(".outbound"),
    show_default=True,
    help="For the embedded servers' data and the carrier's ledger.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Of the API; default PORT, or 8000.")
@click.option("--emulator", is_flag=True, help="Call nobody: the emulator is the carrier.")
def up(directory: Path, port: int | None, *, emulator: bool) -> None:
    """Start everything; Ctrl-C stops it.

    PostgreSQL, Redis and the carrier are embedded ones where DATABASE_URL, REDIS_URL and
    TWILIO_ACCOUNT_SID are not set. With a database of yours the emulator must be asked for.

    Exit code: 0 after Ctrl-C, 1 if anything could not start or ended by itself.
    """
    settings = config.read()
    if settings.database_url and _has_no_carrier(settings) and not emulator:
        # Its leads may be real people, who would be marked as called and never are.
        raise CommandError(
            "DATABASE_URL is set and TWILIO_ACCOUNT_SID is not: set the carrier's account, or give"
            " --emulator to have the runs of that database called at the emulator"
        )
    port = port or settings.port
    if not is_free(port):
        raise CommandError(f"port {port} is in use; choose another one with --port")
    asked_to_stop = threading.Event()
    signals.on_stop(asked_to_stop.set)
    supervisor = Supervisor(directory.resolve(), settings, port)
    try:
        _start(supervisor, emulator=emulator or _has_no_carrier(settings))
        _tell(supervisor)
        _watch(supervisor, asked_to_stop)
    finally:
        click.echo("stopping", err=True)
        supervisor.stop()


def _start(supervisor: Supervisor, *, emulator: bool) -> None:
    supervisor.start_servers()
    supervisor.run("migrate")
    if emulator:
        supervisor.start_carrier()
    supervisor.start_web()
    for _ in range(WORKERS):
        supervisor.start("worker")
    supervisor.start("reconciler")


def _has_no_carrier(settings: config.Settings) -> bool:
    return settings.carrier == "twilio" and not settings.twilio_account_sid


def _tell(supervisor: Supervisor) -> None:
    path = supervisor.directory / "env"
    lines = [
        f"export {name}={shlex.quote(supervisor.environment[name])}\n"
        for name in _SHARED
        if name in supervisor.environment
    ]
    path.touch(mode=0o600)
    path.write_text("".join(lines))
    here = f"http://127.0.0.1:{supervisor.port}"
    click.echo(
        f"\nOutbound is up.\n"
        f"  console  {here}/ (sign in with a key)\n"
        f"  API      {here}/api/outbound, to read and to try at {here}/api/docs\n"
        f"In another terminal:\n"
        f"  . {shlex.quote(str(path))}\n"
        f"{_path_to_us()}"
        f"  outbound account create NAME --caller-id +97231234567\n"
        f"  outbound key create --account ACCOUNT_ID --role admin\n"
        f"Ctrl-C stops everything; the data stays in {supervisor.directory}.\n",
        err=True,
    )


def _path_to_us() -> str:
    """Say how the shell finds `outbound`, where it would not."""
    if shutil.which("outbound"):
        return ""
    return f'  PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n'


def _watch(supervisor: Supervisor, asked_to_stop: threading.Event) -> None:
    while not asked_to_stop.wait(WATCH_SECONDS):
        if dead := supervisor.first_dead():
            code = dead.process.returncode
            raise CommandError(f"{dead.name} ended by itself (exit code {code}); all is stopped")
