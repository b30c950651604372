"""`outbound doctor` beside the real processes: what is missing is found, and what came is seen."""

import json
import os
import subprocess
import sys

import pytest

from processes import Process, wait_until

ANOTHER_VERSION = """
import outbound
outbound.__version__ = "0.0.9"
from outbound.cli import main
main(["reconciler"])
"""


@pytest.fixture
def doctor(stack):
    def examine(**environment):
        done = subprocess.run(
            [sys.executable, "-m", "outbound", "doctor", "--json"],
            env={**os.environ, **stack.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = {one["check"]: one for one in json.loads(done.stdout)}
        failed = any(one["result"] == "fail" for one in found.values())
        assert done.returncode == int(failed), done.stderr
        return found

    return examine


def test_a_wrong_token_is_found_and_the_right_one_is_taken(world, doctor):
    world.start_carrier()
    found = doctor(TWILIO_AUTH_TOKEN="wrong")["carrier"]
    assert found["result"] == "fail"
    assert "20003" in found["detail"]
    assert "token" in found["mend"]
    assert doctor()["carrier"]["result"] == "ok"


@pytest.mark.timeout(240)
def test_what_does_not_run_is_found_and_what_runs_is_seen(world, doctor):
    before = doctor()
    missing = ("leader", "worker", "web", "carrier")
    assert {name: before[name]["result"] for name in missing} == dict.fromkeys(missing, "fail")
    assert "outbound reconciler" in before["leader"]["mend"]
    assert "outbound worker" in before["worker"]["mend"]
    assert "outbound web" in before["web"]["mend"]

    (worker,) = world.start(workers=1)
    sound = wait_until(
        lambda: (
            {(now := doctor())[name]["result"] for name in ("leader", "worker")} == {"ok"} and now
        ),
        60,
    )
    assert [one for one in sound.values() if one["result"] == "fail"] == []
    assert sound["worker"]["detail"].startswith("1 worker asked")

    worker.kill()
    wait_until(lambda: doctor()["worker"]["result"] == "fail", 60, "a killed worker is missed")


def test_two_versions_at_once_are_found(stack, doctor):
    stack.start("reconciler").wait_for("leader_elected")
    popen = subprocess.Popen(
        [sys.executable, "-c", ANOTHER_VERSION],
        env={**os.environ, **stack.environment, "OUTBOUND_INSTANCE": "old"},
        stdout=subprocess.DEVNULL,
    )
    stack.started.append(Process("the other version", popen))
    # Who follows only waits, and is not connected; who leads is.
    stack.started[0].terminate()
    found = wait_until(lambda: (now := doctor()["versions"])["result"] == "warn" and now, 60)
    assert f"0.0.9: old:{popen.pid}" in found["detail"]
