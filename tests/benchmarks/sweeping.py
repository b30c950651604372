"""The leader's sweep over many calls of many runs, some of whose workers died.

Ours: a reconciler starts and finds attempts whose lease is over; a turn lasts from its first
write to its last. The reference writes the same attempts, calls and events, 200 a transaction,
and judges nothing. Statements are counted in PostgreSQL's log, in a time of their own.

`dialling beside it`: a worker dials another run with the null carrier, and a reconciler starts at
the same time. What is settled a second while the sweep writes is compared with what is when
the reconciler finds nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import replace
from functools import partial

from benchmarks.ground import Cost, Ground, Statement
from benchmarks.ours import Ours
from benchmarks.placed import fill
from benchmarks.results import Report, Turn, in_turn
from outbound.reconciler import sweeps

FULL = {
    "rounds": 3, "runs": 500, "calls": 1_000_000, "stuck": 10_000, "beside": 7, "dialled": 8000,
}  # fmt: skip
QUICK = {"rounds": 1, "runs": 10, "calls": 4000, "stuck": 2000, "beside": 1, "dialled": 2000}
_PAUSED = "UPDATE runs SET status = 'paused'"  # the one whose columns the others have
_RUNS = """
    INSERT INTO runs
    SELECT (jsonb_populate_record(r, jsonb_build_object('id', uuidv7(), 'status', 'running'))).*
      FROM (SELECT r FROM runs r LIMIT 1) one, generate_series(1, CAST(:runs AS integer))
"""
_CALLS = """
    INSERT INTO calls (run_id, account_id, lead_id, phone, state, outcome, attempts, last_number)
    SELECT r.id, r.account_id, 'lead-' || n,
           '+1' || (2000000000 + 500000000 * CAST(:part AS bigint) + row_number() OVER ()),
           CASE WHEN n <= :stuck THEN 'dialing' ELSE 'completed' END,
           CASE WHEN n <= :stuck THEN NULL ELSE 'answered' END, 1, 1
      FROM runs r, generate_series(1, CAST(:calls AS integer)) n
     WHERE r.status = 'running' AND abs(hashtext(r.id::text) % 2) = :part
"""
_ATTEMPTS = """
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier,
           state, outcome, phone_held, fence, worker_id, claimed_at, lease_until, occupies_until,
           ended_at)
    SELECT uuidv7(), id, run_id, account_id, 1, phone, '+97231234567', 'twilio',
           CASE state WHEN 'dialing' THEN 'sending' ELSE 'ended' END, outcome,
           state = 'dialing', 1, 'bench:1', clock_timestamp() - interval '1 minute',
           clock_timestamp() - interval '45 seconds', clock_timestamp() + interval '1 hour',
           CASE state WHEN 'dialing' THEN NULL ELSE clock_timestamp() END
      FROM calls WHERE run_id IN (SELECT id FROM runs WHERE status = 'running')
       AND id % 2 = :part
"""
_COUNTERS = """
    INSERT INTO run_counters (run_id, shard, in_progress, completed, answered, attempts)
    SELECT run_id, 0, count(*) FILTER (WHERE state = 'dialing'),
           count(*) FILTER (WHERE state <> 'dialing'), count(*) FILTER (WHERE state <> 'dialing'),
           count(*) FROM calls WHERE state <> 'queued' GROUP BY run_id
"""
_AGAIN = (
    """UPDATE attempts SET state = 'sending', unknown_at = NULL, next_lookup_at = NULL, error = NULL
        WHERE state = 'unknown'""",
    "UPDATE calls SET state = 'dialing' WHERE state = 'unknown'",
    "TRUNCATE events, run_counters, unknown_attempts",
    _COUNTERS,
)
_BARE = """
    WITH stuck AS MATERIALIZED (
        SELECT id, call_id FROM attempts
         WHERE ended_at IS NULL AND state = 'sending' AND lease_until < clock_timestamp()
         LIMIT 200 FOR NO KEY UPDATE SKIP LOCKED),
    attempt AS (
        UPDATE attempts SET state = 'unknown', unknown_at = clock_timestamp(),
               next_lookup_at = clock_timestamp(), error = 'the worker died'
         WHERE id IN (SELECT id FROM stuck) RETURNING id, call_id, run_id, account_id),
    call AS (UPDATE calls SET state = 'unknown' WHERE id IN (SELECT call_id FROM stuck)),
    told AS (
        INSERT INTO events (account_id, run_id, call_id, attempt_id, event, source, worker_id)
        SELECT account_id, run_id, call_id, id, 'attempt_unknown', 'reconciler', 'bench:1'
          FROM attempt)
    SELECT count(*) FROM attempt
"""
_SPENT = """
    SELECT extract(epoch FROM max(unknown_at) - min(unknown_at))::float AS s FROM attempts
"""
_DIALLED = """
    SELECT min(claimed_at) AS since, max(ended_at) AS until FROM attempts WHERE run_id = :run
"""
# While both went on: a slow machine may sweep for longer than it dials.
_SWEPT = f"""
    SELECT greatest(min(a.unknown_at), min(d.since)) AS since,
           least(max(a.unknown_at), min(d.until)) AS until
      FROM attempts a CROSS JOIN ({_DIALLED}) d
"""
_SETTLED = """
    SELECT count(*)::int AS n, extract(epoch FROM CAST(:until AS timestamptz) - :since)::float AS s
      FROM attempts WHERE run_id = :run AND ended_at BETWEEN :since AND :until
