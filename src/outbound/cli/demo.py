"""`outbound demo`: the whole system at work, a worker killed half-way, and the carrier as judge."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import click
import requests
from rich.console import Console
from sqlalchemy import Engine, text

from outbound import accounts, config, db
from outbound.cli.client import Client
from outbound.cli.errors import CommandError
from outbound.cli.supervisor import Child, Supervisor, free_port
from outbound.cli.watching import summary

CALLER_ID = "+97231234567"
SECONDS = 100
# Short enough that what the killed worker was sending is told in seconds.
LEASE = {
    "OUTBOUND_CARRIER_TIMEOUT_SECONDS": "2",
    "OUTBOUND_RECORD_MARGIN_SECONDS": "1",
    "OUTBOUND_LEASE_SECONDS": "4",
}
_HAS_SCHEMA = text("SELECT to_regclass('runs') IS NOT NULL")
_OPEN_RUNS = text("SELECT count(*) FROM runs WHERE ended_at IS NULL")
PHONES = ("--ring-seconds", "0.4", "--talk-seconds", "0.6", "--spread", "0.5")
# Answers of the carrier take this long, so that the killed worker has some on the wire.
FAULTS = {"accept_delay_seconds": 0.05, "create_delay_seconds": 0.05}


@click.command()
@click.option("--leads", type=click.IntRange(10, 2000), default=200, show_default=True)
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Default: a new one.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def demo(leads: int, directory: Path | None, *, as_json: bool) -> None:
    """Call 200 leads, kill a worker half-way, and compare with the carrier's ledger."""
    directory = directory or _own_directory()
    supervisor = Supervisor(directory.resolve(), config.read(), free_port(), logs_to_files=True)
    play = Play(supervisor, Console(stderr=as_json), leads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, play.end_early)
    try:
        play.begin()
        play.go_on()
        result = play.compare()
    finally:
        supervisor.stop()
    play.show(result, as_json=as_json)
    if not result["true"]:
        raise CommandError(f"the comparison failed; logs are in {directory}")


def _own_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="outbound-demo-"))
    # For root, PostgreSQL runs as nobody, who must get through to its data.
    directory.chmod(0o755)
    return directory


