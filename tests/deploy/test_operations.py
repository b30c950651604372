"""What the documents for operators name must exist."""

import re

import pytest

from deploy.shipped import COMMANDS, DEPLOY, PROCESSES, VARIABLES, connections
from outbound.cli import cli

ROOT = DEPLOY.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text()
TEXT = OPERATIONS + (ROOT / "docs/runbook.md").read_text()


def test_every_command_that_is_named_exists():
    named = set(re.findall(r"(?:^ *|`)outbound ([a-z]+)(?: ([a-z]+))?", TEXT, re.MULTILINE))
    assert {"migrate", "doctor", "audit"} <= {command for command, _ in named}
    for command, below in named:
        assert command in COMMANDS
        group = cli.get_command(None, command)
        if below and hasattr(group, "commands"):
            assert below in group.commands, f"outbound {command} {below}"


def test_every_variable_that_is_named_is_ours():
    named = set(re.findall(r"\b(?:OUTBOUND|TWILIO)_[A-Z_]+\b|\b[A-Z]+_URL\b", TEXT))
    assert named - {"DIRECT_URL"} <= set(VARIABLES)


def test_every_file_that_is_named_is_there():
    for file in re.findall(r"`((?:deploy|tests|docs)/[\w./-]+)`", TEXT):
        assert (ROOT / file).exists(), file
    ways = OPERATIONS.partition("## Ways to run it")[2].partition("**A proxy")[0]
    for cell in re.findall(r"^\| .* \| (.*?) \| .*$", ways, re.MULTILINE):
        for file in re.findall(r"`([\w./-]+)`", cell):
            assert file == "deploy/" or (DEPLOY / file).exists(), file


@pytest.mark.parametrize("command", sorted(PROCESSES))
def test_the_connections_that_a_process_opens_are_those_in_the_table(command):
    (row,) = re.findall(rf"^  \| `{command}` \| .*? \| (.*) \|$", OPERATIONS, re.MULTILINE)
    assert re.findall(r"\d+", row)[-1 if command == "web" else 0] == str(connections(command))


def test_the_procfile_starts_every_process():
    lines = (ROOT / "Procfile").read_text().splitlines()
    assert {line: line.partition(": outbound ")[2] for line in lines} == {
        f"{process}: outbound {process}": process for process in PROCESSES
    }
