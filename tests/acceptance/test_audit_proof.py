"""The audit as an operator's proof: the real processes, the carrier's faults, the exit code."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import requests

from factories import CALLER_ID, do, phone
from processes import wait_until

NOT_HEARD = {"callbacks_lost": 100, "accept_then_timeout": 100, "timeout_seconds": 2}


class Auditor:
    """`outbound audit`, as the operator types it."""

    def __init__(self, world):
        self._environment = {**os.environ, **world.stack.environment}

    def run(self, run, *options):
        return subprocess.run(
            [sys.executable, "-m", "outbound", "audit", run, *options],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def kinds(self, run, *options, code):
        """Count each kind of difference with whether it was repaired."""
        done = self.run(run, *options, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        found = json.loads(done.stdout)["differences"]
        return Counter((one["kind"], one["repaired"]) for one in found)


@pytest.fixture
def auditor(world):
    return Auditor(world)


def dial(world, engine, leads, **faults):
    """Dial a run while nobody repairs anything: without a leader nothing is looked up."""
    world.start_carrier()
    world.start_web()
    worker = world.start_worker()
    world.faults(**faults)
    key = world.account(engine)
    return key, world.post_run(key, [phone(n) for n in range(leads)]), worker


def calls(world, key, run):
    return world.ask("GET", f"/runs/{run}/calls", key).json()["items"]


def placed_attempts(world, key, run):
    made = [attempt for call in calls(world, key, run) for attempt in call["attempts"]]
    return [attempt for attempt in made if attempt["placed_at"]]


def place_behind_our_back(world, to, attempt=None):
    known = world.stack.environment
    sid = known["TWILIO_ACCOUNT_SID"]
    form = {"To": to, "From": CALLER_ID, "Twiml": "<Response/>"}
    if attempt:
        form["StatusCallback"] = f"{world.base}/webhooks/twilio/{attempt}"
        form["StatusCallbackEvent"] = "completed"
    answer = requests.post(
        f"{world.carrier_url}/2010-04-01/Accounts/{sid}/Calls.json",
        auth=(sid, known["TWILIO_AUTH_TOKEN"]),
        data=form,
        timeout=10,
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["sid"]


def test_calls_whose_answers_and_callbacks_were_all_lost_are_found_and_taken_over(
    world, engine, auditor
):
    key, run, worker = dial(world, engine, 12, **NOT_HEARD)
    world.wait_for_run(key, run, unknown=12)
    worker.kill()
    wait_until(lambda: world.summary()["live_now"] == 0)
    assert auditor.kinds(run, code=1) == {("we_do_not_know", False): 12}
    assert world.run(key, run)["unknown"] == 12
    assert auditor.kinds(run, "--repair", code=0) == {("we_do_not_know", True): 12}
    done = world.run(key, run)
    assert (done["status"], done["outcomes"]["answered"]) == ("completed", 12)
    assert auditor.kinds(run, code=0) == {}
    assert world.summary()["calls"] == 12
    (call, *_) = calls(world, key, run)
    shown = world.ask("GET", f"/runs/{run}/calls/{call['call_id']}", key).json()
    assert ("carrier_said_answered", "audit") in {
        (entry["event"], entry["source"]) for entry in shown["timeline"]
    }


def test_each_kind_is_found_and_only_what_is_certain_is_repaired(world, engine, auditor):
    key, run, _ = dial(world, engine, 4, callbacks_lost=100)
    world.wait_for_run(key, run, in_progress=4)
    wait_until(lambda: world.summary()["calls"] == 4 and world.summary()["live_now"] == 0)
    items = calls(world, key, run)
    first, _, third, _ = (call["attempts"][0]["attempt_id"] for call in items)
    double = place_behind_our_back(world, items[0]["phone"], first)
    stranger = place_behind_our_back(world, items[1]["phone"])
    wait_until(lambda: world.summary()["live_now"] == 0)
    do(engine, "UPDATE run_counters SET unknown = unknown + 1")
    lost = "UPDATE attempts SET carrier_call_id = :sid WHERE id = :id"
    do(engine, lost, sid=f"CA{0:032x}", id=third)
    left = {"we_do_not_know": 1, "carrier_does_not_know": 1}
    # The call whose id was lost is a double of its attempt as far as anybody can tell.
    planted = left | {"still_open": 3, "double": 2, "counter_differs": 1}
    assert auditor.kinds(run, code=1) == {(kind, False): n for kind, n in planted.items()}
    assert auditor.kinds(run, "--repair", code=1) == {
        (kind, kind not in left): n for kind, n in planted.items()
    }
    assert auditor.kinds(run, code=1) == {(kind, False): n for kind, n in left.items()}
    shown = auditor.run(run).stdout
    assert stranger in shown
    assert double not in shown
    assert "2 calls too many are known" in shown
    assert world.run(key, run)["outcomes"]["answered"] == 3


def test_a_double_that_still_rings_is_hung_up_by_the_workers(world, engine, auditor):
    world.start("--ring-seconds", "20", workers=1)
    world.faults(callbacks_lost=100)
    key = world.account(engine)
    run = world.post_run(key, [phone(0)])
    (attempt,) = wait_until(lambda: placed_attempts(world, key, run))
    double = place_behind_our_back(world, phone(0), attempt["attempt_id"])
    assert auditor.kinds(run, "--repair", code=0) == {("double", True): 1}
    wait_until(lambda: world.summary()["live_now"] == 1, 10)
    (live,) = [row for row in world.ledger() if row["status"] == "ringing"]
    assert live["call_sid"] != double


def test_an_audit_that_cannot_see_the_carrier_never_ends_green(world, engine, auditor):
    key, run, _ = dial(world, engine, 4)
    world.wait_for_run(key, run)
    assert auditor.kinds(run, code=0) == {}
    world.faults(lookup_empty=100)
    assert auditor.kinds(run, code=1) == {("list_incomplete", False): 4}
    world.faults(lookup_empty=100, lookup_404=100)
    assert auditor.kinds(run, code=1) == {("carrier_does_not_know", False): 4}
    world.faults(lookup_500=100)
    for options in ((), ("--repair",)):
        done = auditor.run(run, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("error: Twilio")
