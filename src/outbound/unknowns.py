"""Finding out what an unknown became, or deciding it.

A look-up that finds nothing proves nothing: redialling after a "404" made doubles. So only the
carrier's word, or a recorded decision, moves an unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from outbound import db, logs, policy, recording
from outbound.accounts import Caller
from outbound.carriers.base import Carrier, CarrierCall, CarrierUnavailable
from outbound.errors import Refused, not_found
from outbound.node import Node
from outbound.settling import Settled
from outbound.states import AttemptState, CallState, Decision, Evidence, Kind, Outcome

log = logs.get(__name__)

AT_ONCE = 50
THREADS = 8
MATCH_BEFORE = timedelta(seconds=2)
MATCH_AFTER = timedelta(hours=24)
YOUNG = timedelta(minutes=15)
"""So long a person's "not placed" or "redial" is too early, unless forced."""

IS_DUE = """
    a.ended_at IS NULL AND a.state IN ('placed', 'unknown')
    AND a.next_lookup_at <= clock_timestamp()"""
"""Of an attempt `a`: it is to be looked up now."""
_TAKE = text(f"""
    SELECT a.id, a.state, a.carrier_call_id, a.phone, a.caller_id, a.claimed_at, a.unknown_at,
           a.lookups_fail_since, clock_timestamp() AS now
      FROM attempts a
     WHERE a.id = ANY (ARRAY(
        SELECT a.id FROM attempts a WHERE {IS_DUE} AND a.account_id = :account
         ORDER BY a.next_lookup_at LIMIT :limit))
     ORDER BY a.id FOR NO KEY UPDATE OF a SKIP LOCKED
""")  # noqa: S608 - our own words
_AT = """
    UPDATE attempts a SET next_lookup_at = n.at
      FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[])) AS n (id, at)
     WHERE a.id = n.id AND a.id = ANY (CAST(:ids AS uuid[]))
"""
_MOVE_ON = text(_AT)
_LATER = text(f"{_AT} AND a.state = 'unknown'")
_TAKEN_IDS = text("""
    SELECT carrier_call_id FROM attempts
     WHERE carrier = :carrier AND carrier_call_id = ANY (CAST(:sids AS text[]))
""")
_FOUND_NOTHING = text("""
    UPDATE attempts SET empty_lookups = empty_lookups + 1
     WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'unknown'
""")
_LOOKUPS_FAIL = text("""
    UPDATE attempts SET lookups_fail_since = coalesce(lookups_fail_since, clock_timestamp())
     WHERE id = ANY (CAST(:ids AS uuid[])) AND state = 'placed'
""")
_LOOKUPS_WORK = text("""
    UPDATE attempts SET lookups_fail_since = NULL
     WHERE id = ANY (CAST(:ids AS uuid[])) AND lookups_fail_since IS NOT NULL
""")
_UNKNOWN_OF_CALL = text("""
    SELECT c.state AS call_state, a.id, a.carrier_call_id,
           a.claimed_at > clock_timestamp() - CAST(:young AS interval) AS is_young
      FROM calls c
      LEFT JOIN LATERAL (
        SELECT x.* FROM attempts x WHERE x.call_id = c.id AND x.state = 'unknown'
         ORDER BY x.number DESC LIMIT 1) a ON true
     WHERE c.id = :call AND c.run_id = :run AND c.account_id = :account
""")
_UNKNOWNS_OF_RUN = text("""
    SELECT a.id FROM attempts a JOIN calls c ON c.id = a.call_id
     WHERE a.account_id = :account AND a.run_id = :run AND a.ended_at IS NULL
       AND a.state = 'unknown' AND c.state = 'unknown'
       AND (:force OR a.claimed_at <= clock_timestamp() - CAST(:young AS interval))
       AND (:decision <> 'not_placed' OR a.carrier_call_id IS NULL)
       AND a.id > :after ORDER BY a.id LIMIT 100
""")
_RUN_EXISTS = text("SELECT EXISTS (SELECT FROM runs WHERE id = :run AND account_id = :account)")


@dataclass
class _Found:
    """What the look-ups of one batch say; `later`: when unknowns are to be asked about again."""

    evidence: list[Evidence] = field(default_factory=list)
    later: dict[UUID, datetime | None] = field(default_factory=dict)
    nothing: list[UUID] = field(default_factory=list)
    failing: list[UUID] = field(default_factory=list)
    working: list[UUID] = field(default_factory=list)


def look_up_due(node: Node, carrier: Carrier, account_id: UUID) -> int:
    """Look up what of this account is due; returns how many attempts it asked about."""
    rows = db.transaction(node.engine, lambda connection: _take(connection, account_id))
    if not rows:
        return 0
    found = _Found()
    with ThreadPoolExecutor(THREADS) as pool:
        for row, (answered, evidence) in zip(
            rows, pool.map(lambda r: _ask(node, carrier, r), rows), strict=True
        ):
            _sort_in(found, row, answered, evidence)
    _write(node, found)
    return len(rows)


