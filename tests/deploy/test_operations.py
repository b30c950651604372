"""What docs/operations.md says of the files and the processes is so."""

import re

import pytest

from deploy.shipped import DEPLOY, PROCESSES, connections

ROOT = DEPLOY.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text()


def test_every_file_that_a_way_to_run_it_names_is_there():
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
