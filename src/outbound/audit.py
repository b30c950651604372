"""Our record of a run held against the carrier's, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from outbound.carriers.base import Carrier, CarrierCall, CarrierUnavailable
from outbound.counters import SUMS
from outbound.errors import not_found
from outbound.models import COUNTERS
from outbound.states import AttemptState, CallState, Outcome

THREADS = 8
PAGE = 500

_RUN = text("SELECT id FROM runs WHERE id = :run")
_ATTEMPTS = text("""
    SELECT id, call_id, state, outcome, carrier, carrier_call_id, phone, caller_id, claimed_at
      FROM attempts
     WHERE run_id = :run AND account_id = (SELECT account_id FROM runs WHERE id = :run)
       AND id > :after ORDER BY id LIMIT :limit
""")
_KNOWN = text("""
    SELECT carrier_call_id FROM attempts WHERE carrier = :carrier
       AND carrier_call_id = ANY (CAST(:sids AS text[]))
    UNION
    SELECT carrier_call_id FROM stray_carrier_calls WHERE carrier = :carrier
       AND carrier_call_id = ANY (CAST(:sids AS text[]))
""")
_COUNTED = text(f"SELECT {SUMS} FROM run_counters c WHERE run_id = :run")  # noqa: S608 - our own
_FROM_ROWS = text("""
    SELECT state, outcome, count(*)::int AS n, sum(attempts)::int AS attempts FROM calls
     WHERE run_id = :run GROUP BY state, outcome
""")


@dataclass(frozen=True)
class Difference:
    """One thing that the two records do not agree on.

    Attributes:
        kind: `carrier_does_not_know`, `we_do_not_know`, `wrong_outcome`, `still_open`,
            `counter_differs` or `carrier_unavailable`.
    """

    kind: str
    attempt_id: str | None
    carrier_call_id: str | None
    ours: str
    carriers: str


def audit(engine: Engine, carrier: Carrier, run_id: UUID) -> tuple[int, list[Difference]]:
    """Compare every attempt of a run with the carrier's record.

    Returns:
        How many attempts were compared, and the differences.

    Raises:
        Refused: there is no such run.
    """
    with engine.connect() as connection:
        if connection.execute(_RUN, {"run": run_id}).first() is None:
            raise not_found("run")
    compared, differences = 0, _counter_differences(engine, run_id)
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in _pages(engine, run_id):
            compared += len(rows)
            for found in pool.map(lambda row: _compare(engine, carrier, row), rows):
                differences += found
    return compared, differences


def _pages(engine: Engine, run_id: UUID) -> Iterator[list[Any]]:
    after = UUID(int=0)
    while True:
        with engine.connect() as connection:
            values = {"run": run_id, "after": after, "limit": PAGE}
            rows = list(connection.execute(_ATTEMPTS, values).mappings())
        if not rows:
            return
        yield rows
        after = rows[-1]["id"]


def _compare(engine: Engine, carrier: Carrier, row: Any) -> list[Difference]:
    try:
        if row["carrier_call_id"]:
            return _compare_known(carrier, row)
        return _look_for_strangers(engine, carrier, row)
    except CarrierUnavailable as error:
        return [_difference("carrier_unavailable", row, None, str(error))]


def _compare_known(carrier: Carrier, row: Any) -> list[Difference]:
    call = carrier.look_up(row["carrier_call_id"])
    if call is None:
        return [_difference("carrier_does_not_know", row, None, "nothing")]
    if call.progress.is_final and row["state"] != AttemptState.ENDED:
        return [_difference("still_open", row, call, str(call.progress))]
    if row["state"] == AttemptState.ENDED and row["outcome"] != str(call.progress):
        return [_difference("wrong_outcome", row, call, str(call.progress))]
    return []


def _look_for_strangers(engine: Engine, carrier: Carrier, row: Any) -> list[Difference]:
    since = row["claimed_at"] - timedelta(seconds=2)
    calls = carrier.find(to=row["phone"], caller_id=row["caller_id"], since=since)
    values = {"carrier": row["carrier"], "sids": [call.carrier_call_id for call in calls]}
    with engine.connect() as connection:
        known = set(connection.execute(_KNOWN, values).scalars())
    return [
        _difference("we_do_not_know", row, call, str(call.progress))
        for call in calls
        if call.carrier_call_id not in known
    ]


def _difference(kind: str, row: Any, call: CarrierCall | None, carriers: str) -> Difference:
    ours = f"{row['state']} {row['outcome'] or ''}".strip()
    sid = call.carrier_call_id if call else row["carrier_call_id"]
    return Difference(kind, str(row["id"]), sid, ours, carriers)


def _counter_differences(engine: Engine, run_id: UUID) -> list[Difference]:
    with engine.connect() as connection:
        # One snapshot for both, while the run may still be moving.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
        counted = connection.execute(_COUNTED, {"run": run_id}).mappings().one()
        rows = connection.execute(_FROM_ROWS, {"run": run_id}).all()
    real = dict.fromkeys(COUNTERS, 0)
    for row in rows:
        real[CallState(row.state).counter] += row.n
        real["attempts"] += row.attempts
        if row.outcome:
            real[Outcome(row.outcome).counter] += row.n
    return [
        Difference("counter_differs", None, None, f"{name} {counted[name]}", f"rows {real[name]}")
        for name in COUNTERS
        if counted[name] != real[name]
    ]
