# ruff: noqa: S608 - statements are put together from our own words alone
"""The claim: limits, the judge, and the intent, in one transaction. Claim = intent.

A claim locks its account's pace row first, in a statement of its own, so that what the next
statement sees is younger than the lock: read together with the lock, a limit of 5 gave 10.
All limits fail closed; none of them lives in Redis.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, RowMapping, text
from sqlalchemy.exc import DBAPIError

from outbound import clock, counters, db, ending, logs, metrics, pace, policy
from outbound.ids import uuid7s
from outbound.node import Node
from outbound.prepared import SESSION_LOST, prepared

log = logs.get(__name__)

SET_ASIDE = 200
"""Calls that one claim looks through once it has met some whose phones are not free."""

_REPEATABLE = (db.DEADLOCK, db.SERIALIZATION, *SESSION_LOST)

SUPPRESSED = "suppressed"
"""What a call shows as `last_error` that was ended because its phone is never to be called."""

IN_DOUBT_SECONDS = 60
"""How long a claim asks whether its COMMIT took place, before the sweep decides."""

_QUEUED = "SELECT c.next_attempt_at, c.id FROM calls c WHERE c.run_id = r.id AND c.is_queued"
_IN_ORDER = "ORDER BY c.next_attempt_at, c.id LIMIT 1"
_HEAD = f"""
    SELECT * FROM (
        ({_QUEUED} AND (c.next_attempt_at, c.id) >= (r.queue_head_at, r.queue_head_id)
            AND c.next_attempt_at <= clock.now
            AND date_trunc('second', clock.now) = date_trunc('second', r.last_served_at)
            {_IN_ORDER})
         UNION ALL
        ({_QUEUED} {_IN_ORDER})) c LIMIT 1"""
"""The first queued call of a run `r`, due or not, looked for from where the last claim found it.

What was claimed before is dead, but in the index until it is vacuumed, which nothing is while
somebody holds a snapshot open. But a call may come to stand before the head: its new time was
taken before a claim, and committed after it. So the head is a hint: where nothing is due from it
on, and for the first claim in each second, the queue is read from its beginning. Asked for its
first: EXISTS let the planner walk through the table.
"""

# An attempt that was never unknown ends once and for all, and before its run does; and fences grow
# in the order of the account's claims. So of a run's attempts only those can be live whose fence
# is at least `live_from`: the first one that was live when the run was served last, or that
# claim's own if it is less. A run that was never started has none. What was unknown the carrier's
# word may bring back at any time: few, in a table of their own, whatever their run.
# OFFSET 0 and ORDER BY: run by run, whatever the planner knows of them.
_LIMITS = prepared(f"""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
    live AS MATERIALIZED (
        SELECT run_id, count(*)::int AS occupying, min(fence) AS first_fence FROM (
            SELECT a.run_id, a.fence FROM (
                SELECT id, live_from FROM runs
                 WHERE account_id = :account AND ended_at IS NULL AND started_at IS NOT NULL
                 ORDER BY id) r
              CROSS JOIN LATERAL (
                SELECT a.run_id, a.fence FROM attempts a
                 WHERE a.account_id = :account AND a.run_id = r.id AND a.fence >= r.live_from
                   AND a.ended_at IS NULL AND a.unknown_at IS NULL OFFSET 0) a
             UNION ALL
            SELECT u.run_id, NULL FROM unknown_attempts u, clock
             WHERE u.account_id = :account
               AND (u.is_placed OR clock.now < u.occupies_until)) a
         GROUP BY run_id)
    SELECT clock.now, p.max_live_calls, p.calls_per_second AS account_rate,
           p.next_send_at AS account_next, p.min_seconds_between_calls, p.stopped,
           p.not_before, p.backoff_seconds, b.next_trial_at,
           coalesce((SELECT sum(occupying) FROM live), 0)::int AS account_live, r.*
      FROM clock CROSS JOIN account_pace p
      LEFT JOIN breakers b ON b.account_id = p.account_id AND b.carrier = :carrier
      LEFT JOIN LATERAL (
        SELECT r.id AS run_id, r.concurrency, r.calls_per_second AS run_rate,
               r.next_send_at AS run_next, r.caller_id, r.answer_url, r.twiml, r.ring_timeout,
               r.max_call_duration, r.request_id, coalesce(l.occupying, 0) AS run_live,
               l.first_fence, head.next_attempt_at AS head_at, head.id AS head_id
          FROM runs r LEFT JOIN live l ON l.run_id = r.id
         CROSS JOIN LATERAL ({_HEAD}) head
         WHERE r.account_id = :account AND r.status IN ('pending', 'running')
           AND {ending.STILL_DIALS}
           AND coalesce(l.occupying, 0) < r.concurrency
           AND (r.next_send_at IS NULL OR r.next_send_at <= clock.now + :look_ahead)
           AND head.next_attempt_at <= clock.now
         ORDER BY r.last_served_at NULLS FIRST, r.id LIMIT 1) r ON true
     WHERE p.account_id = :account
