"""Our record of a run held against the carrier's, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text

from outbound.carriers.base import Carrier, CarrierCall, CarrierUnavailable
from outbound.counters import SUMS
from outbound.errors import not_found
from outbound.models import COUNTERS
from outbound.states import AttemptState, CallState, Decision, Outcome

THREADS = 8
PAGE = 100
MATCH_BEFORE = timedelta(seconds=2)
MATCH_AFTER = timedelta(hours=24)
"""A call to the same number later than this is not this attempt's double."""

_RUN = text("SELECT id FROM runs WHERE id = :run")
_ATTEMPTS = text("""
    SELECT id, call_id, state, outcome, carrier, carrier_call_id, phone, caller_id, claimed_at,
           decision, decision_stands
      FROM attempts
     WHERE run_id = :run AND account_id = (SELECT account_id FROM runs WHERE id = :run)
       AND id > :after ORDER BY id LIMIT :limit
""")
_KNOWN = text("""
    SELECT carrier_call_id FROM attempts WHERE carrier = :carrier
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
        kind: `double` (a second call of one attempt, hung up or not), `carrier_does_not_know`,
            `we_do_not_know` (a call that no attempt has), `wrong_outcome`, `still_open`,
            `counter_differs` or `carrier_unavailable`.
    """

    kind: str
    attempt_id: str | None
    carrier_call_id: str | None
    ours: str
    carriers: str


def audit(engine: Engine, carrier: Carrier, run_id: UUID) -> tuple[int, list[Difference]]:
    """Compare every attempt of a run with the carrier's record.

    Gives up after a page of attempts of which the carrier answered nothing.

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
            found = [*chain(*pool.map(lambda row: _compare(engine, carrier, row), rows))]
            differences += found
            if sum(one.kind == "carrier_unavailable" for one in found) == len(rows):
                break
    return compared, _each_call_once(differences)


def _each_call_once(differences: list[Difference]) -> list[Difference]:
    """Drop what two attempts to one phone both found, and keep the one that knows whose it is."""
    doubles = {one.carrier_call_id for one in differences if one.kind == "double"}
    kept: dict[object, Difference] = {}
    for number, one in enumerate(differences):
        stranger = one.kind == "we_do_not_know"
        if not (stranger and one.carrier_call_id in doubles):
            kept.setdefault(one.carrier_call_id if stranger else number, one)
    return list(kept.values())


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
        since = row["claimed_at"] - MATCH_BEFORE
        calls = carrier.find(to=row["phone"], caller_id=row["caller_id"], since=since)
        strangers = _strangers(engine, carrier, row, calls)
        if row["carrier_call_id"]:
            return strangers + _compare_known(carrier, row, calls)
        return strangers or _compare_decided(row)
    except CarrierUnavailable as error:
        return [_difference("carrier_unavailable", row, None, str(error))]


def _compare_known(carrier: Carrier, row: Any, calls: list[CarrierCall]) -> list[Difference]:
    sid = row["carrier_call_id"]
    listed = (call for call in calls if call.carrier_call_id == sid)
    call = next(listed, None) or carrier.look_up(sid)
    if call is None:
        return [_difference("carrier_does_not_know", row, None, "nothing")]
    if call.progress.is_final and row["state"] != AttemptState.ENDED:
        return [_difference("still_open", row, call, str(call.progress))]
    if row["state"] == AttemptState.ENDED and row["outcome"] != str(call.progress):
        return [_difference("wrong_outcome", row, call, str(call.progress))]
    return []


def _compare_decided(row: Any) -> list[Difference]:
    """A person said that the call took place: no call of the carrier's bears that out."""
    if row["decision_stands"] and row["decision"] == Decision.PLACED:
        return [_difference("carrier_does_not_know", row, None, "nothing")]
    return []


def _strangers(
    engine: Engine, carrier: Carrier, row: Any, calls: list[CarrierCall]
) -> list[Difference]:
    """Find calls by a program to the attempt's phone, about then, that no attempt of ours has.

    Also for an attempt whose own call is known: that is where a double hides.
    """
    near = [call for call in calls if _is_near(call, row)]
    return [_stranger(carrier, row, call) for call in _without_owner(engine, row, near)]


def _is_near(call: CarrierCall, row: Any) -> bool:
    if not call.placed_by_api or call.carrier_call_id == row["carrier_call_id"]:
        return False
    return call.created_at is None or call.created_at <= row["claimed_at"] + MATCH_AFTER


def _without_owner(engine: Engine, row: Any, calls: list[CarrierCall]) -> list[CarrierCall]:
    if not calls:
        return []
    values = {"carrier": row["carrier"], "sids": [call.carrier_call_id for call in calls]}
    with engine.connect() as connection:
        known = set(connection.execute(_KNOWN, values).scalars())
    return [call for call in calls if call.carrier_call_id not in known]


def _stranger(carrier: Carrier, row: Any, call: CarrierCall) -> Difference:
    # The only call of an attempt is no double, even if we never heard of it.
    is_ours = carrier.attempt_of(call.carrier_call_id) == row["id"]
    kind = "double" if is_ours and row["carrier_call_id"] else "we_do_not_know"
    return _difference(kind, row, call, str(call.progress))


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
