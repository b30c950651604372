"""The world around the protocol, and what must hold in it whatever happens.

`Ledger` is a carrier whose memory is the arbiter: what it accepted did ring. `Seen` is the whole
database at one moment. The functions below it are the promises, each judged from those two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from psycopg2.extras import RealDictCursor
from sqlalchemy import Connection, DateTime, text

from outbound.carriers.base import (
    Answer,
    CarrierCall,
    CarrierUnavailable,
    PlaceRequest,
    Progress,
    Verdict,
)
from outbound.models import COUNTERS, STATE_COUNTERS, metadata
from outbound.states import CallState, Outcome


class Fate(StrEnum):
    """What becomes of one request to place a call."""

    ACCEPTED = "accepted"
    LOST = "lost"  # accepted, but the answer never came
    VANISHED = "vanished"  # not accepted, and nobody says so
    REFUSED_CALLEE = "refused_callee"
    REFUSED_US = "refused_us"
    TRY_LATER = "try_later"
    NEVER_SENT = "never_sent"


RINGS = (Fate.ACCEPTED, Fate.LOST)
NOT_PROCESSED = (Fate.REFUSED_US, Fate.TRY_LATER, Fate.NEVER_SENT)


@dataclass
class Dialled:
    """A call that really rang: the ledger's own row."""

    sid: str
    attempt_id: UUID
    to: str
    caller_id: str
    created_at: datetime
    words: list[Progress] = field(default_factory=list)
    heard: list[Progress] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return bool(self.words) and self.words[-1].is_final

    def say(self, word: Progress) -> None:
        """Go on in life, if it still can: a call rings, is talked in, ends."""
        order = [Progress.RINGING, Progress.IN_PROGRESS]
        if self.is_over or (word in order and word in self.words):
            return
        if word is Progress.RINGING and Progress.IN_PROGRESS in self.words:
            return
        self.words.append(word)


class Ledger:
    """A carrier whose every answer the model decides, and who remembers what truly happened."""

    name = "twilio"

    def __init__(self, reader: Connection) -> None:
        self.calls: list[Dialled] = []
        self.asked: Counter[UUID] = Counter()
        self.fates: dict[UUID, Fate] = {}
        self.wrong: list[str] = []
        self.fate = Fate.ACCEPTED
        self.worker_id: str | None = None
        self.tells_attempts = True
        self.look_ups = "find"
        self._reader = reader

    def place(self, request: PlaceRequest) -> Answer:
        self.asked[request.attempt_id] += 1
        self.fates[request.attempt_id] = self.fate
        self._check_intent(request)
        if self.fate in RINGS:
            self._ring(request)
        if self.fate in (Fate.LOST, Fate.VANISHED):
            return Answer(Verdict.AMBIGUOUS, error="the answer got lost")
        if self.fate is Fate.ACCEPTED:
            return Answer(Verdict.ACCEPTED, self.calls[-1].sid)
        return Answer(Verdict(str(self.fate)), error=f"the carrier says {self.fate}")

    def _ring(self, request: PlaceRequest) -> None:
        now = self._reader.execute(text("SELECT clock_timestamp()")).scalar_one()
        sid = f"CA{len(self.calls) + 1}"
        self.calls.append(Dialled(sid, request.attempt_id, request.to, request.caller_id, now))

    def _check_intent(self, request: PlaceRequest) -> None:
        row = self._reader.execute(
            text("SELECT state, worker_id FROM attempts WHERE id = :id"), {"id": request.attempt_id}
        ).first()
        if row is None:
            self.wrong.append("the carrier was asked without a committed intent")
        elif self.worker_id and (row.state, row.worker_id) != ("sending", self.worker_id):
            self.wrong.append(f"{self.worker_id} sent an attempt that is {row.state}")

    def of(self, sid: str) -> Dialled | None:
        return next((call for call in self.calls if call.sid == sid), None)

    def _record_of(self, call: Dialled) -> CarrierCall:
        word = call.words[-1] if call.words else Progress.QUEUED
        return CarrierCall(call.sid, word, call.to, call.caller_id, call.created_at)

    def _answer_look_up(self) -> None:
        if self.look_ups == "fail":
            raise CarrierUnavailable("the look-up failed")

    def look_up(self, carrier_call_id: str) -> CarrierCall | None:
        self._answer_look_up()
        call = self.of(carrier_call_id)
        if call is None or self.look_ups == "lag":
            return None
        return self._record_of(call)

    def find(self, *, to: str, caller_id: str, since: datetime) -> list[CarrierCall]:
        self._answer_look_up()
        if self.look_ups == "lag":
            return []
        return [
            self._record_of(call)
            for call in self.calls
            if (call.to, call.caller_id) == (to, caller_id) and call.created_at >= since
        ]

    def attempt_of(self, carrier_call_id: str) -> UUID | None:
        self._answer_look_up()
        call = self.of(carrier_call_id)
        return call.attempt_id if call and self.tells_attempts else None

    def hang_up(self, carrier_call_id: str) -> None:
        self._answer_look_up()
        if call := self.of(carrier_call_id):
            talked = Progress.IN_PROGRESS in call.words
            call.say(Progress.ANSWERED if talked else Progress.CANCELLED)


