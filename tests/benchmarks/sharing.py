"""Many runs of many accounts that share one worker, beside one run that has it for itself.

Both dial from the same tables, with the null carrier, until so many calls are dialled of many
more that wait: what differs is how often the worker turns from an account to the next, and what
it asks before it does. Nobody posts a million leads for that: the rows are written with SQL, and
the reconciler's sweep rings the accounts.

How even the shares are is told of the same windows. An account's turn is a hundred calls, all of
one run or two: only a window of many turns of each account, and of many claims of each run, can say
by its shares in % who is preferred, and they are told of no other. Calls between one and another
say how many turns that is. Rings left in Redis are those that nobody has answered when the window
ends.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import text

from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.placed import fill
from benchmarks.results import Report, Turn, in_turn
from outbound import doorbell
from outbound.dialer import TURN

FULL = {
    "rounds": 7, "accounts": 100, "runs": 1000, "calls": 1_000_000, "window": 8000, "senders": 64,
}  # fmt: skip
QUICK = {
    "rounds": 1, "accounts": 5, "runs": 20, "calls": 4000, "window": 1000, "senders": 16,
}  # fmt: skip
LOOK_EVERY = 0.25
SPARE = 2000
"""Calls that a window may have more than was asked for, by then."""
MANY = 10 * TURN
"""Calls that a share in % needs at least."""
_ACCOUNTS = """
    WITH made AS (
        INSERT INTO accounts (id, name, caller_ids)
        SELECT uuidv7(), 'many-' || n, a.caller_ids
          FROM accounts a, generate_series(1, CAST(:accounts AS integer)) n RETURNING id)
    INSERT INTO account_pace (account_id, min_seconds_between_calls) SELECT id, 0 FROM made
"""
_RUNS = """
    INSERT INTO runs
    SELECT (jsonb_populate_record(r, jsonb_build_object(
               'id', uuidv7(), 'account_id', a.id, 'total_leads', CAST(:each AS integer)))).*
      FROM runs r JOIN accounts a ON a.id <> r.account_id
     CROSS JOIN generate_series(1, CAST(:runs_each AS integer))
"""
_CALLS = """
    INSERT INTO calls (run_id, account_id, lead_id, phone)
    SELECT r.id, r.account_id, 'more-' || n,
           '+1' || (2000000000 + 500000000 * CAST(:part AS bigint) + row_number() OVER ())
      FROM runs r, generate_series(1, CAST(CASE WHEN r.id = :one THEN :alone ELSE :each END
                                           AS integer)) n
     WHERE abs(hashtext(r.id::text) % 2) = :part
"""
_COUNTERS = """
    INSERT INTO run_counters (run_id, shard, queued)
    SELECT run_id, 0, count(*) FROM calls GROUP BY run_id
    ON CONFLICT (run_id, shard) DO UPDATE SET queued = excluded.queued
"""
# Whose turn it is not, its runs are over: no sweep looks at them, and no side pays for the other's.
_OPEN = """
    UPDATE runs SET status = CASE WHEN (id = :one) = :alone THEN 'running' ELSE 'completed' END,
           ended_at = CASE WHEN (id = :one) = :alone THEN NULL ELSE clock_timestamp() END
"""
_STOP = "UPDATE account_pace SET stopped = :stopped, next_send_at = NULL, last_claim_at = NULL"
_SPENT = """
    SELECT count(*) AS calls,
           extract(epoch FROM max(ended_at) - min(claimed_at))::float AS seconds,
           count(DISTINCT fence) AS claims
      FROM attempts WHERE claimed_at >= :since
"""
_SHARES = """
    SELECT r.account_id, count(a.id) AS calls
      FROM runs r LEFT JOIN attempts a ON a.run_id = r.id AND a.claimed_at >= :since
     WHERE r.ended_at IS NULL GROUP BY r.id
