"""Dramatiq's Redis broker, with a bell: an idle consumer blocks instead of polling.

Blocking on the bell costs about three Redis commands a second when idle and picks a message up
in some 3 ms; Dramatiq's own polling costs 26 and 48 ms.
"""

from __future__ import annotations

import time
from typing import Any

import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import BrokerError
from dramatiq.middleware import Middleware

from outbound import doorbell, logs
from outbound.config import Settings

log = logs.get(__name__)

BELL_SECONDS = 1
READ_SECONDS = 3.0
PAUSE_SECONDS = 0.5
FULL_SECONDS = 0.02
"""How long to wait for a thread when as many messages are held as may be."""
HEARTBEAT_TIMEOUT_MS = 15_000
MAINTENANCE_CHANCE = 50_000
"""In a million commands: how often a dead worker's messages are put back. They are doorbells."""


class _BellConsumer(_RedisConsumer):  # type: ignore[misc]
    """Waits on the bell before each fetch, and survives Redis being away."""

    def __next__(self) -> Any:
        try:
            if not self.message_cache:
                if self.outstanding_message_count >= self.prefetch:
                    time.sleep(FULL_SECONDS)
                    return None
                self.broker.client.blpop([doorbell.BELL], timeout=BELL_SECONDS)
                # What follows finds the message, or sleeps for its shortest backoff.
                self.misses = 0
            return super().__next__()
        except (redis.RedisError, OSError, BrokerError) as error:
            # Raised on, it would rebuild this consumer only after three seconds.
            log.warning("redis_away", error=type(error).__name__)
            time.sleep(PAUSE_SECONDS)
            return None

    def ack(self, message: Any) -> None:
        self._forget(super().ack, message)

    def nack(self, message: Any) -> None:
        self._forget(super().nack, message)

    def _forget(self, verb: Any, message: Any) -> None:
        # A message that stays unacknowledged rings once more some day, and finds nothing.
        # Dramatiq would block this worker thread until Redis is back.
        try:
            verb(message)
        except (redis.RedisError, OSError, BrokerError) as error:
            log.warning("ack_lost", error=type(error).__name__)


class BellBroker(RedisBroker):  # type: ignore[misc]
    """Dramatiq's Redis broker without a delay queue: `next_attempt_at` is our schedule."""

    @property
    def consumer_class(self) -> type[_BellConsumer]:
        """The consumer that blocks on the bell."""
        return _BellConsumer

    def declare_queue(self, queue_name: str) -> None:
        """Declare the queue alone; a delay queue would be polled for nothing."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)


class BatchLog(Middleware):  # type: ignore[misc]
    """Logs one line for each batch message that failed; the leader rings again."""

    def after_process_message(
        self, _broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        """Tell of an actor that raised."""
        del result
        if exception is not None:
            log.warning(
                "batch_failed",
                actor=message.actor_name,
                account_id=message.args[0],
                error=type(exception).__name__,
            )


def build(settings: Settings) -> BellBroker:
    """Build the broker of a worker process.

    No Retries, TimeLimit or AgeLimit: retries of a doorbell are the leader's sweep, and retries
    in Dramatiq are delayed messages, which it loses when Redis goes away.

    Raises:
        ConfigError: REDIS_URL is not set.
    """
    return BellBroker(
        client=doorbell.client(settings, read_seconds=READ_SECONDS),
        middleware=[BatchLog()],
        namespace=doorbell.NAMESPACE,
        heartbeat_timeout=HEARTBEAT_TIMEOUT_MS,
        maintenance_chance=MAINTENANCE_CHANCE,
    )
