"""Each fault by itself, in the middle of a run."""

import time

import pytest

from chaos import report
from chaos.faults import FAULTS, libfaketime
from processes import wait_until


def resume(fleet, run):
    """Do what an operator does once the carrier is well: the breaker tries at once, not in 60 s."""
    for verb in ("pause", "resume"):
        answer = fleet.ask("POST", f"/runs/{run.run_id}/{verb}", run.key)
        assert answer.status_code in (200, 202, 409), answer.text


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", FAULTS)
def test_no_lead_is_called_twice_or_lost_when(name, fleet, judge, post, draw):
    fault = FAULTS[name]
    if "clock" in name and not libfaketime():
        pytest.skip("no libfaketime on this machine (PyPI's libfaketime, Debian's faketime)")
    run = post(fault.calls)
    wait_until(lambda: fleet.summary()["calls"] and run.last.get("attempts", 0) > 10, 60)
    with fault.act(fleet, draw):
        # Not waiting for a condition: this is how long the fault lasts.
        time.sleep(fault.seconds)
    fleet.ready()
    if run.last["last_error"]:
        resume(fleet, run)
    judge.settle()
    report.add(judge.verdict(name, 1))