_TIMES = {
    table.name: [c.name for c in table.columns if isinstance(c.type, DateTime)]
    for table in metadata.sorted_tables
    if table.name != "unknown_attempts"  # its trigger follows `attempts`
}
_EMPTY = "; ".join(f"DELETE FROM {table.name}" for table in metadata.sorted_tables)
_LATER = "; ".join(
    f"UPDATE {table} SET "
    + ", ".join(f"{name} = {name} - make_interval(secs => %(seconds)s)" for name in names)
    for table, names in _TIMES.items()
    if names
)


def empty(connection: Connection) -> None:
    """Begin anew."""
    connection.exec_driver_sql(
        f"BEGIN; SET LOCAL session_replication_role = replica; {_EMPTY}; COMMIT"
    )


def let_time_pass(connection: Connection, seconds: float) -> None:
    """Make all that was written that much older, which to the database is the same."""
    connection.exec_driver_sql(_LATER, {"seconds": seconds})


@dataclass(frozen=True)
class Seen:
    """The database at one moment."""

    now: datetime
    runs: dict[UUID, Any]
    calls: dict[int, Any]
    attempts: dict[UUID, Any]
    counters: dict[UUID, dict[str, int]]
    paces: dict[UUID, Any]
    breakers: dict[UUID, Any]
    strays: list[Any]
    unknown: dict[UUID, Any]

    def attempts_of(self, call_id: int) -> list[Any]:
        """A call's attempts, by number."""
        mine = [a for a in self.attempts.values() if a["call_id"] == call_id]
        return sorted(mine, key=lambda a: a["number"])

    def counted(self, call_id: int) -> list[Any]:
        """Those of them that were not released."""
        return [a for a in self.attempts_of(call_id) if a["state"] != "released"]

    def calls_of(self, run_id: UUID) -> list[Any]:
        return [c for c in self.calls.values() if c["run_id"] == run_id]

    def occupying(self, **where: UUID) -> int:
        """Slots taken, in the account or the run given."""
        return sum(
            a["ended_at"] is None
            and (a["state"] != "unknown" or self.now < a["occupies_until"])
            and all(a[name] == value for name, value in where.items())
            for a in self.attempts.values()
        )

    def still_dials(self, run_id: UUID) -> bool:
        run = self.runs[run_id]
        unexpired = run["expires_at"] is None or run["expires_at"] > self.now
        return run["ended_at"] is None and not run["cancel_requested"] and unexpired


