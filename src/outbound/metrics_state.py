"""What is, read from PostgreSQL for /metrics: a few statements whose cost is that of what is open.

None of them looks at a call, attempt or run that is over: each goes by a partial index of what
is not, so a scrape costs the same after the first run and after the ten-thousandth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import Connection, Engine, RowMapping, text
from sqlalchemy.exc import SQLAlchemyError

from outbound import db, metrics
from outbound.counters import SUMS
from outbound.models import STATE_COUNTERS

STATEMENT_MS = 2000
LEADER_SILENT_SECONDS = 5
"""The leader asks the database every second."""

RUN_STATUSES = ("scheduled", "pending", "running", "paused")
PROCESS_KINDS = ("api", "dramatiq_worker", "reconciler")
CONNECTION_STATES = ("active", "idle", "idle in transaction")

ATTEMPTS = text("""
    SELECT count(*) FILTER (WHERE state = 'sending') AS sending,
           count(*) FILTER (WHERE state = 'placed') AS placed,
           count(*) FILTER (WHERE state = 'unknown') AS unknown,
           max(clock_timestamp() - unknown_at) FILTER (WHERE state = 'unknown') AS oldest_unknown,
           max(clock_timestamp() - placed_at)
               FILTER (WHERE state = 'placed' AND heard_at IS NULL) AS longest_silent
      FROM attempts WHERE ended_at IS NULL
""")
RUNS = text(f"""
    SELECT r.status, count(DISTINCT r.id) AS runs, {SUMS}
      FROM runs r LEFT JOIN run_counters c ON c.run_id = r.id
     WHERE r.ended_at IS NULL GROUP BY r.status
""")  # noqa: S608 - our own column names
# A run stands still if a call of it could be claimed and nothing that we know of is in the way.
DUE = text("""
    WITH busy AS MATERIALIZED (
        SELECT account_id, count(*) AS live,
               count(*) FILTER (WHERE state <> 'unknown' OR clock_timestamp() < occupies_until)
                   AS occupying
          FROM attempts WHERE ended_at IS NULL GROUP BY account_id),
    at_work AS MATERIALIZED (
        SELECT DISTINCT run_id FROM attempts WHERE ended_at IS NULL AND state <> 'unknown'),
    due AS MATERIALIZED (
        SELECT r.id, r.account_id, c.next_attempt_at AS since,
               greatest(c.next_attempt_at, r.last_served_at, r.next_send_at, p.next_send_at,
                        p.not_before) AS still_since,
               p.stopped OR coalesce(b.occupying, 0) >= p.max_live_calls
                   OR EXISTS (SELECT FROM at_work w WHERE w.run_id = r.id)
                   OR EXISTS (SELECT FROM breakers x WHERE x.account_id = r.account_id)
                   AS is_explained
          FROM runs r JOIN account_pace p ON p.account_id = r.account_id
          LEFT JOIN busy b ON b.account_id = r.account_id
         CROSS JOIN LATERAL (
            SELECT c.next_attempt_at FROM calls c
             WHERE c.run_id = r.id AND c.is_queued
               AND c.next_attempt_at <= clock_timestamp()
             ORDER BY c.next_attempt_at LIMIT 1) c
         WHERE r.ended_at IS NULL AND r.status IN ('pending', 'running')
           AND NOT r.cancel_requested
           AND (r.expires_at IS NULL OR r.expires_at > clock_timestamp()))
    SELECT max(clock_timestamp() - since) AS oldest_due,
           max(clock_timestamp() - still_since) FILTER (WHERE NOT is_explained) AS longest_still
      FROM due
""")
SERVER = text("""
    WITH ours AS MATERIALIZED (
        SELECT split_part(application_name, ' ', 2) AS kind,
               split_part(application_name, ' ', 3) AS worker_id, state,
               greatest(query_start, state_change) AS seen_at
          FROM pg_stat_activity
         WHERE datname = current_database() AND application_name LIKE 'outbound %'),
    processes AS (
        SELECT jsonb_object_agg(kind, processes) AS processes FROM (
            SELECT kind, count(DISTINCT worker_id) AS processes FROM ours GROUP BY kind) k),
    connections AS (
        SELECT jsonb_object_agg(state, connections) AS connections FROM (
            SELECT state, count(*) AS connections FROM ours
             WHERE state IS NOT NULL GROUP BY state) s)
    SELECT l.epoch, l.acquired_at, processes.processes, connections.connections,
           EXISTS (SELECT FROM ours WHERE ours.worker_id = l.holder
                      AND ours.seen_at > clock_timestamp() - make_interval(secs => :silent))
               AS leader_is_alive,
           current_setting('max_connections')::int AS most_connections,
           (SELECT count(*) FROM breakers) AS breakers,
           (SELECT count(*) FROM stray_carrier_calls WHERE ended_at IS NULL) AS strays
      FROM processes CROSS JOIN connections
      LEFT JOIN leader_epoch l ON l.name = 'reconciler'
