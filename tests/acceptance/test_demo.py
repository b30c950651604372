"""`outbound demo`: the main job on real servers, and a judge that is not easily pleased."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import phonenumbers
import pytest
from rich.console import Console

from factories import make_account, make_run, run_of
from factories import phone as number
from outbound import config
from outbound.carriers.emulator.behaviours import ENDINGS, REFUSED_ENDINGS
from outbound.cli.demo import Play, phone
from outbound.cli.supervisor import Supervisor
from processes import wait_until

OURS = ("DATABASE_URL", "REDIS_URL", "PUBLIC_BASE_URL", "TWILIO_", "OUTBOUND_", "PORT")


def start_demo(directory, *arguments, **environment):
    bare = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return subprocess.Popen(
        [sys.executable, "-m", "outbound", "demo", "--dir", str(directory), *arguments],
        env=bare | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_demo(directory, *arguments, **environment):
    with start_demo(directory, *arguments, **environment) as process:
        try:
            out, err = process.communicate(timeout=110)
        finally:
            process.kill()
    return process.returncode, out, err


def descendants(pid):
    direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*map(int, direct), *(below for child in direct for below in descendants(child))]


def is_living(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def directory():
    # Not tmp_path: root's PostgreSQL runs as nobody, who must reach it.
    with tempfile.TemporaryDirectory(prefix="outbound-test-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def test_the_users_own_carrier_and_address_take_no_part(directory):
    code, out, err = run_demo(
        directory,
        "--json",
        "--leads=20",
        OUTBOUND_CARRIER="somebody.elses:carrier",
        PUBLIC_BASE_URL="https://outbound.example.com",
        TWILIO_API_BASE_URL="https://api.twilio.example",
    )
    assert code == 0, err
    assert json.loads(out)["true"] is True


def test_a_database_with_work_in_it_is_left_alone(directory, engine, database_url):
    run = make_run(engine, make_account(engine), [number(1)])
    before = run_of(engine, run)
    code, _, err = run_demo(directory, "--leads=10", DATABASE_URL=database_url)
    assert run_of(engine, run) == before
    assert code == 1
    assert "error: the database of DATABASE_URL has runs that are not over" in err


def test_ended_early_it_leaves_nothing_running(directory):
    with start_demo(directory, "--leads=500") as process:
        wait_until((directory / "worker-3.log").exists, 60, "two workers")
        children = descendants(process.pid)
        assert len(children) > 6
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    wait_until(lambda: not any(map(is_living, children)), 10, "the children's end")


def test_its_numbers_are_distinct_valid_and_end_in_many_ways():
    numbers = [phone(n) for n in range(2000)]
    assert len(set(numbers)) == 2000
    assert all(phonenumbers.is_valid_number(phonenumbers.parse(one)) for one in numbers)
    endings = {one[-2:] for one in numbers[:200]}
    assert {"01", "02", "03"} <= endings
    stuck = {ending for ending, one in ENDINGS.items() if one.stuck_in or not one.calls_back}
    assert not endings & (stuck | set(REFUSED_ENDINGS))


# The judge, with records that are wrong on purpose.


def call(n, outcome="answered", attempts=None):
    attempt = {"attempt_id": f"a{n}", "state": "ended", "outcome": outcome}
    known = [attempt] if attempts is None else attempts
    return {"call_id": str(n), "lead_id": f"lead-{n}", "outcome": outcome, "attempts": known}


def row(n, sid="", status="completed", second=0, to=None):
    at = f"2026-01-01T00:00:{second:02d}.000Z"
    end = f"2026-01-01T00:00:{second + 5:02d}.000Z"
    return {
        "call_sid": sid or f"CA{n}",
        "attempt_id": f"a{n}",
        "to": to or f"+1{n}",
        "status": status,
        "accepted_at": at,
        "ended_at": end,
    }


@pytest.fixture
def judged(tmp_path, monkeypatch):
    def judge(calls, ledger, leads=2, unknown=0):
        play = Play(Supervisor(tmp_path, config.read(environ={}), 1), Console(quiet=True), leads)
        run = {"status": "completed", "unknown": unknown, "outcomes": {}}
        monkeypatch.setattr(play, "_progress", lambda: run)
        monkeypatch.setattr(play, "_calls", lambda: calls)
        monkeypatch.setattr(play, "_ledger", lambda: ledger)
        return play.compare()

    return judge


def test_two_records_that_agree_are_true(judged):
    assert judged([call(1), call(2)], [row(1), row(2)])["true"] is True


def test_a_retry_after_the_first_call_ended_is_no_duplicate(judged):
    tries = [{"attempt_id": f"a{n}", "state": "ended", "outcome": "busy"} for n in (1, 3)]
    ledger = [row(1, status="busy"), row(3, status="busy", second=10, to="+11"), row(2)]
    assert judged([call(1, "busy", tries), call(2)], ledger)["true"] is True


@pytest.mark.parametrize(
    ("calls", "ledger", "wrong"),
    [
        pytest.param(
            [call(1), call(2)],
            [row(1), row(2), row(2, sid="CA9", second=20)],
            "duplicates",
            id="one attempt, two calls",
        ),
        pytest.param(
            [call(1), call(2)],
            [row(1), row(2, to="+11", second=3)],
            "duplicates",
            id="two calls to one phone at once",
        ),
        pytest.param([call(1), call(2)], [row(1)], "lost", id="said to be done, never called"),
        pytest.param(
            [call(1), call(2, attempts=[])], [row(1)], "lost", id="done without an attempt"
        ),
        pytest.param(
            [call(1), call(2, None)], [row(1), row(2)], "lost", id="a call without an end"
        ),
        pytest.param([call(1)], [row(1)], "lost", id="a lead without a call"),
        pytest.param(
            [call(1), call(2, "busy")], [row(1), row(2)], "wrong_outcomes", id="another outcome"
        ),
        pytest.param(
            [call(1), call(2)], [row(1), row(2), row(7)], "strangers", id="a call that is not ours"
        ),
    ],
)
def test_every_lie_is_found(judged, calls, ledger, wrong):
    result = judged(calls, ledger)
    assert result[wrong] > 0
    assert result["true"] is False


def test_an_unknown_that_is_left_is_not_true(judged):
    assert judged([call(1), call(2)], [row(1), row(2)], unknown=1)["true"] is False