def look(reader: Connection) -> Seen:
    """Read everything. On the driver's own cursor: this is done before and after every step."""
    with reader.connection.cursor(cursor_factory=RealDictCursor) as cursor:

        def rows(table: str, order: str = "id") -> list[Any]:
            cursor.execute(f"SELECT * FROM {table} ORDER BY {order}")
            return cursor.fetchall()

        seen = {
            "runs": {row["id"]: row for row in rows("runs")},
            "calls": {row["id"]: row for row in rows("calls")},
            "attempts": {row["id"]: row for row in rows("attempts", "fence, call_id, number")},
            "paces": {row["account_id"]: row for row in rows("account_pace", "account_id")},
            "breakers": {row["account_id"]: row for row in rows("breakers", "account_id")},
            "strays": rows("stray_carrier_calls"),
            "unknown": {row["attempt_id"]: row for row in rows("unknown_attempts", "attempt_id")},
            "counters": _summed(rows("run_counters", "run_id, shard")),
        }
        cursor.execute("SELECT clock_timestamp() AS now")
        return Seen(now=cursor.fetchone()["now"], **seen)


def _summed(shards: list[Any]) -> dict[UUID, dict[str, int]]:
    sums: dict[UUID, dict[str, int]] = {}
    for shard in shards:
        counted = sums.setdefault(shard["run_id"], dict.fromkeys(COUNTERS, 0))
        for name in COUNTERS:
            counted[name] += shard[name]
    return sums


def check(before: Seen, seen: Seen, ledger: Ledger) -> None:
    """Every promise that can be judged at any moment."""
    assert not ledger.wrong, ledger.wrong
    for run in seen.runs.values():
        _counters_are_what_the_rows_say(seen, run)
        _an_ended_run_has_nothing_left(before, seen, run)
    for call in seen.calls.values():
        _a_call_is_what_its_last_attempt_says(seen, call)
        _no_lead_is_called_more_often_than_meant(seen, call, ledger)
    for attempt in seen.attempts.values():
        _an_attempt_is_whole(seen, attempt)
        _claims_count_what_is_live(seen, attempt)
        _moved_rightly(before.attempts.get(attempt["id"]), seen, attempt, ledger)
    _a_phone_is_held_once(seen)
    for dialled in ledger.calls:
        _a_call_at_the_carrier_is_not_forgotten(seen, dialled)
    for attempt_id, times in ledger.asked.items():
        assert times == 1, f"the carrier was asked {times} times for {attempt_id}"


def _counters_are_what_the_rows_say(seen: Seen, run: Any) -> None:
    counted = dict.fromkeys(COUNTERS, 0)
    for call in seen.calls_of(run["id"]):
        counted[CallState(call["state"]).counter] += 1
        counted["attempts"] += call["attempts"]
        if call["outcome"]:
            counted[Outcome(call["outcome"]).counter] += 1
    assert seen.counters[run["id"]] == counted
    assert sum(counted[name] for name in STATE_COUNTERS) == run["total_leads"]


def _an_ended_run_has_nothing_left(before: Seen, seen: Seen, run: Any) -> None:
    states = {call["state"] for call in seen.calls_of(run["id"])}
    over = run["status"] in ("completed", "cancelled", "expired")
    assert over == (run["ended_at"] is not None)
    if not over:
        return
    assert not states & {"queued", "dialing"}, f"a {run['status']} run has calls {states}"
    old = before.runs.get(run["id"])
    if old and old["ended_at"] is None:
        assert "live" not in states, "a run ended with a live call"
        if run["status"] == "completed":
            _nothing_cut_its_calls_short(seen, run)
    if old and old["ended_at"] is not None:
        assert old["status"] == run["status"], "a run ended twice"


def _nothing_cut_its_calls_short(seen: Seen, run: Any) -> None:
    for call in seen.calls_of(run["id"]):
        counted = seen.counted(call["id"])
        said = counted[-1]["outcome"] if counted else None
        assert call["outcome"] in (None, said), f"completed, with a call that is {call['outcome']}"


