"""The fleet that the scenarios share, their judge, and the table at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from secrets import randbelow
from typing import Any

import pytest
import requests

from chaos import report
from chaos.fleet import Fleet
from chaos.judge import Judge, Watched
from processes import wait_until

MIX = "answered=0.6,busy=0.2,no_answer=0.1,failed=0.1"
_MADE = Path(tempfile.gettempdir()) / f"outbound-chaos-{os.getpid()}.ndjson"


def pytest_configure() -> None:
    os.environ.setdefault("SEED", str(randbelow(1_000_000)))
    os.environ.setdefault(report.FILE, str(_MADE))


def pytest_report_header() -> str:
    return f"chaos: SEED={os.environ['SEED']} repeats the draws"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = report.read(Path(os.environ[report.FILE]))
    if rows:
        terminalreporter.section(f"what the faults did (SEED={os.environ['SEED']})")
        terminalreporter.write_line(report.table(rows))
        terminalreporter.write_line(report.figures(rows))
    _MADE.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def seed() -> int:
    return int(os.environ["SEED"])


@pytest.fixture
def draw(seed: int, request: pytest.FixtureRequest) -> Random:
    return Random(f"{seed} {request.node.name}")  # noqa: S311 - repeatable, no secret


@pytest.fixture(scope="session")
def the_fleet() -> Iterator[Fleet]:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        fleet = Fleet(Path(directory))
        try:
            fleet.begin("--mix", MIX, "--callback-retry-delay", "0.3")
            yield fleet
        finally:
            fleet.end()


@pytest.fixture
def fleet(the_fleet: Fleet) -> Fleet:
    """The fleet, with every process up and nothing wrong."""
    the_fleet.faults()
    the_fleet.ready()
    return the_fleet


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    outcome = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if call.when == "call" and call.excinfo and fleet:
        outcome.get_result().sections.append(("what everybody did last", fleet.tell()))


@pytest.fixture
def judge(fleet: Fleet) -> Iterator[Judge]:
    judge = Judge(fleet)
    yield judge
    judge.close()


@pytest.fixture
def post(fleet: Fleet, judge: Judge):
    """Post a run of new phones and have it watched."""

    def post(leads: int, pace: float = 40.0, **fields) -> Watched:
        key = fields.pop("key", None) or fleet.account(fleet.engine)
        phones = fleet.phones(leads)
        known = {"calls_per_second": pace, "ring_timeout": 5, "max_call_duration": 10} | fields
        run = _post_until_taken(fleet, key, phones, known)
        most = known.get("retry", {}).get("max_attempts", 1)
        return judge.watch(Watched(key, run, phones, most))

    return post


def _post_until_taken(fleet: Fleet, key: str, phones: list[str], fields: dict[str, Any]) -> str:
    """Ask again with the same Idempotency-Key, as a client whose answer got lost does."""
    body = {
        "leads": [{"lead_id": f"lead-{n}", "phone": p} for n, p in enumerate(phones)],
        "concurrency": 1000,
    }
    headers = {"Idempotency-Key": phones[0]}

    def taken() -> str | None:
        try:
            answer = fleet.ask("POST", "/runs", key, json=body | fields, headers=headers)
        except requests.RequestException:
            return None
        if answer.status_code in (409, 503):
            return None
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == len(phones), answer.text
        return str(answer.json()["run_id"])

    return str(wait_until(taken, 60, "the run to be taken"))
