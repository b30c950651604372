"""All faults mixed, two or three at a time, while runs are posted, paused, resumed, cancelled.

Each round lasts a minute; SEED repeats its draws. LONG=1 does rounds for HOURS (1).
"""

import os
import sys
import threading
import time
from collections import Counter

import pytest
import requests

from chaos import report
from chaos.faults import FAULTS, LONG, DidNotHappen, libfaketime
from processes import wait_until

ROUND = 60.0
ROUNDS_FOR = 3600 * float(os.environ.get("HOURS", "1")) if LONG else ROUND
HANDS = ("processes", "redis", "postgres", "carrier")
LEFT_OUT = {"everything is restarted in turn", "the carrier stands still"}
"""Too long for a mix; each has a scenario of its own."""
if not libfaketime():
    LEFT_OUT |= {name for name in FAULTS if "clock" in name}


class Hand(threading.Thread):
    """Hurts one part of the fleet again and again, and counts what really happened."""

    def __init__(self, fleet, draw, hand, until):
        super().__init__(name=hand, daemon=True)
        self.fleet, self.draw, self.until = fleet, draw, until
        self.mine = [f for f in FAULTS.values() if f.hand == hand and f.name not in LEFT_OUT]
        self.done, self.missed, self.broken = Counter(), Counter(), []

    def run(self):
        while time.monotonic() < self.until:
            fault = self.draw.choice(self.mine)
            try:
                with fault.act(self.fleet, self.draw):
                    time.sleep(min(fault.seconds, 4))
                self.done[fault.name] += 1
            except (DidNotHappen, AssertionError) as error:
                # Another hand was faster: it met nobody. It is not counted as having happened.
                self.missed[f"{fault.name}: {error}"[:160]] += 1
            except requests.RequestException:
                self.missed[fault.name] += 1
            except BaseException as error:
                self.broken.append(error)
                raise
            time.sleep(self.draw.uniform(0.3, 1.5))


class Operator(threading.Thread):
    """Posts runs, and pauses, resumes and cancels them, as an impatient person does."""

    def __init__(self, fleet, judge, post, draw, until):
        super().__init__(name="operator", daemon=True)
        self.fleet, self.judge, self.post, self.draw, self.until = fleet, judge, post, draw, until
        self.runs, self.broken = [], []
        self.keys = [fleet.account(fleet.engine) for _ in range(4)]

    def run(self):
        try:
            while time.monotonic() < self.until:
                self._one_act()
                time.sleep(self.draw.uniform(0.2, 1.2))
        except BaseException as error:
            self.broken.append(error)
            raise

    def _one_act(self):
        act = self.draw.choice(("post", "post", "pause", "cancel", "reconcile"))
        if act == "post" or not self.runs:
            self._post()
            return
        run = self.draw.choice(self.runs)
        if act == "reconcile":
            self._ask("POST", "/runs/reconcile", run.key)
        elif act == "pause":
            self._quiet(run, "pause")
        elif self.draw.random() < 0.4:
            self._quiet(run, "cancel")

    def _post(self):
        retry = {"max_attempts": 2, "delay": 1, "on": ["busy", "no_answer"]}
        fields = {"retry": retry} if self.draw.random() < 0.5 else {}
        key = self.draw.choice(self.keys)
        self.runs.append(self.post(self.draw.randrange(50, 400), 40.0, key=key, **fields))

    def _quiet(self, run, verb):
        """Pause or cancel; after the 200 no new request may be made, until it is resumed."""
        started = time.monotonic()
        while time.monotonic() < started + 10:
            answer = self._ask("POST", f"/runs/{run.run_id}/{verb}", run.key)
            if answer is None or answer.status_code in (202, 503):
                time.sleep(0.2)
                continue
            if answer.status_code != 200:
                return
            said = time.time()
            time.sleep(self.draw.uniform(0.5, 2))
            until = time.time() if verb == "pause" else float("inf")
            run.quiet.append((said, until))
            break
        if verb == "pause":
            self._resume(run)

    def _resume(self, run):
        def resumed():
            answer = self._ask("POST", f"/runs/{run.run_id}/resume", run.key)
            return answer is not None and answer.status_code in (200, 409)

        wait_until(resumed, 40, "the run to be resumed")

    def _ask(self, method, path, key):
        try:
            answer = self.fleet.ask(method, path, key, json={} if method == "POST" else None)
        except requests.RequestException:
            return None
        if answer.status_code >= 500 and "Retry-After" not in answer.headers:
            self.judge.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer


def a_round(fleet, judge, post, draw):
    until = time.monotonic() + ROUND
    hands = [Hand(fleet, draw_of(draw, name), name, until) for name in HANDS]
    operator = Operator(fleet, judge, post, draw_of(draw, "operator"), until)
    for thread in (*hands, operator):
        thread.start()
    for thread in (*hands, operator):
        thread.join(ROUND + 120)
        assert not thread.is_alive(), f"{thread.name} hangs"
        assert not thread.broken, thread.broken
    fleet.faults()
    fleet.ready()
    for run in operator.runs:
        operator._resume(run)
    judge.settle(150)
    done = sum((hand.done for hand in hands), Counter())
    missed = sum((hand.missed for hand in hands), Counter())
    return done, missed


def draw_of(draw, name):
    return type(draw)(f"{draw.random()} {name}")


@pytest.mark.timeout(ROUNDS_FOR + 600)
def test_no_lead_is_called_twice_or_lost_whatever_happens_at_once(fleet, judge, post, draw):
    ends, faults = time.monotonic() + ROUNDS_FOR, Counter()
    while True:
        done, missed = a_round(fleet, judge, post, draw)
        faults += done
        result = judge.verdict("all mixed", done.total())
        report.add(result)
        sys.stdout.write(f"{time.ctime()} {result}\nmet nobody: {dict(missed)}\n")
        if time.monotonic() > ends:
            break
    sys.stdout.write(f"{faults}\n")
    assert faults.total() >= 20
