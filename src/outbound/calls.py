"""What a call shows: its attempts, its timeline, and why it waits."""

from __future__ import annotations

import csv as csv_format
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, RowMapping, text

from outbound import pages, policy
from outbound.errors import Fault, Refused, invalid, not_found
from outbound.states import CallState, Outcome, RunStatus
from outbound.times import rfc3339

CSV_ROWS = 1000

# Why a run's calls wait for another reason than their own: the same for all of them, so it is
# read once for a page.
_SITUATION = text("""
    SELECT r.status, r.start_at, r.concurrency, r.next_send_at AS run_next,
           p.next_send_at AS account_next,
           p.not_before, p.stopped, p.max_live_calls, clock_timestamp() AS now,
           EXISTS (SELECT FROM breakers b WHERE b.account_id = r.account_id) AS is_broken,
           live.of_account, live.of_run
      FROM runs r JOIN account_pace p ON p.account_id = r.account_id
      CROSS JOIN LATERAL (
        SELECT count(*) AS of_account, count(*) FILTER (WHERE a.run_id = r.id) AS of_run
          FROM attempts a
         WHERE a.account_id = r.account_id AND a.ended_at IS NULL
           AND (a.state <> 'unknown' OR clock_timestamp() < a.occupies_until)) live
     WHERE r.id = :run AND r.account_id = :account
""")
# A run as a range of one, so that the order is that of calls_page_idx: with `=` the planner may
# walk the primary key back, past the calls of every younger run.
_PAGE_SQL = """
    SELECT c.* FROM calls c
     WHERE c.run_id >= :run AND c.run_id <= :run AND c.account_id = :account
       AND (CAST(:before AS bigint) IS NULL OR c.id < :before)
       AND (CAST(:states AS text[]) IS NULL OR c.state = ANY (CAST(:states AS text[])))
       AND (CAST(:outcome AS text) IS NULL OR c.outcome = :outcome)
       AND (CAST(:search AS text) IS NULL OR strpos(lower(c.lead_id), lower(:search)) > 0
            OR strpos(c.phone, :search) > 0 OR CAST(c.id AS text) = :search)
       {only}
     ORDER BY c.run_id DESC, c.id DESC LIMIT :limit
"""
_PAGE = text(_PAGE_SQL.format(only=""))
# Of a hundred thousand calls some are on their way, and are asked for every second: each of
# them has an attempt that did not end, and those are few, with an index of their own.
_PAGE_OPEN = text(
    _PAGE_SQL.format(
        only="""AND c.id IN (SELECT a.call_id FROM attempts a
                    WHERE a.account_id = :account AND a.run_id = :run AND a.ended_at IS NULL)"""
    )
)
_OPEN = {CallState.DIALING, CallState.LIVE, CallState.UNKNOWN}
_ONE = text("""
    SELECT c.* FROM calls c
     WHERE c.id = :call AND c.run_id = :run AND c.account_id = :account
""")
_ATTEMPTS = text("""
    SELECT * FROM attempts
     WHERE call_id = ANY (CAST(:calls AS bigint[])) AND account_id = :account
     ORDER BY call_id, number
""")
_EVENTS = text("""
    SELECT at, event, source, worker_id, actor, attempt_id, request_id, details FROM events
     WHERE run_id = :run AND account_id = :account AND (call_id = :call OR call_id IS NULL)
     ORDER BY id LIMIT 1000
""")
_EXPORT = text("""
    SELECT c.id, c.lead_id, c.phone, c.state, c.outcome, c.attempts, last.carrier_call_id,
           last.answered_at, last.ended_at, last.duration
      FROM calls c LEFT JOIN LATERAL (
        SELECT a.* FROM attempts a WHERE a.call_id = c.id ORDER BY a.number DESC LIMIT 1
      ) last ON true
     WHERE c.run_id = :run AND c.account_id = :account AND c.id > :after
     ORDER BY c.id LIMIT :limit
""")
_REJECTIONS = text("""
    SELECT j.index, j.lead_id, j.code FROM rejections j JOIN runs r ON r.id = j.run_id
     WHERE j.run_id = :run AND r.account_id = :account AND j.index > :after
     ORDER BY j.index LIMIT :limit
""")
_OWNS = text("SELECT EXISTS (SELECT FROM runs WHERE id = :run AND account_id = :account)")

_COLUMNS = (
    "call_id",
    "lead_id",
    "phone",
    "state",
    "outcome",
    "attempts",
    "carrier_call_id",
    "answered_at",
    "ended_at",
    "duration",
)
_STEPS = ("claimed", "placed", "ringing", "answered", "unknown", "ended")


def parse_id(given: str) -> int:
    """Read a call's id. Raises Refused (404) for what cannot be one."""
    if not (given.isascii() and given.isdecimal() and len(given) <= 18):
        raise not_found("call")
    return int(given)


