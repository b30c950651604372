"""The systemd units, read by systemd itself."""

import subprocess
import sys

import pytest

from deploy.shipped import COMMANDS, DEPLOY, environment_of, grace, is_known, program

UNITS = sorted((DEPLOY / "systemd").glob("*.service"), key=lambda path: path.name)
SERVICES = [unit for unit in UNITS if "migrate" not in unit.name]


def complaints(text, directory, name):
    """What systemd says of a unit: it ends with 0 after unknown keys and values, too."""
    analyze = program("systemd-analyze", "systemd")
    # A program that exists; where ours is installed is not systemd's to judge.
    (directory / name).write_text(text.replace("/opt/outbound/bin/outbound", sys.executable))
    done = subprocess.run(
        [analyze, "verify", str(directory / name)], capture_output=True, text=True, timeout=60
    )
    said = (done.stdout + done.stderr).splitlines()
    # Of units of the machine that ours depend on, it may say what it likes.
    return [line for line in said if "outbound" in line] or ["failed"] * done.returncode


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_about_a_unit(unit, tmp_path):
    assert complaints(unit.read_text(), tmp_path, unit.name) == []


@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        ("KillMode=mixed", "KilMode=mixed"),
        ("KillMode=mixed", "KillMode=some"),
        ("TimeoutStopSec=30", "TimeoutStopSec=half a minute"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@systemservice"),
        ("ExecStart=/opt/outbound/bin/outbound", "ExecStart=outbound-that-is-not-there"),
    ],
)
def test_a_mistake_in_a_unit_is_seen(ours, wrong, tmp_path):
    unit = DEPLOY / "systemd/outbound-worker@.service"
    assert ours in unit.read_text()
    assert complaints(unit.read_text().replace(ours, wrong), tmp_path, unit.name)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_exposes_little(unit, tmp_path):
    analyze = program("systemd-analyze", "systemd")
    judge = [analyze, "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(judge, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def values(unit, key):
    return [
        line.partition("=")[2]
        for line in unit.read_text().splitlines()
        if line.startswith(f"{key}=")
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_exists_with_the_documented_environment(unit):
    (start,) = values(unit, "ExecStart")
    command = start.removeprefix("/opt/outbound/bin/outbound ")
    assert command in COMMANDS
    assert unit.name.startswith(f"outbound-{command}")
    assert "/etc/outbound/outbound.env" in values(unit, "EnvironmentFile")
    assert values(unit, "User") == ["outbound"]


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_stopped_as_it_expects_and_given_the_time_it_takes(unit):
    command = values(unit, "ExecStart")[0].split()[1]
    assert values(unit, "KillMode") == ["mixed"], "else systemd signals gunicorn's workers as well"
    assert float(values(unit, "TimeoutStopSec")[0]) >= grace(command)
    assert values(unit, "Restart") == ["always"]


def test_the_example_environment_is_one_that_the_processes_take():
    example = environment_of(DEPLOY / "systemd/outbound.env.example")
    is_known(example)
    # A file beats a unit's own Environment=, so a PORT in it would be every instance's.
    assert "PORT" not in example
    for unit in SERVICES:
        command = values(unit, "ExecStart")[0].split()[1]
        given = float(values(unit, "TimeoutStopSec")[0])
        assert given >= grace(command, float(example["OUTBOUND_SHUTDOWN_SECONDS"]))