"""


def run(
    ground: Ground,
    report: Report,
    *,
    rounds: int,
    accounts: int,
    runs: int,
    calls: int,
    window: int,
    senders: int,
) -> None:
    with Ours(ground, "refuses", OUTBOUND_SENDERS=str(senders)) as ours:
        ours.start_web()
        one = ours.post(1)  # with the columns that all the others have
        sizes = {"accounts": accounts, "runs_each": runs // accounts, "each": calls // runs}
        statements = (_ACCOUNTS, _RUNS, _CALLS, _COUNTERS)
        fill(ours, *statements, one=one, alone=(rounds + 1) * (window + SPARE), **sizes)
        ours.lift_limits()
        ours.start_reconciler()
        # Of a table that was empty PostgreSQL knows nothing, and reads it whole: not here.
        for alone in (False, True):
            _dial(ours, one, window // 10, alone=alone)
        turns = in_turn(
            rounds,
            {
                "many": partial(_dial, ours, one, window, alone=False),
                "one": partial(_dial, ours, one, window, alone=True),
            },
        )
    what = f"{runs:,} runs of {accounts} accounts, {calls:,} calls waiting : one run"
    report.compare(what, turns["many"], turns["one"])
    for side, taken in turns.items():
        for name in ("calls a claim", "rings left in Redis"):
            report.tell(f"{name}, {side}", "", statistics.median(one.more[name] for one in taken))
    shares = [turn.more["shares"] for turn in turns["many"]]
    _tell_shares(report, "an account", [[list(map(sum, share.values()))] for share in shares])
    _tell_shares(report, "a run in its account", [list(share.values()) for share in shares])


def _dial(ours: Ours, one: str, window: int, *, alone: bool) -> Turn:
    ours.do(_OPEN, one=one, alone=alone)
    ours.do(_STOP, stopped=True)
    ours.redis.flushdb()  # the rings that the turn before left
    worker = ours.begin_worker()
    ours.ground.sql("VACUUM", database=ours.name)
    ours.ground.settle_down(ours.name)
    worker.wait_for("WORKER_START")
    since = ours.one("SELECT clock_timestamp() AS now").now
    with ours.ground.metered(*ours.pids) as meter:
        _dial_so_many(ours, window)
    left = ours.redis.llen(f"{doorbell.NAMESPACE}:{doorbell.QUEUE}")
    worker.kill()
    spent = ours.one(_SPENT, since=since)
    more = {"calls a claim": spent.calls / spent.claims, "rings left in Redis": left}
    return Turn(spent.calls, spent.seconds, meter.cost, more | {"shares": _shares(ours, since)})


def _dial_so_many(ours: Ours, window: int) -> None:
    """Let the accounts go and stop them again: what was claimed by then is written, and counts."""
    before = ours.counted()["attempts"]
    ours.do(_STOP, stopped=False)
    deadline = time.monotonic() + 60 + window / 20
    while ours.counted()["attempts"] < before + window:
        assert time.monotonic() < deadline, "the window is not over"
        time.sleep(LOOK_EVERY)  # a look reads the counters of all runs, and is in both sides' costs
    ours.do(_STOP, stopped=True)
    ours.wait_for_count(30, in_progress=0)


def _shares(ours: Ours, since: Any) -> dict[UUID, list[int]]:
    """Count the calls of each run that were dialled, by account."""
    found: dict[UUID, list[int]] = defaultdict(list)
    with ours.engine.connect() as connection:
        for row in connection.execute(text(_SHARES), {"since": since}):
            found[row.account_id].append(row.calls)
    return found


def _tell_shares(report: Report, who: str, rounds: list[list[list[int]]]) -> None:
    """Tell the least and the most of any round by the mean of the group that shares something."""
    groups = [group for groups in rounds for group in groups if any(group)]
    told = (("least", min), ("most", max)) if min(map(statistics.mean, groups)) >= MANY else ()
    for name, choose in told:
        share = choose(choose(group) / statistics.mean(group) for group in groups)
        report.tell(f"{name} calls of {who}, by the mean", "%", share * 100)
    between = max(max(group) - min(group) for group in groups)
    report.tell(f"most calls between {who} and another", "calls", between)
