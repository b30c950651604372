"""How the whole of it is, for the people who run it: cheap enough to be asked every second.

Who is alive is what the database server sees: each process keeps connections under its own name,
and they end with it, also after a kill.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from outbound.times import rfc3339

NEWEST_EVENTS = 2000
"""Repairs are looked for among this many, so that the read stays cheap however many there are."""
MOST_REPAIRS = 20
LEADER_SILENT_SECONDS = 5
"""The leader asks the database every second."""

_SITUATION = text(f"""
    SELECT clock_timestamp() AS now, p.stopped, p.not_before, p.max_live_calls,
           live.occupying, live.unknown, waiting.for_phone, strays.seen, strays.ringing
      FROM account_pace p
      CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE a.state <> 'unknown'
                                   OR clock_timestamp() < a.occupies_until) AS occupying,
               count(*) FILTER (WHERE a.state = 'unknown') AS unknown
          FROM attempts a
         WHERE a.account_id = p.account_id AND a.ended_at IS NULL) live
      CROSS JOIN LATERAL (
        SELECT count(*) AS for_phone FROM calls c
         WHERE c.account_id = p.account_id AND c.is_queued
           AND c.waiting_for = 'phone') waiting
      CROSS JOIN LATERAL (
        SELECT count(*) AS seen, count(*) FILTER (WHERE s.ended_at IS NULL) AS ringing
          FROM (SELECT ended_at FROM stray_carrier_calls
                 WHERE account_id = p.account_id ORDER BY id DESC LIMIT {NEWEST_EVENTS}) s
        ) strays
     WHERE p.account_id = :account
""")  # noqa: S608 - our own number
_LEADER = text("SELECT epoch, holder, acquired_at FROM leader_epoch WHERE name = 'reconciler'")
_PROCESSES = text("""
    SELECT split_part(application_name, ' ', 2) AS kind,
           split_part(application_name, ' ', 3) AS worker_id, count(*) AS connections,
           min(backend_start) AS since, max(greatest(query_start, state_change)) AS last_seen_at
      FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'outbound %'
       AND split_part(application_name, ' ', 2) <> 'cli'
     GROUP BY 1, 2 ORDER BY 1, 2
""")
_BREAKERS = text("""
    SELECT carrier, opened_at, next_trial_at, last_error FROM breakers
     WHERE account_id = :account ORDER BY opened_at
""")
_REPAIRS = text(f"""
    SELECT e.at, e.event, e.run_id, e.call_id, e.worker_id, e.details->>'by' AS found_by,
           e.details->>'error' AS error
      FROM (SELECT * FROM events ORDER BY id DESC LIMIT {NEWEST_EVENTS}) e
     WHERE e.account_id = :account
       AND (e.source = 'reconciler' OR e.details->>'by' IN ('sweep', 'policy', 'look_up'))
     ORDER BY e.id DESC LIMIT {MOST_REPAIRS}
""")  # noqa: S608 - our own numbers


def read(connection: Connection, account_id: UUID) -> dict[str, Any]:
    """Read how the processes are, and how this account is."""
    values = {"account": account_id}
    here = connection.execute(_SITUATION, values).mappings().one()
    processes = [_process(row) for row in connection.execute(_PROCESSES).mappings()]
    leader = connection.execute(_LEADER).mappings().first()
    return {
        "now": rfc3339(here["now"]),
        "stopped": here["stopped"],
        "not_before": _time(here["not_before"]),
        "occupying": here["occupying"],
        "max_live_calls": here["max_live_calls"],
        "unknown": here["unknown"],
        "waiting_for_phone": here["for_phone"],
        "strays": here["seen"],
        "strays_not_over": here["ringing"],
        "leader": _leader(leader, processes, here["now"]) if leader else None,
        "processes": [one | {"last_seen_at": _time(one["last_seen_at"])} for one in processes],
        "breakers": [_breaker(row) for row in connection.execute(_BREAKERS, values).mappings()],
        "repairs": [_repair(row) for row in connection.execute(_REPAIRS, values).mappings()],
    }


def _process(row: RowMapping) -> dict[str, Any]:
    return {
        "worker_id": row["worker_id"],
        "kind": row["kind"],
        "connections": row["connections"],
        "since": _time(row["since"]),
        "last_seen_at": row["last_seen_at"],
    }


def _leader(row: RowMapping, processes: list[dict[str, Any]], now: Any) -> dict[str, Any]:
    seen = [one["last_seen_at"] for one in processes if row["holder"].startswith(one["worker_id"])]
    age = (now - seen[0]).total_seconds() if seen else None
    return {
        "worker_id": row["holder"],
        "epoch": row["epoch"],
        "since": _time(row["acquired_at"]),
        "is_alive": age is not None and age < LEADER_SILENT_SECONDS,
    }


def _breaker(row: RowMapping) -> dict[str, Any]:
    times = {name: _time(row[name]) for name in ("opened_at", "next_trial_at")}
    return {"carrier": row["carrier"], "last_error": row["last_error"], **times}


def _repair(row: RowMapping) -> dict[str, Any]:
    plain = ("event", "worker_id", "found_by", "error")
    return {
        "at": _time(row["at"]),
        "run_id": str(row["run_id"]),
        "call_id": str(row["call_id"]) if row["call_id"] else None,
        **{name: row[name] for name in plain},
    }


def _time(at: Any) -> str | None:
    return rfc3339(at) if at else None