def page(
    connection: Connection,
    account_id: UUID,
    run_id: UUID,
    state: str | None,
    outcome: str | None,
    limit: str | None,
    cursor: str | None,
    search: str | None = None,
) -> dict[str, Any]:
    """Read a page of a run's calls, newest first, each with its attempts.

    Raises:
        Refused: there is no such run, or a parameter of the query is not valid.
    """
    most, situation = pages.parse_limit(limit), _situation(connection, account_id, run_id)
    if outcome is not None and outcome not in set(Outcome):
        raise _unknown_word("outcome")
    states = _states(state)
    values = {
        "run": run_id,
        "account": account_id,
        "states": states,
        "outcome": outcome,
        "search": search,
        "limit": most + 1,
        "before": pages.decode_int(cursor),
    }
    statement = _PAGE_OPEN if states and _OPEN.issuperset(states) else _PAGE
    rows = connection.execute(statement, values).mappings().all()
    more = pages.encode(rows[most - 1]["id"]) if len(rows) > most else None
    items = _show_all(connection, account_id, rows[:most], situation)
    return {"items": items, "next_cursor": more}


def _states(state: str | None) -> list[str] | None:
    if state is None:
        return None
    if state == "in_progress":
        return [CallState.DIALING, CallState.LIVE]
    if state not in set(CallState):
        raise _unknown_word("state")
    return [state]


def _unknown_word(name: str) -> Refused:
    fault = Fault(f"#/query/{name}", "unknown_word", f"There is no such {name}.")
    return invalid([fault], "The query is not valid.")


def one(connection: Connection, account_id: UUID, run_id: UUID, call_id: str) -> dict[str, Any]:
    """Read one call with its timeline. Raises Refused if the account has no such call."""
    situation = _situation(connection, account_id, run_id)
    values = {"call": parse_id(call_id), "run": run_id, "account": account_id}
    row = connection.execute(_ONE, values).mappings().first()
    if row is None:
        raise not_found("call")
    (shown,) = _show_all(connection, account_id, [row], situation)
    events = connection.execute(_EVENTS, values).mappings()
    return shown | {"timeline": _timeline(shown["attempts"], events)}


def _situation(connection: Connection, account_id: UUID, run_id: UUID) -> RowMapping:
    values = {"run": run_id, "account": account_id}
    row = connection.execute(_SITUATION, values).mappings().first()
    if row is None:
        raise not_found("run")
    return row


def _show_all(
    connection: Connection, account_id: UUID, rows: Sequence[RowMapping], situation: RowMapping
) -> list[dict[str, Any]]:
    if not rows:
        return []  # asked for no call's attempts, the planner reads a whole index
    values = {"calls": [row["id"] for row in rows], "account": account_id}
    found = connection.execute(_ATTEMPTS, values).mappings()
    attempts: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for attempt in found:
        attempts[attempt["call_id"]].append(_show_attempt(attempt))
    return [_show(row, attempts[row["id"]], situation) for row in rows]


def _show(row: RowMapping, attempts: list[dict[str, Any]], situation: RowMapping) -> dict[str, Any]:
    queued = row["state"] == CallState.QUEUED
    return {
        "call_id": str(row["id"]),
        "lead_id": row["lead_id"],
        "phone": row["phone"],
        "state": row["state"],
        "outcome": row["outcome"],
        "attempts": attempts,
        "next_attempt_at": rfc3339(row["next_attempt_at"]) if queued else None,
        "waiting_for": _why_it_waits(row, situation) if queued else None,
        "cancel_requested": row["cancel_requested"],
        "last_error": row["last_error"],
        "variables": row["variables"] or {},
    }


def _why_it_waits(row: RowMapping, situation: RowMapping) -> str | None:
    # What a claim or a retry wrote is the call's own reason, and holds until the call is due.
    if row["waiting_for"] and row["next_attempt_at"] > situation["now"]:
        return str(row["waiting_for"])
    return _why_all_wait(situation)


def _why_all_wait(situation: RowMapping) -> str | None:
    """Say why a run's due calls wait: first what a person set, then what passes by itself."""
    now = situation["now"]
    nexts = (situation["account_next"], situation["run_next"])
    reasons = (
        (situation["status"] == RunStatus.PAUSED, "paused"),
        (situation["status"] == RunStatus.SCHEDULED, "start_at"),
        (_is_after(situation["start_at"], now), "start_at"),
        (situation["stopped"], "stopped"),
        (situation["is_broken"], "breaker"),
        (_is_after(situation["not_before"], now), "pace"),
        (situation["of_account"] >= situation["max_live_calls"], "slots"),
        (situation["of_run"] >= situation["concurrency"], "slots"),
        (any(_is_after(at, now + policy.LOOK_AHEAD) for at in nexts), "pace"),
    )
    return next((why for holds, why in reasons if holds), None)