""")


def read(engine: Engine) -> list[Metric]:
    """Read everything that /metrics shows; if the database is away, that it is."""
    started = time.monotonic()
    try:
        with engine.connect() as connection:
            db.set_timeouts(connection, statement_ms=STATEMENT_MS)
            families = [*_state(connection), *metrics.read(connection)]
    except SQLAlchemyError:
        return [_is_read(0)]
    took = _gauge("outbound_state_read_seconds", "What reading all of this from the database took.")
    took.add_metric([], time.monotonic() - started)
    return [_is_read(1), took, *families]


def _is_read(value: int) -> Metric:
    says = "1 if the database told the rest of this page; with 0 there is no rest."
    return GaugeMetricFamily("outbound_database_up", says, value=value)


def _state(connection: Connection) -> Iterator[Metric]:
    yield from _of_attempts(connection.execute(ATTEMPTS).mappings().one())
    by_status = {row["status"]: row for row in connection.execute(RUNS).mappings()}
    yield from _of_runs(by_status)
    yield from _of_due(connection.execute(DUE).mappings().one())
    server = connection.execute(SERVER, {"silent": LEADER_SILENT_SECONDS}).mappings().one()
    yield from _of_server(server)


def _of_attempts(row: RowMapping) -> Iterator[Metric]:
    states = ("sending", "placed", "unknown")
    live = _gauge("outbound_open_attempts", "Attempts that are not over.", "state")
    for state in states:
        live.add_metric([state], row[state])
    yield live
    yield _seconds("outbound_oldest_unknown_seconds", "Age of the oldest unknown, or 0.", row,
                   "oldest_unknown")  # fmt: skip
    yield _seconds(
        "outbound_longest_silent_seconds",
        "Since when a call that the carrier took has had no callback at all, or 0.",
        row,
        "longest_silent",
    )


def _of_runs(by_status: dict[str, Any]) -> Iterator[Metric]:
    runs = _gauge("outbound_open_runs", "Runs that are not over.", "status")
    calls = _gauge("outbound_open_run_calls", "Calls of the runs that are not over.", "state")
    for status in RUN_STATUSES:
        runs.add_metric([status], by_status[status]["runs"] if status in by_status else 0)
    for state in STATE_COUNTERS:
        calls.add_metric([state], sum(row[state] for row in by_status.values()))
    yield runs
    yield calls


def _of_due(row: RowMapping) -> Iterator[Metric]:
    yield _seconds(
        "outbound_oldest_due_call_seconds",
        "Queue wait: how long the call that is due longest has been due, or 0.",
        row,
        "oldest_due",
    )
    yield _seconds(
        "outbound_longest_standstill_seconds",
        "How long a run has stood still with a call due and nothing in its way: no pause, stop, "
        "pace, breaker, full slots, or call of its own under way; or 0.",
        row,
        "longest_still",
    )


def _of_server(row: RowMapping) -> Iterator[Metric]:
    elections = CounterMetricFamily("outbound_leader_elections", "The leader's epoch.")
    elections.add_metric([], row["epoch"] or 0)
    yield elections
    yield GaugeMetricFamily(
        "outbound_leader_up",
        "1 if the reconciler that leads asked the database in the last seconds.",
        value=int(row["leader_is_alive"]),
    )
    since = row["acquired_at"].timestamp() if row["acquired_at"] else 0
    yield GaugeMetricFamily(
        "outbound_leader_since_timestamp_seconds", "When the leader was elected, or 0.", value=since
    )
    yield _known("outbound_processes", "Processes that are connected to the database.", "kind",
                 PROCESS_KINDS, row["processes"])  # fmt: skip
    yield _known("outbound_database_connections", "Our connections to the database.", "state",
                 CONNECTION_STATES, row["connections"])  # fmt: skip
    for name, says, value in (
        ("outbound_database_connections_max", "What the server allows.", row["most_connections"]),
        ("outbound_open_breakers", "Accounts whose carrier refuses us.", row["breakers"]),
        ("outbound_open_stray_calls", "Strays that are not known to be over.", row["strays"]),
    ):
        yield GaugeMetricFamily(name, says, value=value)


def _known(
    name: str, says: str, label: str, values: tuple[str, ...], found: dict[str, int] | None
) -> Metric:
    made = _gauge(name, says, label)
    for value in values:
        made.add_metric([value], (found or {}).get(value, 0))
    return made


def _gauge(name: str, says: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=labels)


def _seconds(name: str, says: str, row: RowMapping, column: str) -> Metric:
    age = row[column]
    return GaugeMetricFamily(name, says, value=max(0.0, age.total_seconds()) if age else 0.0)