""")
_LOCK_BREAKER = text("""
    UPDATE breakers SET next_trial_at = :trial
     WHERE account_id = :account AND carrier = :carrier
""")
# The account's lock orders the fences; this one keeps the run as it is.
_LOCK_RUN = prepared("SELECT nextval('fence_seq') FROM runs WHERE id = :run FOR NO KEY UPDATE")
# `held` is counted: EXISTS became a hash of all held phones, and so a walk through every one that
# was held since the last vacuum. And nothing is joined: where a planner expects one due call it
# compares each with each, and IN outside of WHERE is a hash whatever it expects.
_CLAIM = prepared("""
    WITH due AS MATERIALIZED (
        SELECT id, phone, variables, last_number, next_attempt_at FROM calls
         WHERE run_id = :run AND is_queued AND next_attempt_at <= :now
           AND (next_attempt_at, id) >= (:head_at, :head_id)
         ORDER BY next_attempt_at, id LIMIT :scan FOR UPDATE SKIP LOCKED),
    judged AS MATERIALIZED (
        SELECT due.*,
               EXISTS (SELECT FROM suppressions s WHERE s.account_id = :account
                          AND s.phone = due.phone) AS suppressed,
               (SELECT count(*) > 0 FROM attempts h WHERE h.account_id = :account
                   AND h.phone = due.phone AND h.phone_held) AS held,
               (SELECT max(x.claimed_at) + make_interval(secs => :gap) FROM attempts x
                 WHERE x.account_id = :account AND x.phone = due.phone
                   AND x.claimed_at > CAST(:now AS timestamptz) - make_interval(secs => :gap)
                   AND x.run_id <> :run AND x.state <> 'released') AS recent_until
          FROM due),
    numbered AS MATERIALIZED (
        SELECT *, count(*) FILTER (WHERE is_free) OVER (ORDER BY next_attempt_at, id) AS place
          FROM (SELECT *, NOT suppressed AND NOT held AND recent_until IS NULL AS is_free
                  FROM judged) j),
    intent AS (
        INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier,
               state, fence, worker_id, claimed_at, lease_until, occupies_until)
        SELECT (CAST(:ids AS uuid[]))[place], id, :run, :account, last_number + 1, phone,
               :caller_id, :carrier, 'sending', :fence, :worker_id, :now,
               CAST(:now AS timestamptz) + make_interval(secs => :lease),
               CAST(:now AS timestamptz) + make_interval(secs => :occupies)
          FROM numbered WHERE is_free AND place <= :n ORDER BY place
        ON CONFLICT (account_id, phone) WHERE phone_held DO NOTHING
        RETURNING call_id),
    dialing AS (
        UPDATE calls SET state = 'dialing', attempts = attempts + 1,
               last_number = last_number + 1, waiting_for = NULL
         WHERE id = ANY (ARRAY(SELECT call_id FROM intent)) RETURNING id),
    found AS MATERIALIZED (
        SELECT *, id IN (SELECT call_id FROM intent) AS is_claimed
          FROM numbered WHERE NOT is_free OR place <= :n)
    SELECT CASE WHEN is_claimed THEN place END AS place, id AS call_id, last_number + 1 AS number,
           phone, CASE WHEN is_claimed THEN variables END AS variables, suppressed, recent_until
      FROM found ORDER BY place
""")
_ASIDE = text("""
    UPDATE calls c
       SET waiting_for = CASE WHEN w.until IS NULL THEN 'phone' ELSE 'recent_call' END,
           next_attempt_at = coalesce(w.until,
               CAST(:now AS timestamptz) + make_interval(secs => 15 + 30 * random()))
      FROM unnest(CAST(:ids AS bigint[]), CAST(:untils AS timestamptz[])) AS w (id, until)
     WHERE c.id = w.id AND c.id = ANY (CAST(:ids AS bigint[]))
""")
_END_SUPPRESSED = text(f"""
    WITH picked AS (SELECT unnest(CAST(:ids AS bigint[])) AS id),
    {ending.END_PICKED},
    told AS (
        INSERT INTO events (account_id, run_id, call_id, event, source, worker_id)
        SELECT :account, :run, id, 'call_suppressed', :source, :worker_id FROM over)
    SELECT outcome, count(*)::int AS calls FROM over GROUP BY outcome