def _a_call_is_what_its_last_attempt_says(seen: Seen, call: Any) -> None:
    everything, counted = seen.attempts_of(call["id"]), seen.counted(call["id"])
    assert [a["number"] for a in everything] == list(range(1, call["last_number"] + 1))
    assert call["attempts"] == len(counted)
    state, outcome = call["state"], call["outcome"]
    assert (state in ("completed", "failed", "cancelled")) == (outcome is not None)
    if outcome:
        assert state == Outcome(outcome).call_state
    last = counted[-1] if counted else None
    if last is None or (last["state"] == "ended" and last["outcome"] is None):
        assert (state, outcome) in (("queued", None), ("cancelled", "cancelled"))
    elif last["state"] == "ended":
        run = seen.runs[call["run_id"]]
        if state == "queued":
            assert last["outcome"] in run["retry_on"]
            assert not last["decision_stands"]
            assert len(counted) < run["max_attempts"]
        else:
            assert outcome == last["outcome"]
    else:
        assert (
            state == {"sending": "dialing", "placed": "live", "unknown": "unknown"}[last["state"]]
        )


def _no_lead_is_called_more_often_than_meant(seen: Seen, call: Any, ledger: Ledger) -> None:
    mine = {a["id"]: a for a in seen.attempts_of(call["id"])}
    allowed = seen.runs[call["run_id"]]["max_attempts"]
    asked_again = sum(
        a["decision"] == "not_placed"
        or (a["decision"] == "redial" and a["decided_by"] != "on_unknown")
        for a in mine.values()
    )
    rang = sum(dialled.attempt_id in mine for dialled in ledger.calls)
    assert rang <= allowed + asked_again, f"{rang} calls to one lead, {allowed} were meant"
    assert len(seen.counted(call["id"])) <= allowed + asked_again


def _an_attempt_is_whole(seen: Seen, attempt: Any) -> None:
    over = attempt["state"] in ("ended", "released")
    assert over == (attempt["ended_at"] is not None)
    assert not (over and attempt["phone_held"])
    assert attempt["state"] != "sending" or attempt["phone_held"]
    if attempt["state"] == "unknown":
        assert attempt["error"], "unknown without a reason"
    if attempt["decision_stands"]:
        assert over
        assert attempt["decision"]
        assert attempt["decided_by"]
    if attempt["state"] == "placed":
        assert attempt["carrier_call_id"]
        gave_up = attempt["decision"] or attempt["unknown_at"]
        assert attempt["phone_held"] or gave_up, "a placed call does not hold its phone"
    assert attempt["account_id"] == seen.runs[attempt["run_id"]]["account_id"]


def _claims_count_what_is_live(seen: Seen, attempt: Any) -> None:
    over, run = attempt["ended_at"] is not None, seen.runs[attempt["run_id"]]
    was_unknown = not over and attempt["unknown_at"] is not None
    assert was_unknown == (attempt["id"] in seen.unknown), "claims count it wrongly"
    if was_unknown:
        noted = seen.unknown[attempt["id"]]
        for name in ("account_id", "run_id", "occupies_until"):
            assert noted[name] == attempt[name]
        assert noted["is_placed"] == (attempt["state"] == "placed")
    elif not over:
        assert run["ended_at"] is None, "claims do not count it: its run is over"
        assert attempt["fence"] >= run["live_from"], "claims do not count it: it is too old"


def _moved_rightly(old: Any, seen: Seen, new: Any, ledger: Ledger) -> None:
    was = (
        (old["state"], old["outcome"], old["decision_stands"]) if old else ("sending", None, False)
    )
    if was == (new["state"], new["outcome"], new["decision_stands"]):
        return
    fate, decided = ledger.fates.get(new["id"]), new["decision_stands"]
    if was[0] in ("ended", "released") and not was[2]:
        raise AssertionError(f"what was over moved: {was} to {new['state']} {new['outcome']}")
    if decided and old:
        _decided_rightly(old, seen, new)
    elif new["state"] == "released":
        unsent = fate is None and was[0] in ("sending", "unknown")
        assert fate in NOT_PROCESSED or unsent, f"released, but the carrier was asked: {fate}"
    elif new["state"] == "ended":
        refused = fate is Fate.REFUSED_CALLEE and new["outcome"] == "failed"
        assert new["carrier_call_id"] or refused, "ended by nobody's word"
    elif new["state"] == "unknown":
        assert was[0] in ("sending", "placed")
    else:
        assert new["state"] == "placed"


