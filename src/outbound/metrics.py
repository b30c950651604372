"""What happened, counted: in each process's memory, and added up in PostgreSQL every few seconds.

`/metrics` shows the sums, so every web process gives the same answer about all processes, also
about dead ones, and a counter never falls. A process that is killed takes with it what it
counted since it last wrote. What *is* (calls, unknowns, the leader) is not counted but read
from the tables (metrics_state.py).
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Iterator
from itertools import product
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from outbound import logs
from outbound.carriers.base import Verdict
from outbound.settling import Settled
from outbound.states import Outcome

log = logs.get(__name__)

WRITE_EVERY = 5.0
"""Seconds; the most that a killed process takes with it."""

OTHER = "other"
AREAS = ("api", "webhook")
STATUSES = ("2xx", "3xx", "4xx", "5xx")
CONFLICTS = ("phone", "recent_call", "carrier_id_taken", "stray_carrier_call")
SOURCES = ("answer", "callback", "look_up", "policy", "operator", "audit", OTHER)
SWEEPS = (
    *("stale_claims", "redial_unknowns", "give_phones_back", "start_scheduled", "end_runs"),
    *("ring_due", "ring_ending", "ring_look_ups", "ring_hang_ups", "purge_keys", OTHER),
)

_registry = CollectorRegistry()
M = TypeVar("M", Counter, Histogram)


def _with_all(made: M, *values: tuple[str, ...]) -> M:
    # Every label set is there from the start, at 0: one that appears with its first event has
    # no rate when it matters. All are known beforehand, so nobody's id becomes a series.
    for labels in product(*values):
        made.labels(*labels)
    return made


CLAIMS = Counter(
    "outbound_claims", "Claims that took at least one call (lock_acquired).", registry=_registry
)
CLAIMED_CALLS = Counter(
    "outbound_claimed_calls", "Calls that claims took for dialling.", registry=_registry
)
DEDUP_CONFLICTS = _with_all(
    Counter(
        "outbound_dedup_conflicts",
        "Times a unique constraint decided. phone, recent_call: a call was moved aside. "
        "carrier_id_taken, stray_carrier_call: a carrier call that nothing accounts for.",
        ["kind"],
        registry=_registry,
    ),
    CONFLICTS,
)
CARRIER_REQUESTS = _with_all(
    Histogram(
        "outbound_carrier_request_seconds",
        "Requests to place a call, by what the carrier's answer meant.",
        ["verdict"],
        buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16),
        registry=_registry,
    ),
    tuple(map(str, Verdict)),
)
_REQUESTS = {verdict: CARRIER_REQUESTS.labels(verdict) for verdict in Verdict}
LEASES_LOST = _with_all(
    Counter(
        "outbound_leases_lost",
        "Claimed calls whose lease was too short. unsent: given back by their worker, nothing "
        "was sent. ran_out: found by the sweep and now unknown.",
        ["how"],
        registry=_registry,
    ),
    ("unsent", "ran_out"),
)
SETTLED = _with_all(
    Counter(
        "outbound_settled_attempts",
        "Attempts that got an outcome, by outcome and by whose word it was.",
        ["outcome", "source"],
        registry=_registry,
    ),
    tuple(map(str, Outcome)),
    SOURCES,
)
UNKNOWNS = Counter(
    "outbound_unknown_attempts", "Times an attempt became unknown.", registry=_registry
)
FIRST_CALLBACK = Histogram(
    "outbound_first_callback_seconds",
    "From the carrier's answer to its first callback about that call.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
    registry=_registry,
)
SWEEPS_DONE = _with_all(
    Counter("outbound_sweeps", "Sweeps that found something to do.", ["sweep"], registry=_registry),
    SWEEPS,
)
SWEPT_ROWS = _with_all(
    Counter("outbound_swept_rows", "Rows that sweeps took.", ["sweep"], registry=_registry),
    SWEEPS,
)
LEADER_TICKS = Counter(
    "outbound_leader_ticks", "Times the leader looked for repairs: once a second.",
    registry=_registry,
)  # fmt: skip
HTTP_REQUESTS = _with_all(
    Histogram(
        "outbound_http_request_seconds",
        "Requests that the web processes answered.",
        ["area", "status"],
        buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
        registry=_registry,
    ),
    AREAS,
    STATUSES,
)


def claimed(calls: int, held: int, recent: int) -> None:
    """Count one claim: calls taken, and calls moved aside."""
    if calls:
        CLAIMS.inc()
        CLAIMED_CALLS.inc(calls)
    DEDUP_CONFLICTS.labels("phone").inc(held)
    DEDUP_CONFLICTS.labels("recent_call").inc(recent)


def carrier_answered(verdict: Verdict, seconds: float) -> None:
    """Count one request to place a call."""
    _REQUESTS[verdict].observe(seconds)


def settled(done: Settled) -> None:
    """Count what committed evidence did."""
    for (outcome, source), count in done.outcomes.items():
        SETTLED.labels(outcome, source if source in SOURCES else OTHER).inc(count)
    for seconds in done.first_callbacks:
        FIRST_CALLBACK.observe(seconds)
    UNKNOWNS.inc(done.unknown)
    DEDUP_CONFLICTS.labels("carrier_id_taken").inc(done.taken)
    DEDUP_CONFLICTS.labels("stray_carrier_call").inc(done.strays)


def swept(sweep: str, rows: int, unknown: int) -> None:
    """Count one committed sweep that had rows to look at."""
    name = sweep if sweep in SWEEPS else OTHER
    SWEEPS_DONE.labels(name).inc()
    SWEPT_ROWS.labels(name).inc(rows)
    UNKNOWNS.inc(unknown)
    if sweep == "stale_claims":
        LEASES_LOST.labels("ran_out").inc(unknown)


def http_answered(path: str, status: int, seconds: float) -> None:
    """Count one request; health checks and scrapes would hide everybody else's figures."""
    area = {"/api/": "api", "/webh": "webhook"}.get(path[:5])
    label = f"{status // 100}xx"
    if area and label in STATUSES:
        HTTP_REQUESTS.labels(area, label).observe(seconds)