""")
_MARK_SERVED = prepared("""
    WITH pace AS (
        UPDATE account_pace SET last_claim_at = :now, next_send_at = :account_next
         WHERE account_id = :account)
    UPDATE runs SET last_served_at = :now, next_send_at = :run_next,
           queue_head_at = :head_at, queue_head_id = :head_id, live_from = :live_from,
           status = CASE WHEN :claimed THEN 'running' ELSE status END,
           started_at = CASE WHEN :claimed THEN coalesce(started_at, :now) ELSE started_at END
     WHERE id = :run
""")
_XACT_STATUS = text("SELECT pg_xact_status(CAST(:xid AS xid8))")
# With ORDER BY, which the index of open runs gives. Without it another index cost the same while
# there were no runs, and the plan then read all that the account ever had.
_NEXT_DUE = prepared(f"""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT extract(epoch FROM min(greatest(head.next_attempt_at, p.not_before,
                   r.next_send_at - CAST(:ahead AS interval),
                   p.next_send_at - CAST(:ahead AS interval))) - :since)::float
      FROM clock CROSS JOIN account_pace p
     CROSS JOIN LATERAL (
        SELECT id, next_send_at, last_served_at, queue_head_at, queue_head_id FROM runs
         WHERE account_id = p.account_id AND ended_at IS NULL
           AND status IN ('pending', 'running') AND NOT cancel_requested
         ORDER BY id) r
     CROSS JOIN LATERAL ({_HEAD}) head
     WHERE p.account_id = :account AND NOT p.stopped
