"""The disk under PostgreSQL is full, in the middle of a run."""

import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from chaos import report
from chaos.conftest import MIX
from chaos.faults import happened
from chaos.fleet import Fleet
from processes import wait_until

MEGABYTES = 400


@pytest.fixture
def small_volume():
    """A file system of its own, that can be full without harm to this machine."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=755", "tmpfs", directory]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a volume to fill needs root and the right to mount")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture(scope="session")
def the_fleet():
    """Not the one that the others share: this one's disk is its own."""


@pytest.fixture
def fleet(small_volume, tmp_path):
    fleet = Fleet(tmp_path, database=small_volume)
    try:
        fleet.begin("--mix", MIX, "--callback-retry-delay", "0.3")
        yield fleet
    finally:
        fleet.end()


def fill(volume):
    with (volume / "filler").open("wb", buffering=0) as file, suppress(OSError):
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return volume / "filler"


@pytest.mark.timeout(240)
def test_no_lead_is_called_twice_or_lost_when_the_disk_of_postgresql_is_full(
    fleet, judge, post, small_volume
):
    run = post(200)
    wait_until(lambda: run.last.get("attempts", 0) > 10, 30)
    filler = fill(small_volume)
    body = {"leads": [{"lead_id": str(n), "phone": p} for n, p in enumerate(fleet.phones(20_000))]}

    def refused():
        answer = fleet.ask("POST", "/runs", run.key, json=body | {"allow_duplicate": True})
        return answer.status_code != 202 and [answer]

    (answer,) = wait_until(refused, 60, "a run that finds no room")
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True), answer.text
    filler.unlink()
    if not fleet.postgres.running:
        fleet.kept(fleet.postgres.start)
    happened(
        "No space left" in (small_volume / "postgres/postgres.log").read_text(), "no full disk"
    )
    fleet.ready()
    judge.settle()
    report.add(judge.verdict("PostgreSQL's disk is full", 1))
