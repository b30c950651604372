"""The numbers that a run shows: sharded counters, added to by whoever moves a call.

A reader sums the shards in the statement that reads the run; two statements would not add up.
"""

from __future__ import annotations

import os
from collections import Counter
from uuid import UUID

from sqlalchemy import Connection

from outbound import as_json
from outbound.models import COUNTERS
from outbound.prepared import prepared

SHARDS = 16

_ADD = prepared(f"""
    INSERT INTO run_counters AS c (run_id, shard, {", ".join(COUNTERS)})
    SELECT run_id, :shard, {", ".join(f"coalesce({name}, 0)" for name in COUNTERS)}
      FROM jsonb_to_recordset(CAST(:rows AS jsonb))
           AS w (run_id uuid, {", ".join(f"{name} integer" for name in COUNTERS)})
     ORDER BY run_id
    ON CONFLICT (run_id, shard) DO UPDATE
       SET {", ".join(f"{name} = c.{name} + excluded.{name}" for name in COUNTERS)}
""")  # noqa: S608 - only our own column names

SUMS = ", ".join(f"coalesce(sum(c.{name}), 0)::int AS {name}" for name in COUNTERS)
"""The select list that reads a run's numbers from `run_counters c`."""


def shard_of_process() -> int:
    """Pick this process's shard, so that two processes seldom wait for one row."""
    return os.getpid() % SHARDS


def add(connection: Connection, deltas: dict[UUID, Counter[str]], shard: int) -> None:
    """Add to the runs' counters: one statement, the last one of a transaction, sorted by run."""
    rows = [
        {"run_id": run, **{name: n for name, n in delta.items() if n}}
        for run, delta in deltas.items()
        if any(delta.values())
    ]
    if rows:
        connection.execute(_ADD, {"rows": as_json.dumps(rows), "shard": shard})