def _take(connection: Connection, account_id: UUID) -> list[dict[str, Any]]:
    # The next time is written in the transaction that takes them: two workers never ask about
    # the same one at once. A look-up whose worker dies, or that the carrier does not answer,
    # comes again within a minute: the ladder's next step can be a day away.
    rows = connection.execute(_TAKE, {"account": account_id, "limit": AT_ONCE}).mappings().all()
    if rows:
        times = [_if_unanswered(row) for row in rows]
        connection.execute(_MOVE_ON, {"ids": [row["id"] for row in rows], "times": times})
    return [dict(row) for row in rows]


def _if_unanswered(row: Any) -> datetime:
    again: datetime = row["now"] + policy.LOOKUP_AGAIN
    if row["state"] == AttemptState.UNKNOWN:
        return min(again, policy.next_lookup(row["unknown_at"], row["now"]) or again)
    return again


def _ask(node: Node, carrier: Carrier, row: dict[str, Any]) -> tuple[bool, list[Evidence] | None]:
    """Ask the carrier about one attempt.

    Returns:
        Whether it answered, and what that says: [] that it has no such call, None that it
        cannot be decided.
    """
    try:
        if row["carrier_call_id"]:
            call = carrier.look_up(row["carrier_call_id"])
            return True, [word(row["id"], call)] if call else []
        return True, _search(node, carrier, row)
    except CarrierUnavailable as error:
        log.warning("look_up_failed", attempt_id=str(row["id"]), error=str(error))
    except Exception:
        log.exception("look_up_failed", attempt_id=str(row["id"]))
    return False, None


def _search(node: Node, carrier: Carrier, row: dict[str, Any]) -> list[Evidence] | None:
    """Find the call of an attempt whose answer was lost."""
    since = row["claimed_at"] - MATCH_BEFORE
    calls = carrier.find(to=row["phone"], caller_id=row["caller_id"], since=since)
    free = without_owner(node.engine, carrier, [call for call in calls if _fits(call, row)])
    return match(row, [(call, carrier.attempt_of(call.carrier_call_id)) for call in free])


def match(
    row: Mapping[Any, Any],
    tagged: Iterable[tuple[CarrierCall, UUID | None]],
    source: str = "look_up",
) -> list[Evidence] | None:
    """Say which of the carrier's calls are an attempt's; None if that cannot be decided.

    A record that carries our attempt id is certain; of several, the oldest comes first and is
    adopted: the others are strays. One that matches by To and From alone counts only if it is
    the only one, and nobody else's.

    Args:
        row: the attempt's id, phone, caller_id and claimed_at.
        tagged: calls that no attempt has, each with the attempt id that it carries.
        source: who asks, for the evidence.
    """
    mine, untagged = [], []
    for call, tag in sorted(tagged, key=_age):
        if tag == row["id"]:
            mine.append(word(row["id"], call, source))
        elif tag is None and _fits(call, row):
            untagged.append(word(row["id"], call, source, by_number=True))
    if mine or len(untagged) <= 1:
        return mine or untagged
    log.warning("look_up_undecided", attempt_id=str(row["id"]), candidates=len(untagged))
    return None


def _age(tagged: tuple[CarrierCall, UUID | None]) -> datetime:
    # Carriers list the newest first; adopting that one would hang up on whoever answered first.
    return tagged[0].created_at or datetime.max.replace(tzinfo=UTC)


def _fits(call: CarrierCall, row: Mapping[Any, Any]) -> bool:
    if not call.placed_by_api or (call.to, call.caller_id) != (row["phone"], row["caller_id"]):
        return False
    after = row["claimed_at"] - MATCH_BEFORE
    return (
        call.created_at is not None and after <= call.created_at <= row["claimed_at"] + MATCH_AFTER
    )


def without_owner(engine: Engine, carrier: Carrier, calls: list[CarrierCall]) -> list[CarrierCall]:
    """Leave those of the carrier's calls that no attempt of any account has."""
    if not calls:
        return []
    values = {"carrier": carrier.name, "sids": [call.carrier_call_id for call in calls]}
    with engine.connect() as connection:
        taken = set(connection.execute(_TAKEN_IDS, values).scalars())
    return [call for call in calls if call.carrier_call_id not in taken]


def word(
    attempt_id: UUID, call: CarrierCall, source: str = "look_up", *, by_number: bool = False
) -> Evidence:
    """Put the carrier's record of a call into evidence about an attempt."""
    return Evidence(
        attempt_id,
        Kind.WORD,
        source,
        carrier_call_id=call.carrier_call_id,
        progress=call.progress,
        duration=call.duration,
        matched_by_number=by_number,
    )


