"""The only sender of messages. A message says "account A may have work", and no more.

PostgreSQL is the truth, so a ring may get lost, come twice or come late: the actor looks, and
finds work or does not. A ring must never make its sender wait: Redis away costs 250 ms once,
then nothing is rung for a second. The leader's sweep rings for due work that nobody claims.

An account has one ring in the queue at a time, however long the queue is: rung again and again
while it waits, each of a hundred busy accounts would add a message a second, and a newcomer would
wait behind them all. A ring may be of several messages, to wake several workers; where others wait,
only the last of them is answered, else its account had several turns in each round.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from uuid import UUID, uuid4

import dramatiq
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from outbound import logs
from outbound.config import Settings
from outbound.errors import ConfigError

log = logs.get(__name__)

NAMESPACE = "outbound"
QUEUE = "outbound"
BELL = f"{NAMESPACE}:bell"
BELL_LENGTH = 64
DIAL, RESOLVE, HANG_UP = "dial_batch", "resolve_batch", "hang_up_batch"
RING_SECONDS = 60
"""How long a ring bars others of its account, if no worker takes it up: a worker may die with it.
The leader does not wait for that; see ring_again()."""

LOOKED_THROUGH = 10_000
"""Waiting messages that the leader looks through, for those of accounts that it would ring."""
QUIET_AFTER_FAILURE = 1.0
MOST = 4
"""Messages of one ring, at most."""

FEW = 2 * MOST
"""With fewer messages than that in the queue nobody waits for long."""

_TAKE_UP = """
    if redis.call('DECR', KEYS[1]) > 0 and redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[1]) then
        return 0
    end
    redis.call('DEL', KEYS[1])
    return 1
"""


def ring_key(actor: str, account_id: UUID | str) -> str:
    """Name the key that keeps one wake-up from being rung twice; it says how many messages wait."""
    return f"{NAMESPACE}:ring:{actor}:{account_id}"


def take_up(client: redis.Redis, actor: str, account_id: UUID | str) -> bool:
    """Take a ring back with its message, so that the account may be rung for again.

    What a worker does first, before it looks: no later wake-up is lost by that.

    Returns:
        False if another message of the account waits behind others: then that one is its turn.
    """
    queue = f"{NAMESPACE}:{QUEUE}"
    return bool(client.eval(_TAKE_UP, 2, ring_key(actor, account_id), queue, FEW))


def client(settings: Settings, *, read_seconds: float, retry: int = 0) -> redis.Redis:
    """Build a Redis client with every timeout set and no hidden retries.

    redis-py's own default retries a lost answer up to ten times, which enqueues twice.

    Raises:
        ConfigError: REDIS_URL is not set.
    """
    if not settings.redis_url:
        raise ConfigError("REDIS_URL is not set, for example REDIS_URL=redis://redis:6379/0")
    return redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=read_seconds,
        socket_connect_timeout=min(read_seconds, 2.0),
        health_check_interval=15,
        retry=Retry(NoBackoff(), retry),
        protocol=2,
        driver_info=None,
        max_connections=max(64, settings.web_threads * 2, settings.worker_threads * 4),
    )


class Doorbell:
    """Rings for accounts. Never raises: a lost ring is made good by the leader."""

    def __init__(self, settings: Settings) -> None:
        self._redis = client(settings, read_seconds=0.25)
        self._quiet_until = 0.0
        self._lock = threading.Lock()

    def ring(self, account_id: UUID, actor: str = DIAL, messages: int = 1) -> bool:
        """Wake a worker for this account; false if it was rung already, or Redis is away.

        Args:
            account_id: who may have work.
            actor: DIAL, RESOLVE or HANG_UP.
            messages: how many workers to wake, at most MOST.
        """
        if time.monotonic() < self._quiet_until:
            return False
        messages = max(1, min(messages, MOST))
        try:
            key = ring_key(actor, account_id)
            if not self._redis.set(key, messages, nx=True, ex=RING_SECONDS):
                return False
            self._enqueue(account_id, actor, messages)
        except (redis.RedisError, OSError) as error:
            self._fall_quiet(error)
            return False
        return True

    def ring_again(self, rings: Iterable[tuple[str, UUID, int]]) -> None:
        """Ring for work that waits though it was rung for: unless that ring still waits, too.

        Args:
            rings: actor, account and number of messages, as for ring().
        """
        rings = list(rings)
        if not rings or time.monotonic() < self._quiet_until:
            return
        try:
            waiting = self._waiting()
            lost = [ring for ring in rings if (ring[0], str(ring[1])) not in waiting]
            if lost:
                self._redis.delete(*(ring_key(actor, account) for actor, account, _ in lost))
        except (redis.RedisError, OSError) as error:
            self._fall_quiet(error)
            return
        for actor, account_id, messages in lost:
            self.ring(account_id, actor, messages)

    def _waiting(self) -> set[tuple[str, str]]:
        """List actor and account of the messages that no worker has fetched."""
        ids = self._redis.lrange(f"{NAMESPACE}:{QUEUE}", 0, LOOKED_THROUGH - 1)
        bodies = self._redis.hmget(f"{NAMESPACE}:{QUEUE}.msgs", ids) if ids else []
        told = [json.loads(body) for body in bodies if body]
        return {(message["actor_name"], message["args"][0]) for message in told}

    def _enqueue(self, account_id: UUID, actor: str, messages: int) -> None:
        # The layout that Dramatiq documents for enqueueing from elsewhere, together with the
        # bell in one pipeline: a bell without a message, or the other way, is then rare.
        pipeline = self._redis.pipeline(transaction=True)
        for _ in range(messages):
            key = str(uuid4())
            message = dramatiq.Message(
                queue_name=QUEUE,
                actor_name=actor,
                args=(str(account_id),),
                kwargs={},
                options={"redis_message_id": key},
            )
            pipeline.hset(f"{NAMESPACE}:{QUEUE}.msgs", key, message.encode())
            pipeline.rpush(f"{NAMESPACE}:{QUEUE}", key)
        pipeline.rpush(BELL, *[b"1"] * messages)
        pipeline.ltrim(BELL, -BELL_LENGTH, -1)
        pipeline.execute()

    def _fall_quiet(self, error: Exception) -> None:
        with self._lock:
            newly = time.monotonic() >= self._quiet_until
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILURE
        if newly:
            log.warning("ring_failed", error=type(error).__name__)

    def is_reachable(self) -> bool:
        """Tell whether Redis answers within 250 ms."""
        try:
            return bool(self._redis.ping())
        except (redis.RedisError, OSError):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def messages_for(due: int, senders: int) -> int:
    """Say how many workers to wake for that much due work: one for each pool of senders."""
    return max(1, min(-(-due // senders), MOST))