def _decided_rightly(old: Any, seen: Seen, new: Any) -> None:
    assert old["state"] == "unknown", f"a decision moved an attempt that was {old['state']}"
    if new["decision"] == "not_placed":
        assert new["carrier_call_id"] is None
    if new["decided_by"] != "on_unknown":
        return
    run = seen.runs[new["run_id"]]
    assert run["on_unknown"] == "redial"
    assert seen.still_dials(run["id"])
    assert (old["heard_at"], old["carrier_call_id"]) == (None, None)
    assert old["empty_lookups"] >= 3
    assert new["claimed_at"] + timedelta(seconds=run["on_unknown_after"]) <= seen.now
    assert len(seen.counted(new["call_id"])) < run["max_attempts"]


def _a_phone_is_held_once(seen: Seen) -> None:
    held = Counter((a["account_id"], a["phone"]) for a in seen.attempts.values() if a["phone_held"])
    assert all(times == 1 for times in held.values())


def _a_call_at_the_carrier_is_not_forgotten(seen: Seen, dialled: Dialled) -> None:
    attempt = seen.attempts[dialled.attempt_id]
    final = [word for word in dialled.heard if word.is_final]
    if final:
        found = (attempt["state"], attempt["outcome"], attempt["carrier_call_id"])
        assert found == ("ended", str(final[0]), dialled.sid), f"{final[0]} was said: {found}"
        assert not attempt["decision_stands"]
    elif dialled.heard:
        assert attempt["carrier_call_id"] == dialled.sid
        assert not attempt["decision_stands"] or attempt["unknown_at"]
    if attempt["carrier_call_id"]:
        assert attempt["carrier_call_id"] == dialled.sid, "evidence of one attempt went to another"
    if not dialled.is_over and attempt["state"] in ("ended", "released"):
        assert attempt["decision_stands"], "a call goes on that we hold to be over"


def check_claim(before: Seen, seen: Seen, account_id: UUID) -> None:
    """What must hold of each claim: `before` it, and as it left things."""
    new = [a for id_, a in seen.attempts.items() if id_ not in before.attempts]
    if not new:
        return
    pace = seen.paces[account_id]
    assert {a["account_id"] for a in new} == {account_id}
    assert len({a["run_id"] for a in new}) == 1
    run = before.runs[new[0]["run_id"]]
    assert run["status"] in ("pending", "running"), f"claimed from a {run['status']} run"
    assert before.still_dials(run["id"])
    assert run["start_at"] is None or run["start_at"] <= seen.now
    assert seen.occupying(account_id=account_id) <= pace["max_live_calls"]
    assert seen.occupying(run_id=run["id"]) <= run["concurrency"]
    assert not pace["not_before"] or pace["not_before"] <= seen.now
    if breaker := before.breakers.get(account_id):
        assert len(new) == 1
        assert breaker["next_trial_at"] <= seen.now
    for attempt in new:
        assert before.calls[attempt["call_id"]]["state"] == "queued"
        _nobody_else_calls(before, attempt, pace["min_seconds_between_calls"])


def _nobody_else_calls(before: Seen, new: Any, gap: int) -> None:
    for other in before.attempts.values():
        if (other["account_id"], other["phone"]) != (new["account_id"], new["phone"]):
            continue
        assert not other["phone_held"], "two attempts for one phone"
        if other["run_id"] != new["run_id"] and other["state"] != "released":
            assert other["claimed_at"] + timedelta(seconds=gap) <= new["claimed_at"]


def check_ends(seen: Seen, crashed: set[UUID]) -> None:
    """Without a crash, a run whose calls are all over is over, with no help from a sweep."""
    states: dict[UUID, set[str]] = defaultdict(set)
    for call in seen.calls.values():
        states[call["run_id"]].add(call["state"])
    for run in seen.runs.values():
        if run["ended_at"] or run["id"] in crashed or not states[run["id"]]:
            continue
        open_ = states[run["id"]] & {"queued", "dialing", "live", "unknown"}
        may_end = run["status"] in ("pending", "running") or run["cancel_requested"]
        assert open_ or not may_end, "the last call is over and the run is not"
