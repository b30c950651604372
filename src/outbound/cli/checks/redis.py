"""Redis: is it there, does it keep what it is given, who leads, and who listens."""

from __future__ import annotations

from collections.abc import Iterator

import redis

from outbound import broker, doorbell
from outbound.cli.checks import Finding, judge
from outbound.config import Settings
from outbound.reconciler.leader import KEY

READ_SECONDS = 2
HEARTBEATS = f"{doorbell.NAMESPACE}:__heartbeats__"
"""Dramatiq's: when each worker last asked for a message. An idle one asks every second."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at Redis; raises what a server that is away raises."""
    client = doorbell.client(settings, read_seconds=READ_SECONDS)
    try:
        # INFO, since hosted servers refuse CONFIG.
        yield Finding("redis", "ok", f"Redis {client.info('server').get('redis_version')}")
        yield _memory(client)
        yield _disk(client)
        leads = bool(client.exists(KEY))
        detail = "a reconciler leads" if leads else "no reconciler leads"
        yield judge("leader", detail, "start `outbound reconciler`", fine=leads)
        yield _workers(client)
    finally:
        client.close()


def _memory(client: redis.Redis) -> Finding:
    memory = client.info("memory")
    limit, policy = memory.get("maxmemory", 0), memory.get("maxmemory_policy", "unknown")
    return judge(
        "redis memory",
        f"maxmemory {limit} bytes, {policy}" if limit else "no limit",
        "set maxmemory-policy noeviction: an evicted doorbell is a late call, and the leader's"
        " lock can be evicted, too",
        fine=not limit or policy == "noeviction",
        otherwise="warn",
    )


def _disk(client: redis.Redis) -> Finding:
    is_kept = bool(client.info("persistence").get("aof_enabled"))
    return judge(
        "redis persistence",
        f"append-only file {'on' if is_kept else 'off'}",
        "no lead is lost without it; with appendonly yes calls are not late after a restart",
        fine=is_kept,
        otherwise="info",
    )


def _workers(client: redis.Redis) -> Finding:
    seconds = broker.HEARTBEAT_TIMEOUT_MS / 1000
    now = client.time()[0]
    count = client.zcount(HEARTBEATS, (now - seconds) * 1000, "+inf")
    return judge(
        "worker",
        f"{count or 'no'} worker{'' if count == 1 else 's'} asked this Redis for work in the last"
        f" {seconds:.0f} s",
        "start `outbound worker`; if one runs, is its REDIS_URL this one?",
        fine=bool(count),
    )
