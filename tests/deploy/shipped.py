"""What `deploy/` ships, and what of our own code it has to fit."""

import re
import shutil
from pathlib import Path

import pytest

from outbound import __version__, config
from outbound.api import server
from outbound.api.app import ROUTES, UNDESCRIBED
from outbound.cli import COMMANDS

DEPLOY = Path(__file__).parents[2] / "deploy"
IMAGE = f"outbound:{__version__}"
VARIABLES = {name: parse for name, parse, _ in config.VARIABLES.values()}
PATHS = {route.path for route in [*ROUTES, *UNDESCRIBED] if route.method == "GET"}
PROCESSES = {"web", "worker", "reconciler"}
assert set(COMMANDS) >= PROCESSES | {"migrate"}

TO_WRITE = 5
"""Seconds that a process gets beyond its own time, to write what is left and to end."""


def grace(command, shutdown_seconds=None):
    """Seconds that a process must at least be given between SIGTERM and SIGKILL."""
    if command == "web":
        return server.GRACEFUL_SECONDS + TO_WRITE
    return (shutdown_seconds or config.Settings().shutdown_seconds) + TO_WRITE


def connections(command):
    """Connections to PostgreSQL that one `outbound COMMAND` opens at most."""
    defaults = config.Settings()
    return defaults.db_pool * (defaults.web_workers if command == "web" else 1)


def program(name, package):
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")
    return found or pytest.skip(f"no {name} on this machine (Debian's package {package})")


def environment_of(file):
    """Read NAME=value lines."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def is_known(environment):
    """Hold variables to what config.py knows: a misspelt one would be ignored without a word."""
    unknown = set(environment) - set(VARIABLES)
    assert not unknown, f"no variable of ours: {unknown}"
    for name, value in environment.items():
        VARIABLES[name](re.sub(r"\$\{\w+:\?\}", "x", str(value)))
