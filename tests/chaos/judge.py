"""The judge: the carrier's ledger and a reader of the API. Our tables have no say.

It reads every watched run ten times a second while the faults happen, and holds each answer to
what must be true of it at any moment; at the end it holds each lead to what the carrier did.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import requests

from chaos.fleet import Fleet
from chaos.report import Result
from processes import wait_until

PARTS = ("queued", "in_progress", "completed", "failed", "cancelled", "unknown")
FINAL = ("completed", "failed", "cancelled", "unknown")
EVERY = 0.1
LOOK_UP_SECONDS = 75
"""Until a silent call was looked up: ring_timeout 5 + 15 s, once more after 60 s if need be."""
OUTCOMES = {
    "completed": "answered",
    "busy": "busy",
    "no-answer": "no_answer",
    "failed": "failed",
    "canceled": "cancelled",
}


@dataclass
class Watched:
    """One run under judgement.

    Attributes:
        quiet: from when (a 200 to pause or cancel) to when no new request may be sent.
        last: what GET run answered last, and `asked` when it was asked for that.
    """

    key: str
    run_id: str
    phones: list[str]
    max_attempts: int = 1
    quiet: list[tuple[float, float]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    asked: float = 0.0


class Judge:
    """Watches runs, and says at the end what became of them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._watched: list[Watched] = []
        self._open = True
        self.polls = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._watch, name="judge", daemon=True)
        self._thread.start()

    def watch(self, watched: Watched) -> Watched:
        self._watched.append(watched)
        return watched

    def close(self) -> None:
        self._open = False
        self._thread.join(30)

    def _watch(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # pytest changes the environment under other threads' hands
            while self._open:
                for one in list(self._watched):
                    self._read(session, one)
                time.sleep(EVERY)

    def _read(self, session: requests.Session, one: Watched) -> None:
        url = f"{self._fleet.base}/api/outbound/runs/{one.run_id}"
        headers = {"Authorization": f"Bearer {one.key}"}
        asked = time.monotonic()
        try:
            answer = session.get(url, headers=headers, timeout=15)
        except requests.RequestException:
            return  # killed under our hands: nothing was claimed to be true
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            return
        if answer.status_code != 200:
            self.wrong.append(f"GET run answered {answer.status_code}: {answer.text[:200]}")
            return
        self.polls += 1
        body = answer.json()
        if sum(body[part] for part in PARTS) != len(one.phones) or body["total_leads"] != len(
            one.phones
        ):
            self.wrong.append(f"counters do not add up: {body}")
        if any(body[part] < 0 for part in PARTS):
            self.wrong.append(f"a counter is negative: {body}")
        # Not in_progress: after the end a late "ringing" may still be told of.
        if body["ended_at"] and body["queued"]:
            self.wrong.append(f"ended with work left: {body}")
        one.last, one.asked = body, asked

    def settle(self, seconds: float = LOOK_UP_SECONDS) -> None:
        """Wait until every watched run stands still, and the carrier was heard about unknowns."""
        since = time.monotonic()  # what was seen before may be of a pause that is over

        def still() -> bool:
            return all(one.asked > since and not self._moving(one.last) for one in self._watched)

        def told() -> bool:
            has = {row["attempt_id"] for row in self._fleet.ledger() if row["ended_at"]}
            return still() and not any(
                call["attempts"][-1]["attempt_id"] in has
                for one in self._watched
                if one.last["unknown"]
                for call in self.calls(one, "state=unknown")
            )

        wait_until(still, seconds, f"still moving: {[one.last for one in self._watched]}")
        wait_until(told, seconds, "an unknown that the carrier has is not resolved")

    @staticmethod
    def _moving(body: dict[str, Any]) -> int:
        if body["status"] in ("paused", "scheduled"):
            return int(body["in_progress"])
        return int(body["queued"] + body["in_progress"])

    def calls(self, one: Watched, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while cursor is not None:
            page = self._page(one, f"limit=500&{query}" + (f"&cursor={cursor}" if cursor else ""))
            found += page["items"]
            cursor = page["next_cursor"]
        return found

    def _page(self, one: Watched, query: str) -> dict[str, Any]:
        def ask() -> dict[str, Any] | None:
            try:
                answer = self._fleet.ask("GET", f"/runs/{one.run_id}/calls?{query}", one.key)
            except requests.RequestException:
                return None
            return dict(answer.json()) if answer.status_code == 200 else None

        return dict(wait_until(ask, 20, "a page of calls"))

    def verdict(self, fault: str, times: int) -> Result:
        """Judge everything watched so far, and forget it.

        Raises:
            AssertionError: something was untrue at some moment, or is at the end.
        """
        watched, self._watched = self._watched, []
        # Before the ledger, which has then whatever they tell of.
        last_calls = [{call["phone"]: call for call in self._last_calls(one)} for one in watched]
        ledger = by_phone(self._fleet.ledger(), {p for one in watched for p in one.phones})
        duplicates, lost, unknown, why = 0, 0, 0, Counter[str]()
        for one, calls in zip(watched, last_calls, strict=True):
            lost += len(set(one.phones) - calls.keys())
            for phone in one.phones:
                rows = ledger.get(phone, [])
                duplicates += self._duplicates(rows, one.max_attempts)
                call = calls.get(phone)
                if call is None:
                    continue
                if call["state"] == "unknown":
                    unknown += 1
                    why[_why(call, rows)] += 1
                elif call["state"] not in FINAL and one.last["status"] != "paused":
                    lost += 1
                self._hold(one, call, rows)
        text = ", ".join(f"{n} {reason}" for reason, n in why.most_common())
        result = Result(
            fault,
            times,
            sum(map(len, ledger.values())),
            duplicates,
            lost,
            unknown,
            text,
            stall(ledger),
        )
        assert not self.wrong, self.wrong[:5]
        assert (duplicates, lost) == (0, 0), result
        return result

    def _last_calls(self, one: Watched) -> list[dict[str, Any]]:
        """List the calls once none is on its way any more, or as they are after 20 s."""
        deadline = time.monotonic() + 20
        while True:
            calls = self.calls(one)
            over = all(call["state"] in FINAL for call in calls)
            if over or one.last["status"] == "paused" or time.monotonic() > deadline:
                return calls
            time.sleep(EVERY)

    @staticmethod
    def _duplicates(rows: list[dict[str, Any]], most: int) -> int:
        attempts = Counter(row["attempt_id"] for row in rows)
        twice = sum(n - 1 for n in attempts.values())
        times = sorted((row["accepted_at"], row["ended_at"] or "9") for row in rows)
        at_once = sum(a[1] > b[0] for a, b in itertools.pairwise(times))
        return max(twice, at_once, len(rows) - most, 0)

    def _hold(self, one: Watched, call: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """Hold what the API says of one call to what the carrier did."""
        known = {attempt["carrier_call_id"] for attempt in call["attempts"]}
        strangers = [row["call_sid"] for row in rows if row["call_sid"] not in known]
        if strangers and call["state"] != "unknown":
            self.wrong.append(f"the carrier has {strangers}, we do not: {call}")
        last = rows[-1] if rows else None
        if call["outcome"] in ("answered", "busy", "no_answer") and (
            last is None or OUTCOMES.get(last["status"]) != call["outcome"]
        ):
            self.wrong.append(f"outcome {call['outcome']}, the carrier says {last}: {call}")
        for row in rows:
            at = datetime.fromisoformat(row["accepted_at"]).timestamp()
            claimed = {
                a["attempt_id"]: datetime.fromisoformat(a["claimed_at"]).timestamp()
                for a in call["attempts"]
            }.get(row["attempt_id"], at)
            # One that was written before may still arrive; none may be made.
            if any(start < claimed and at < end for start, end in one.quiet if start < at):
                self.wrong.append(f"dialled after a pause or cancel was answered 200: {row}")


def by_phone(ledger: list[dict[str, Any]], phones: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in ledger:
        if row["to"] in phones:
            found[row["to"]].append(row)
    return found


def stall(ledger: dict[str, list[dict[str, Any]]]) -> float:
    """Longest time between two calls that the carrier took, in seconds."""
    times = sorted(
        datetime.fromisoformat(row["accepted_at"]).timestamp()
        for rows in ledger.values()
        for row in rows
    )
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def _why(call: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    error = next((a["error"] for a in reversed(call["attempts"]) if a["error"]), None) or "?"
    has = {row["attempt_id"] for row in rows}
    took = "has it" if call["attempts"][-1]["attempt_id"] in has else "never got it"
    return f"{error} (the carrier {took})"
