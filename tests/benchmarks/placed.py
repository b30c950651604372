"""Calls in the states that a benchmark begins with, by the thousand: rows as the product has them.

Written with SQL, since the product would take minutes. What is measured on them is then counted
by the product's own counters, which start from here.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from sqlalchemy import text

from benchmarks.ours import Ours

# Without the foreign keys' checks, row by row. The indexes are kept, as they grow in use.
_IN_BULK = text("SET LOCAL statement_timeout = 0; SET LOCAL session_replication_role = replica")
_PLACE = """
    WITH moved AS (
        UPDATE calls SET state = CASE :state WHEN 'placed' THEN 'live' ELSE 'dialing' END,
               attempts = 1, last_number = 1
         WHERE run_id = :run RETURNING id, run_id, account_id, phone)
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier,
           carrier_call_id, state, fence, worker_id, claimed_at, lease_until, occupies_until,
           placed_at)
    SELECT uuidv7(), id, run_id, account_id, 1, phone, '+97231234567', 'twilio',
           CASE :state WHEN 'placed' THEN 'CA' || md5(id::text) END, :state, 1, 'bench:1',
           clock_timestamp(), clock_timestamp() + make_interval(secs => :lease),
           clock_timestamp() + interval '1 hour',
           CASE :state WHEN 'placed' THEN clock_timestamp() END
      FROM moved
"""
_COUNT = """
    UPDATE run_counters SET in_progress = queued, attempts = queued, queued = 0 WHERE run_id = :run
"""
_RUNNING = """
    UPDATE runs SET status = 'running', started_at = clock_timestamp() WHERE id = :run
"""


def place(
    ours: Ours, calls: int, first: int = 0, *, state: str = "placed", lease: float = 15
) -> list[tuple[str, str]]:
    """Make a run whose calls were all dialled; returns each attempt and its carrier id.

    Args:
        ours: whose API takes the run in.
        calls: how many.
        first: of the phones.
        state: of the attempts, placed or sending.
        lease: seconds until their lease is over, negative if it is.
    """
    ours.hold()
    run = ours.post(calls, first)
    ours.do(_PLACE, run=run, state=state, lease=lease)
    ours.do(_COUNT, run=run)
    ours.do(_RUNNING, run=run)
    with ours.engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT id::text, carrier_call_id FROM attempts WHERE run_id = %s", (run,)
        )
        return [(row[0], row[1]) for row in found]


def fill(ours: Ours, *statements: str, **values: Any) -> None:
    """Write rows by the million, each statement with those of the values that it names.

    One that names `:part` is run for parts 0 and 1 of what it writes, both at once.
    """

    def write(statement: str, part: int) -> None:
        with ours.engine.begin() as connection:
            connection.execute(_IN_BULK)
            connection.execute(text(statement), values | {"part": part})

    with ThreadPoolExecutor() as pool:
        for statement in statements:
            parts = range(2 if ":part" in statement else 1)
            list(pool.map(partial(write, statement), parts))
    # What autovacuum would do in time: else it does so while a side has its turn.
    ours.ground.sql("VACUUM ANALYZE", database=ours.name)