""")


class ClaimedCall(NamedTuple):
    """One call to place now: its attempt is committed as `sending`.

    Attributes:
        send_at: on this machine's boot clock, when its pace allows it.
        lease_ends: on the same clock, until when the claim is trusted.
        is_trial: it alone goes out while the account's breaker is open.
        is_slowed: the carrier asked to slow down before this call was claimed.
    """

    attempt_id: UUID
    call_id: int
    number: int
    phone: str
    variables: dict[str, Any]
    send_at: float
    run_id: UUID
    account_id: UUID
    caller_id: str
    twiml: str | None
    answer_url: str | None
    ring_timeout: int
    max_call_duration: int
    fence: int
    lease_ends: float
    is_trial: bool
    is_slowed: bool
    request_id: str | None


@dataclass(frozen=True)
class Claim:
    """What one pass did.

    Attributes:
        calls: to be sent at once.
        aside: calls moved aside, since their phone is not free, or ended, since it is suppressed.
        ended: the run that suppressed calls were ended of, which may be over by that.
        seen_at: the database's time of the pass, None if there is no such account.
    """

    calls: tuple[ClaimedCall, ...] = ()
    aside: int = 0
    ended: UUID | None = None
    seen_at: datetime | None = None


def claim(node: Node, carrier: str, account_id: UUID, most: int, scan: int) -> Claim:
    """Claim up to `most` calls of one run of the account, for dialling at once.

    Args:
        node: this process.
        carrier: the name of the carrier that will place them.
        account_id: whose work.
        most: senders that are reserved for them.
        scan: how many due calls to look through; SET_ASIDE after a pass that moved some aside.

    Returns:
        The committed claim. After a COMMIT whose answer got lost the server is asked what
        became of it, on a new connection.
    """
    for again in range(db.TRIES):
        try:
            return _claim_once(node.engine, _Pass(node, carrier, account_id, most, scan))
        except DBAPIError as error:
            # Only what certainly changed nothing comes here as repeatable: a deadlock, for one.
            if again == db.TRIES - 1 or db.sqlstate(error) not in _REPEATABLE:
                raise
    raise AssertionError("unreachable")


@dataclass
class _Pass:
    node: Node
    carrier: str
    account_id: UUID
    most: int
    scan: int
    xid: str | None = None
    # What there is to log and count, once it is committed: dashboards believe it.
    tell: Callable[[], None] = lambda: None


def _claim_once(engine: Engine, one: _Pass) -> Claim:
    with engine.connect() as connection:
        claimed = _in_transaction(connection, one)
        try:
            connection.commit()
        except DBAPIError as error:
            if not (claimed.calls and one.xid and db.is_away(error)):
                raise
            connection.invalidate()
            if not _was_committed(engine, one.xid):
                return Claim(seen_at=claimed.seen_at)
    one.tell()
    return claimed


def _was_committed(engine: Engine, xid: str) -> bool:
    """Ask what became of a COMMIT whose answer got lost. Nothing is sent before that is known."""
    deadline = time.monotonic() + IN_DOUBT_SECONDS
    while time.monotonic() < deadline:
        try:
            with engine.connect() as connection:
                status = connection.execute(_XACT_STATUS, {"xid": xid}).scalar()
        except DBAPIError:
            status = "in progress"
        log.warning("commit_in_doubt", status=status)
        if status != "in progress":
            return status == "committed"
        time.sleep(0.2)
    return False


def _in_transaction(connection: Connection, one: _Pass) -> Claim:
    locked = pace.lock(connection, one.account_id)
    one.xid = locked[0].xid if locked else None
    # The lease starts before the database looks at its clock, so that ours is over first, and
    # after the wait for other claims of the account: spent from the lease, that wait had an
    # overloaded machine claim and give back for ever.
    started = clock.boot_seconds()
    limits = (
        connection.execute(
            _LIMITS,
            {"account": one.account_id, "carrier": one.carrier, "look_ahead": policy.LOOK_AHEAD},
        )
        .mappings()
        .first()
    )
    if limits is None:
        return Claim()
    times, nexts = _room(limits, one.most)
    if not times:
        return Claim(seen_at=limits["now"])
    if limits["next_trial_at"]:
        _take_trial(connection, one, limits)
    fence = connection.execute(_LOCK_RUN, {"run": limits["run_id"]}).scalar_one()
    ids = uuid7s(len(times))
    found = connection.execute(_CLAIM, _claim_values(one, limits, fence, ids)).all()
    claimed = [row for row in found if row.place]
    # Send times that no call took are given back, else a run of held phones would starve.
    if len(claimed) < len(times):
        times, nexts = _room(limits, len(claimed))
    _mark_served(connection, one, limits, nexts, fence, started=bool(claimed))
    lost = [row for row in found if not row.place]
    waits, suppressed = _set_aside(connection, one, limits, lost) if lost else (Counter(), {})
    _count(connection, limits["run_id"], len(claimed), suppressed, one.node.shard)
    terms = _terms(one, limits, fence, started)
    calls = _calls(limits["now"], claimed, ids, times, terms)
    one.tell = partial(_tell, one, limits, fence, len(claimed), waits, suppressed)
    return Claim(calls, len(lost), limits["run_id"] if suppressed else None, limits["now"])


def _take_trial(connection: Connection, one: _Pass, limits: RowMapping) -> None:
    trial = limits["now"] + policy.BREAKER_TRIAL_AFTER
    values = {"account": one.account_id, "carrier": one.carrier, "trial": trial}
    connection.execute(_LOCK_BREAKER, values)


def _mark_served(
    connection: Connection,
    one: _Pass,
    limits: RowMapping,
    nexts: list[datetime | None],
    fence: int,
    *,
    started: bool,
) -> None:
    values = {
        "now": limits["now"],
        "account": one.account_id,
        "run": limits["run_id"],
        "account_next": nexts[0],
        "run_next": nexts[1],
        "head_at": limits["head_at"],
        "head_id": limits["head_id"],
        # Not above this claim's own, which is less than others' if the sequence was set back.
        "live_from": min(limits["first_fence"] or fence, fence),
        "claimed": started,
    }
    connection.execute(_MARK_SERVED, values)


def _set_aside(
    connection: Connection, one: _Pass, limits: RowMapping, lost: list[Row[Any]]
) -> tuple[Counter[str], dict[str, int]]:
    """Let calls wait whose phones are not free, and end those that are suppressed.

    Returns:
        How many wait for what, and how many were ended with which outcome.
    """
    waiting = [row for row in lost if not row.suppressed]
    if waiting:
        values = {
            "now": limits["now"],
            "ids": [row.call_id for row in waiting],
            "untils": [row.recent_until for row in waiting],
        }
        connection.execute(_ASIDE, values)
    waits = Counter("recent_call" if row.recent_until else "phone" for row in waiting)
    ids = [row.call_id for row in lost if row.suppressed]
    if not ids:
        return waits, {}
    values = {
        "ids": ids,
        "account": one.account_id,
        "run": limits["run_id"],
        "source": one.node.source,
        "worker_id": one.node.worker_id,
        "why": SUPPRESSED,
    }
    ended = connection.execute(_END_SUPPRESSED, values)
    return waits, {row.outcome: row.calls for row in ended}


def _room(limits: RowMapping, most: int) -> tuple[list[datetime], list[datetime | None]]:
    """Plan send times for as many calls as every limit leaves room for."""
    now = limits["now"]
    free = min(
        most,
        limits["max_live_calls"] - limits["account_live"],
        (limits["concurrency"] or 0) - (limits["run_live"] or 0),
    )
    if limits["run_id"] is None or limits["stopped"] or free <= 0:
        return [], _nexts(limits)
    if limits["not_before"] and limits["not_before"] > now:
        return [], _nexts(limits)
    if limits["next_trial_at"]:
        free = 1 if limits["next_trial_at"] <= now else 0
    paces = [
        (limits["account_next"], limits["account_rate"]),
        (limits["run_next"], limits["run_rate"]),
    ]
    return policy.send_times(now, paces, free)


def _nexts(limits: RowMapping) -> list[datetime | None]:
    return [limits["account_next"], limits["run_next"]]


def _claim_values(one: _Pass, limits: RowMapping, fence: int, ids: list[UUID]) -> dict[str, Any]:
    return {
        "account": one.account_id,
        "run": limits["run_id"],
        "now": limits["now"],
        "head_at": limits["head_at"],
        "head_id": limits["head_id"],
        "scan": max(one.scan, len(ids)),
        "n": len(ids),
        "gap": limits["min_seconds_between_calls"],
        "ids": db.array(ids),
        "caller_id": limits["caller_id"],
        "carrier": one.carrier,
        "fence": fence,
        "worker_id": one.node.worker_id,
        "lease": one.node.settings.lease,
        "occupies": limits["ring_timeout"] + limits["max_call_duration"],
    }


def _count(
    connection: Connection, run_id: UUID, claimed: int, suppressed: dict[str, int], shard: int
) -> None:
    delta = ending.deltas(suppressed)
    delta.update(queued=-claimed, in_progress=claimed, attempts=claimed)
    counters.add(connection, {run_id: delta}, shard)


def _terms(one: _Pass, limits: RowMapping, fence: int, started: float) -> dict[str, Any]:
    """Say what all calls of a claim have in common."""
    return {
        "run_id": limits["run_id"],
        "account_id": one.account_id,
        "caller_id": limits["caller_id"],
        "twiml": limits["twiml"],
        "answer_url": limits["answer_url"],
        "ring_timeout": limits["ring_timeout"],
        "max_call_duration": limits["max_call_duration"],
        "fence": fence,
        "lease_ends": started + one.node.settings.lease,
        "is_trial": limits["next_trial_at"] is not None,
        "is_slowed": limits["backoff_seconds"] > 0,
        "request_id": limits["request_id"],
    }


def _calls(
    now: datetime,
    claimed: Sequence[Sequence[Any]],
    ids: list[UUID],
    times: list[datetime],
    terms: dict[str, Any],
) -> tuple[ClaimedCall, ...]:
    # The database's time of the claim came after `started`, so this is not too early.
    here = clock.boot_seconds()
    common = [terms[name] for name in ClaimedCall._fields[-len(terms) :]]
    calls = []
    for (place, call_id, number, phone, variables, *_), at in zip(claimed, times, strict=True):
        send_at = here + (at - now).total_seconds()
        own = (ids[place - 1], call_id, number, phone, variables or {}, send_at)
        calls.append(ClaimedCall(*own, *common))
    return tuple(calls)


def _tell(
    one: _Pass,
    limits: RowMapping,
    fence: int,
    claimed: int,
    waits: Counter[str],
    suppressed: dict[str, int],
) -> None:
    metrics.claimed(claimed, waits["phone"], waits["recent_call"])
    names = {"account_id": str(one.account_id), "run_id": str(limits["run_id"])}
    if claimed:
        log.info(
            "calls_claimed",
            **names,
            lock_acquired=True,
            claimed=claimed,
            fence=fence,
            request_id=limits["request_id"],
        )
    if waits:
        log.info(
            "calls_moved_aside",
            **names,
            dedup_conflict=True,
            phone=waits["phone"],
            recent_call=waits["recent_call"],
        )
    if suppressed:
        log.info("calls_suppressed", **names, calls=sum(suppressed.values()))


def seconds_until_due(connection: Connection, account_id: UUID, since: datetime) -> float | None:
    """Seconds after `since` at which time alone lets the account dial again.

    None if it has nothing queued; not positive if something other than time holds it back.
    """
    values = {"account": account_id, "since": since, "ahead": policy.LOOK_AHEAD}
    return connection.execute(_NEXT_DUE, values).scalar()