"""
_SCANS = """
    SELECT relname, seq_scan FROM pg_stat_user_tables
     WHERE relname IN ('calls', 'attempts', 'runs', 'events')
"""


def run(
    ground: Ground,
    report: Report,
    *,
    rounds: int,
    runs: int,
    calls: int,
    stuck: int,
    beside: int,
    dialled: int,
) -> None:
    with Ours(ground, "refuses", OUTBOUND_SENDERS="64") as ours:
        ours.start_web()
        ours.hold()
        ours.post(1)
        stuck_each = max(1, stuck // runs)
        many = runs * stuck_each
        statements = (_PAUSED, _RUNS, _CALLS, _ATTEMPTS)
        fill(ours, *statements, runs=runs, calls=calls // runs, stuck=stuck_each)
        scans: dict[str, int] = defaultdict(int)
        turns = in_turn(
            rounds,
            {
                "ours": partial(_sweep, ours, many, scans),
                "bare UPDATEs": partial(_bare, ours, many),
            },
        )
        what = f"{many} stuck, {runs} runs, {calls} calls : bare"
        report.compare(what, turns["ours"], turns["bare UPDATEs"])
        for table, scanned in sorted(scans.items()):
            report.tell(f"sequential scans of {table}, a sweep of all", "", scanned / rounds)
        _count_statements(ground, report, ours, many)
        turns = in_turn(
            beside,
            {
                "a sweep beside": partial(_dial, ours, dialled, many, sweep=True),
                "nothing to sweep": partial(_dial, ours, dialled, many, sweep=False),
            },
        )
        what = f"dialling, 1 worker, while {many} are swept : nothing to sweep"
        report.compare(what, turns["a sweep beside"], turns["nothing to sweep"])


def _dial(ours: Ours, calls: int, stuck: int, *, sweep: bool) -> Turn:
    """Dial a run, and let a reconciler begin at the same time."""
    if sweep:
        _stick(ours)
    worker = ours.begin_worker()
    run = ours.post(calls, first=1_000_000)
    ours.lift_limits()
    ours.ground.settle_down("ours")
    worker.wait_for("WORKER_START")
    reconciler = ours.start_reconciler()
    ours.let_go()
    ours.wait_for_count(60 + calls / 200, failed=calls, unknown=stuck)  # swept, now or before
    for process in (worker, reconciler):
        process.kill()
    ours.hold()
    ours.ground.client(1).flushdb()
    window = ours.one(_SWEPT if sweep else _DIALLED, run=run)
    found = ours.one(_SETTLED, run=run, since=window.since, until=window.until)
    ours.do("DELETE FROM run_counters WHERE run_id = :run", run=run)
    return Turn(found.n, found.s, Cost())


def _stick(ours: Ours) -> None:
    """Let the workers of all that became unknown have died just now."""
    # On connections that are closed, so that their own scans are told before the turn begins.
    ours.ground.sql("; ".join(_AGAIN), database="ours")
    for table in ("attempts", "calls"):
        ours.ground.sql(f"VACUUM {table}", database="ours")


def _sweep(ours: Ours, stuck: int, scans: dict[str, int]) -> Turn:
    _stick(ours)
    ours.ground.settle_down("ours")
    before = _scans(ours)
    reconciler = ours.start_reconciler()
    with ours.ground.metered(reconciler.popen.pid) as meter:
        # By the counters, so that waiting reads none of the tables whose scans are counted.
        ours.wait_for_count(300, unknown=stuck)
    time.sleep(1.5)  # until its sessions have told their statistics
    reconciler.kill()
    ours.ground.client(1).flushdb()
    for table, scanned in _scans(ours).items():
        scans[table] += scanned - before[table]
    # On a connection that is closed: a pooled one would tell of this scan in the next turn.
    ((seconds,),) = ours.ground.sql(_SPENT, database="ours")
    # The first batch is over at the first write, whose time is not between first and last.
    return Turn(stuck, seconds * stuck / max(1, stuck - sweeps.BATCH), meter.cost)


def _scans(ours: Ours) -> dict[str, int]:
    with ours.engine.connect() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(_SCANS)}


def _bare(ours: Ours, stuck: int) -> Turn:
    _stick(ours)
    ours.ground.settle_down("ours")
    connection = ours.ground.connect("ours")
    own, done = time.process_time(), 0
    with ours.ground.metered() as meter, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # the trigger is ours
        while done < stuck:
            cursor.execute(_BARE)
            ((many,),) = cursor.fetchall()
            done += many
    connection.close()
    return Turn(stuck, meter.seconds, replace(meter.cost, own=time.process_time() - own))


def _count_statements(ground: Ground, report: Report, ours: Ours, stuck: int) -> None:
    _stick(ours)
    with ground.logged() as statements:
        reconciler = ours.start_reconciler()
        ours.wait_for_count(300, unknown=stuck)
        reconciler.kill()
    sizes = [len(one) for one in _transactions(statements) if any("SET state" in s for s in one)]
    report.tell(
        "statements a batch of 200", "", sum(sizes) / len(sizes), batches=len(sizes), sizes=sizes
    )


def _transactions(statements: list[Statement]) -> list[list[str]]:
    """What the reconciler sent in each of its transactions, BEGIN and COMMIT included."""
    open_: dict[str, list[str]] = {}
    found = []
    for one in statements:
        if " reconciler " not in one.application:
            continue
        if one.text.startswith("BEGIN"):
            open_[one.session] = []
        if one.session in open_:
            open_[one.session].append(one.text)
            if one.text.startswith(("COMMIT", "ROLLBACK")):
                found.append(open_.pop(one.session))
    return found