_ADD = text("""
    INSERT INTO metric_counts AS m (series, value)
    SELECT series, value
      FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (series text, value double precision)
     ORDER BY series
    ON CONFLICT (series) DO UPDATE SET value = m.value + excluded.value
""")
_READ = text("SELECT series, value FROM metric_counts")


_HERE = text("SELECT 1")


class Writer:
    """Adds this process's counts to everybody's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._is_away = False

    def write(self) -> None:
        """Write what was counted since the last time, and show that this process is here.

        Raises:
            SQLAlchemyError: it was not written, and goes with the next.
        """
        with self._lock:
            now = {_series(sample): sample.value for _, sample in _samples()}
            rows = [
                {"series": series, "value": value - self._written.get(series, 0.0)}
                for series, value in now.items()
                if value != self._written.get(series, 0.0)
            ]
            with self._engine.begin() as connection:
                if rows:
                    connection.execute(_ADD, {"rows": json.dumps(rows)})
                else:
                    # Who is alive is read from the connections: an idle worker has none else.
                    connection.execute(_HERE)
            self._written = now

    def start(self) -> None:
        """Write every few seconds, and once more when the process ends in order."""
        threading.Thread(target=self._run, name="metrics", daemon=True).start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Write the rest, unless the database is away: nobody waits for figures."""
        self._stop.set()
        if not self._is_away:
            self._try()

    def _run(self) -> None:
        self._try()
        while not self._stop.wait(WRITE_EVERY):
            self._try()

    def _try(self) -> None:
        try:
            self.write()
        except SQLAlchemyError as error:
            if not self._is_away:
                log.warning("metrics_not_written", error=type(error).__name__)
            self._is_away = True
        else:
            self._is_away = False


def start(engine: Engine) -> None:
    """Have this process's counts written. After a fork: threads do not survive one."""
    Writer(engine).start()


def read(connection: Connection) -> list[Metric]:
    """Read the sums over all processes, as families with every known series, 0 if it never was."""
    sums: dict[str, float] = {row.series: row.value for row in connection.execute(_READ)}
    families: dict[str, Metric] = {}
    for family, sample in _samples():
        mine = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        mine.add_sample(sample.name, sample.labels, sums.get(_series(sample), 0.0))
    return list(families.values())


def _samples() -> Iterator[tuple[Metric, Any]]:
    for family in _registry.collect():
        for sample in family.samples:
            # When a process first counted something says nothing about a sum over all.
            if not sample.name.endswith("_created"):
                yield family, sample


def _series(sample: Any) -> str:
    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else str(sample.name)