def _is_after(at: datetime | None, moment: datetime) -> bool:
    return at is not None and at > moment


def _show_attempt(row: RowMapping) -> dict[str, Any]:
    times = {f"{step}_at": _time(row[f"{step}_at"]) for step in _STEPS}
    plain = (
        "number",
        "state",
        "outcome",
        "carrier",
        "carrier_call_id",
        "duration",
        "error",
        "decision",
        "decided_by",
        "worker_id",
        "empty_lookups",
    )
    return {
        "attempt_id": str(row["id"]),
        **{name: row[name] for name in plain},
        **times,
        "next_lookup_at": _time(row["next_lookup_at"]),
    }


def _time(at: datetime | None) -> str | None:
    return rfc3339(at) if at else None


def _timeline(attempts: list[dict[str, Any]], events: Iterable[RowMapping]) -> list[dict[str, Any]]:
    # The happy path has no event rows of its own for what the attempt's times tell already;
    # where there is a row for the same fact, it says more.
    told = [_show_event(event) for event in events]
    known = {(entry["attempt_id"], entry["event"]) for entry in told}
    steps = [step for attempt in attempts for step in _steps(attempt)]
    fresh = [step for step in steps if (step["attempt_id"], step["event"]) not in known]
    return sorted(fresh + told, key=lambda entry: str(entry["at"]))


def _steps(attempt: dict[str, Any]) -> list[dict[str, Any]]:
    # A released attempt has an end as well, yet it never was a call.
    last = attempt["state"] if attempt["ended_at"] else "ended"
    return [
        {
            "at": attempt[f"{step}_at"],
            "event": f"attempt_{last if step == 'ended' else step}",
            "source": "attempt",
            "attempt_id": attempt["attempt_id"],
            "number": attempt["number"],
            # What the carrier said later came in elsewhere, and has a row where it mattered.
            "worker_id": attempt["worker_id"] if step in ("claimed", "placed") else None,
        }
        for step in _STEPS
        if attempt[f"{step}_at"]
    ]


def _show_event(event: RowMapping) -> dict[str, Any]:
    plain = ("event", "source", "worker_id", "actor", "request_id", "details")
    return {
        "at": rfc3339(event["at"]),
        "attempt_id": str(event["attempt_id"]) if event["attempt_id"] else None,
        **{name: event[name] for name in plain},
    }


def csv(engine: Engine, account_id: UUID, run_id: UUID) -> Iterator[bytes]:
    """Stream all calls of a run as CSV, for spreadsheets.

    A connection is held for one page at a time, not while a slow client reads.

    Raises:
        Refused: the account has no such run; raised before anything is streamed.
    """
    with engine.connect() as connection:
        _check_owner(connection, account_id, run_id)
    return _csv_pages(engine, account_id, run_id)


def _csv_pages(engine: Engine, account_id: UUID, run_id: UUID) -> Iterator[bytes]:
    yield "\N{BYTE ORDER MARK}".encode() + _csv_lines([_COLUMNS])
    after = 0
    while True:
        with engine.connect() as connection:
            values = {"run": run_id, "account": account_id, "after": after, "limit": CSV_ROWS}
            rows = connection.execute(_EXPORT, values).all()
        if not rows:
            return
        after = rows[-1].id
        yield _csv_lines([[_cell(value) for value in row] for row in rows])


def _csv_lines(rows: Iterable[Iterable[object]]) -> bytes:
    lines = io.StringIO()
    csv_format.writer(lines).writerows(rows)
    return lines.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return rfc3339(value)
    # A spreadsheet would take these for formulas.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def rejections(
    connection: Connection, account_id: UUID, run_id: UUID, limit: str | None, cursor: str | None
) -> dict[str, Any]:
    """Read a page of the leads that a run left out, in body order.

    Raises:
        Refused: there is no such run, or a parameter of the query is not valid.
    """
    most, after = pages.parse_limit(limit), pages.decode_int(cursor)
    _check_owner(connection, account_id, run_id)
    values = {
        "run": run_id,
        "account": account_id,
        "after": -1 if after is None else after,
        "limit": most + 1,
    }
    rows = [dict(row) for row in connection.execute(_REJECTIONS, values).mappings()]
    more = pages.encode(rows[most - 1]["index"]) if len(rows) > most else None
    return {"items": rows[:most], "next_cursor": more}


def _check_owner(connection: Connection, account_id: UUID, run_id: UUID) -> None:
    if not connection.execute(_OWNS, {"run": run_id, "account": account_id}).scalar():
        raise not_found("run")