def _sort_in(
    found: _Found, row: dict[str, Any], answered: bool, evidence: list[Evidence] | None
) -> None:
    placed = row["state"] == AttemptState.PLACED
    if evidence:
        found.evidence += evidence
        found.working.append(row["id"])
    elif placed:
        found.failing.append(row["id"])
        since = row["lookups_fail_since"]
        if since and row["now"] - since >= policy.SILENT_AFTER:
            error = "the carrier's look-ups fail"
            found.evidence.append(Evidence(row["id"], Kind.SILENT, "look_up", error=error))
    elif answered:
        found.later[row["id"]] = policy.next_lookup(row["unknown_at"], row["now"])
        if evidence is not None:
            found.nothing.append(row["id"])


def _write(node: Node, found: _Found) -> None:
    def body(connection: Connection) -> None:
        for statement, ids in (
            (_FOUND_NOTHING, found.nothing),
            (_LOOKUPS_FAIL, found.failing),
            (_LOOKUPS_WORK, found.working),
        ):
            # One row at a time in order of id would be the lock order; these are few and only
            # this batch has taken them.
            if ids:
                connection.execute(statement, {"ids": sorted(ids)})
        if found.later:
            later = dict(sorted(found.later.items()))
            connection.execute(_LATER, {"ids": [*later], "times": [*later.values()]})

    db.transaction(node.engine, body)
    settled = recording.record(node, found.evidence) if found.evidence else Settled()
    log.info(
        "looked_up",
        found=len(found.evidence),
        nothing=len(found.nothing),
        failing=len(found.failing),
        outcomes={str(outcome): count for (outcome, _), count in settled.outcomes.items()},
    )


def resolve(
    node: Node,
    account_id: UUID,
    run_id: UUID,
    call_id: int,
    decision: Decision,
    *,
    outcome: Outcome | None,
    note: str | None,
    force: bool,
    who: Caller,
) -> None:
    """Settle one unknown by a person's word. The carrier's later word corrects it.

    Raises:
        Refused: no such call; it is not unknown; too early without `force`; or the carrier is
            known to have the call, so that "not placed" cannot be true.
    """
    with node.engine.connect() as connection:
        values = {"call": call_id, "run": run_id, "account": account_id, "young": YOUNG}
        row = connection.execute(_UNKNOWN_OF_CALL, values).mappings().first()
    if row is None:
        raise not_found("call")
    if row["call_state"] != CallState.UNKNOWN or row["id"] is None:
        raise Refused(
            "not_unknown", f"The call is {row['call_state']}; there is nothing to decide."
        )
    if decision is Decision.NOT_PLACED and row["carrier_call_id"]:
        raise Refused("carrier_has_call", "The carrier has this call; it cannot be not_placed.")
    if decision is not Decision.PLACED and row["is_young"] and not force:
        raise Refused(
            "too_early",
            "The call may still ring. Decide 15 minutes after it was claimed, or send force: true.",
        )
    item = _decided(row["id"], decision, outcome, note, who)
    if not recording.record(node, [item]).moved:
        raise Refused("not_unknown", "The carrier or somebody else was faster; look again.")


def _decided(
    attempt_id: UUID, decision: Decision, outcome: Outcome | None, note: str | None, who: Caller
) -> Evidence:
    return Evidence(
        attempt_id,
        Kind.DECISION,
        "operator",
        decision=decision,
        outcome=outcome,
        note=note,
        by=str(who.key_id),
        request_id=who.request_id,
    )


def resolve_all(
    node: Node,
    account_id: UUID,
    run_id: UUID,
    decision: Decision,
    *,
    outcome: Outcome | None,
    note: str | None,
    force: bool,
    who: Caller,
) -> int:
    """Decide all the run's unknowns that are older than 15 minutes (any, with `force`).

    Returns:
        How many were decided; those of which the carrier has the call are left by not_placed.

    Raises:
        Refused: there is no such run.
    """
    decided, after = 0, UUID(int=0)
    values = {
        "run": run_id,
        "account": account_id,
        "young": YOUNG,
        "force": force,
        "decision": str(decision),
    }
    with node.engine.connect() as connection:
        if not connection.execute(_RUN_EXISTS, values).scalar():
            raise not_found("run")
    while True:
        with node.engine.connect() as connection:
            ids = connection.execute(_UNKNOWNS_OF_RUN, values | {"after": after}).scalars().all()
        if not ids:
            return decided
        items = [_decided(one, decision, outcome, note, who) for one in ids]
        decided += len(recording.record(node, items).moved)
        after = ids[-1]