class Play:
    """One performance of the demonstration."""

    def __init__(self, supervisor: Supervisor, console: Console, leads: int) -> None:
        self._system = supervisor
        self._console = console
        self._leads = leads
        self._client: Client
        self._run = ""
        self._said = ""
        self._earlier: set[str] = set()
        self._ended_by: int | None = None
        self._deadline = time.monotonic() + SECONDS

    def end_early(self, number: int, _frame: FrameType | None) -> None:
        """End the performance, as the handler of a signal; the exit code names the signal."""
        # Python drops an exception that meets it in a destructor or a weak reference's callback
        # (every import runs some): the exit is noted, and made again at the next look.
        self._ended_by = number
        self._exit_if_ended()

    def _exit_if_ended(self) -> None:
        if self._ended_by is not None:
            sys.exit(128 + self._ended_by)

    def begin(self) -> None:
        """Start everything and post the run."""
        self._say("starting PostgreSQL, Redis, a carrier, web, two workers and a reconciler")
        self._system.environment |= LEASE
        self._system.start_servers()
        self._refuse_real_work()
        self._system.run("migrate")
        self._system.start_carrier(*PHONES, "--faults", json.dumps(FAULTS))
        self._earlier = {row["call_sid"] for row in self._ledger()}
        self._system.start_web()
        self._workers = [self._system.start("worker"), self._system.start("worker")]
        self._system.start("reconciler")
        key = self._make_account()
        self._client = Client(f"http://127.0.0.1:{self._system.port}", key)
        self._run = self._client.post("/runs", self._body())["run_id"]
        self._say(f"posted a run of {self._leads} leads")

    def _refuse_real_work(self) -> None:
        # A worker claims whatever is due: real leads would be "called" at the emulator.
        with self._engine().connect() as connection:
            has_schema = connection.execute(_HAS_SCHEMA).scalar_one()
            if has_schema and connection.execute(_OPEN_RUNS).scalar_one():
                raise CommandError(self._why_not())

    def _why_not(self) -> str:
        if self._system.settings.database_url:
            where, instead = "of DATABASE_URL", "unset DATABASE_URL or use an empty database"
        else:
            where, instead = f"in {self._system.directory}", "give another --dir"
        return (
            f"the database {where} has runs that are not over, which the demo's workers would"
            f" take; {instead}"
        )

    def _engine(self) -> Engine:
        url = self._system.environment.get("DATABASE_URL") or self._system.settings.database_url
        return db.connect(config.read(environ={"DATABASE_URL": str(url)}), pool=1)

    def _make_account(self) -> str:
        with self._engine().begin() as connection:
            account = accounts.create(
                connection,
                f"demo {uuid4().hex[:8]}",
                caller_ids=[CALLER_ID],
                max_live_calls=40,
                calls_per_second=60.0,
                min_seconds_between_calls=0,
            )
            return accounts.create_key(connection, account, "admin")[1]

    def _body(self) -> dict[str, Any]:
        return {
            "name": "Demonstration",
            "twiml": "<Response><Say>Hello {{name}}</Say></Response>",
            "leads": [
                {"lead_id": f"lead-{n}", "phone": phone(n), "variables": {"name": f"No. {n}"}}
                for n in range(self._leads)
            ],
            "concurrency": 30,
            "calls_per_second": 40.0,
            "ring_timeout": 10,
            "max_call_duration": 30,
            "retry": {"max_attempts": 2, "delay": 1, "on": ["busy"]},
        }

    def go_on(self) -> None:
        """Kill a worker half-way, then wait until every lead has its end."""
        self._wait(lambda body: body["queued"] <= self._leads / 2)
        victim: Child = self._workers[0]
        victim.kill()
        self._system.children.remove(victim)
        self._say(f"killed {victim.name} with SIGKILL, and started another one")
        self._system.start("worker")
        self._wait(lambda body: body["queued"] + body["in_progress"] == 0)
        while self._progress()["unknown"]:
            # What the carrier has, it tells: by callback or when it is asked.
            self._resolve_what_the_ledger_has_not()
            self._wait(lambda body: body["queued"] + body["in_progress"] == 0)

    def _wait(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        while not condition(body := self._progress()):
            if time.monotonic() > self._deadline:
                raise CommandError(f"not done in {SECONDS} s: {summary(body)}")
            time.sleep(0.2)

    def _progress(self) -> dict[str, Any]:
        self._exit_if_ended()
        body: dict[str, Any] = self._client.get(f"/runs/{self._run}")
        line = summary(body)
        if line != self._said:
            self._console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False)
            self._said = line
        return body

    def _resolve_what_the_ledger_has_not(self) -> None:
        known = {row["attempt_id"] for row in self._ledger()}
        lost = [
            call
            for call in self._calls("unknown")
            if call["attempts"][-1]["attempt_id"] not in known
        ]
        note = "the carrier's ledger has no call of this attempt"
        for call in lost:
            self._say(f"{call['lead_id']} is unknown: {note}; an operator decides: not placed")
            body = {"decision": "not_placed", "force": True, "note": note}
            path = f"/runs/{self._run}/calls/{call['call_id']}/resolve"
            self._client.post(path, body)
        if not lost:
            self._wait_a_moment()

    def _wait_a_moment(self) -> None:
        if time.monotonic() > self._deadline:
            raise CommandError("an unknown that the carrier has was not settled in time")
        time.sleep(0.5)

    def _ledger(self) -> list[dict[str, Any]]:
        """Read what the carrier has of this performance; --dir may hold an earlier one's."""
        rows = requests.get(f"{self._system.carrier_url}/_emulator/ledger", timeout=10).json()
        return [row for row in rows if row["call_sid"] not in self._earlier]

    def _calls(self, state: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            path = f"/runs/{self._run}/calls"
            page = self._client.get(path, state=state, limit=500, cursor=cursor)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def compare(self) -> dict[str, Any]:
        """Hold our record against the carrier's ledger; the ledger is the judge."""
        run, calls, ledger = self._progress(), self._calls(), self._ledger()
        of_attempt = Counter(row["attempt_id"] for row in ledger)
        counted = [a for call in calls for a in call["attempts"] if a["state"] != "released"]
        ours = {attempt["attempt_id"]: attempt for attempt in counted}
        result = {
            "leads": self._leads,
            "calls": len(ledger),
            "duplicates": sum(n - 1 for n in of_attempt.values()) + _overlaps(ledger),
            "lost": sum(_is_lost(call, of_attempt) for call in calls) + self._leads - len(calls),
            "unknown": run["unknown"],
            "wrong_outcomes": sum(_is_wrong(row, ours) for row in ledger),
            "strangers": len(of_attempt.keys() - ours.keys()),
            "outcomes": run["outcomes"],
        }
        bad = ("duplicates", "lost", "unknown", "wrong_outcomes", "strangers")
        result["true"] = run["status"] == "completed" and not any(result[name] for name in bad)
        return result

    def show(self, result: dict[str, Any], *, as_json: bool) -> None:
        """Print the comparison, and what to try next."""
        if as_json:
            click.echo(json.dumps(result))
            return
        self._say("our record against the carrier's ledger")
        for name in ("leads", "calls", "duplicates", "lost", "unknown", "wrong_outcomes"):
            self._console.print(f"  {name.replace('_', ' '):<16}{result[name]:>6}", highlight=False)
        outcomes = "  ".join(f"{name} {count}" for name, count in result["outcomes"].items())
        self._console.print(f"  {'outcomes':<16}  {outcomes}", highlight=False)
        self._say(f"logs: {self._system.directory}")
        self._say("next: `outbound up`, then the README's first run by hand; docs/protocol.md")

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]==>[/bold] {text}", highlight=False, soft_wrap=True)


def phone(n: int) -> str:
    """Make the n-th lead's number; its last two digits say how it ends (emulator's table)."""
    # Mostly answered; one in ten busy (01), no answer (02) or failed (03).
    ending = (1, 2, 3)[n // 10 % 3] if n % 10 == 0 else 10 + n % 90
    return f"+1202{200 + n // 100:03d}{n % 100:02d}{ending:02d}"


def _is_lost(call: dict[str, Any], ledger: Counter[str]) -> bool:
    """Tell whether a call has no end, or one that the carrier never had a part in."""
    tries = [attempt for attempt in call["attempts"] if attempt["state"] != "released"]
    return call["outcome"] is None or not tries or tries[-1]["attempt_id"] not in ledger


def _overlaps(ledger: list[dict[str, Any]]) -> int:
    """Count calls that began while an earlier one to the same phone was live."""
    last_end: dict[str, str] = {}
    count = 0
    for row in sorted(ledger, key=lambda row: str(row["accepted_at"])):
        count += last_end.get(row["to"], "") > row["accepted_at"]
        last_end[row["to"]] = row["ended_at"] or "9999"
    return count


_OUTCOME_OF = {"completed": "answered", "no-answer": "no_answer", "canceled": "cancelled"}


def _is_wrong(row: dict[str, Any], ours: dict[str, dict[str, Any]]) -> bool:
    attempt = ours.get(row["attempt_id"])
    outcome = _OUTCOME_OF.get(row["status"], row["status"])
    return attempt is not None and attempt["outcome"] != outcome
