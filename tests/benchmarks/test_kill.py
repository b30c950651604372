"""How long a run stands still when a worker is killed: figures, no bars.

.venv/bin/pytest tests/benchmarks/test_kill.py -s
"""

import itertools
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import pytest

from processes import Stack, World, wait_until

KILLS = 10


@pytest.mark.timeout(300)
def test_longest_pause_and_unknowns_around_ten_kills(database_url, redis_url, engine):
    stack = Stack(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "token-of-the-emulator",
        }
    )
    try:
        with tempfile.TemporaryDirectory() as directory:
            measure(World(stack, Path(directory) / "ledger"), engine)
    finally:
        stack.stop()


def measure(world, engine):
    workers = world.start()
    key = world.account(engine)
    phones = [f"+1202{200 + n // 10_000:03d}{n % 10_000:04d}" for n in range(2000)]
    run = world.post_run(key, phones, calls_per_second=40.0)
    for kill in range(KILLS):
        reached = 150 * (kill + 1)
        wait_until(lambda reached=reached: world.summary()["calls"] >= reached, 30)
        workers.pop(0).kill()
        workers.append(world.start_worker())
    wait_until(lambda: world.run(key, run)["queued"] == 0, 60)
    at = sorted(datetime.fromisoformat(row["accepted_at"]) for row in world.ledger())
    gaps = sorted((b - a).total_seconds() for a, b in itertools.pairwise(at))
    body = world.run(key, run)
    sys.stdout.write(
        f"\n{KILLS} kills: longest pauses between two calls (s): "
        f"{[round(gap, 2) for gap in gaps[-KILLS:]]}\n"
        f"most calls to one phone {world.summary()['most_calls_to_one_phone']},"
        f" unknown at the end {body['unknown']} of {body['total_leads']}\n"
    )
    assert world.summary()["most_calls_to_one_phone"] == 1
