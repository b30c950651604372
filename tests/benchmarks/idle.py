"""What the system costs while nobody calls: CPU, and commands sent to both servers.

Measured with one web process (two workers), one worker and one reconciler that leads, and no
run. Statements are read off PostgreSQL's log in a time of their own, as logging them costs CPU.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.ground import Ground
from benchmarks.ours import Ours
from benchmarks.proc import cpu_seconds
from benchmarks.references import Reference, fresh
from benchmarks.results import Figure, Report

FULL = {"seconds": 12, "reference_seconds": 8, "settle": 3}
QUICK = {"seconds": 5, "reference_seconds": 3, "settle": 2}
_TRANSACTIONS = """
    SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'ours'
"""


def run(
    ground: Ground, report: Report, *, seconds: int, reference_seconds: int, settle: int
) -> None:
    with Ours(ground) as ours:
        names = ("web", "worker", "reconciler")
        roles = dict(zip(names, ours.start_roles(*names), strict=True))
        roles["reconciler"].wait_for("leader_elected")
        time.sleep(settle)
        before = {name: cpu_seconds(process.popen.pid) for name, process in roles.items()}
        mine = _watch(ground, report, ours.pids, seconds, "ours")
        for name, process in roles.items():
            spent = cpu_seconds(process.popen.pid) - before[name]
            report.tell(f"CPU of {name}", "ms/s", spent / seconds * 1000)
        with ground.logged() as statements:
            time.sleep(seconds)
        sent = [one for one in statements if one.database == "ours"]
        by_role = {role: sum(f" {role} " in one.application for one in sent) for role in _SOURCES}
        report.tell("statements to PostgreSQL", "/s", len(sent) / seconds, by_role=by_role)
    url = fresh(ground, 0)
    ground.client(2).flushdb()
    reference = Reference("reference_dramatiq", url, ground.redis_url(2), "0", "8")
    try:
        reference.go()
        time.sleep(settle)
        others = [reference.process.pid]
        stock = _watch(ground, report, others, reference_seconds, "a stock Dramatiq worker")
        mine.beside(stock.ours)
    finally:
        reference.end()


_SOURCES = ("api", "dramatiq_worker", "reconciler")


def _watch(ground: Ground, report: Report, pids: list[int], seconds: int, who: str) -> Figure:
    client = ground.client()
    transactions, commands = _transactions(ground), client.info("commandstats")
    with ground.metered(*pids) as meter:
        time.sleep(seconds)
    cost = meter.cost
    report.tell(f"CPU of {who}", "ms/s", cost.own / seconds * 1000)
    report.tell(f"CPU of both servers, with {who}", "ms/s", (cost.cpu - cost.own) / seconds * 1000)
    sent = _difference(commands, client.info("commandstats"))
    many = sum(sent.values()) / seconds
    figure = report.tell(f"commands to Redis, of {who}", "/s", many, by_command=sent)
    if who == "ours":
        spent = _transactions(ground) - transactions
        report.tell("transactions in PostgreSQL", "/s", spent / seconds)
        report.tell("WAL", "kB/s", cost.wal / seconds / 1000)
    return figure


def _transactions(ground: Ground) -> int:
    return int(ground.sql(_TRANSACTIONS)[0][0])


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Calls of each command but INFO, which is ours. What a script does counts as commands too."""
    calls = {
        name.removeprefix("cmdstat_"): told["calls"] - before.get(name, {"calls": 0})["calls"]
        for name, told in after.items()
    }
    return {name: many for name, many in calls.items() if many and name not in ("info", "client")}
