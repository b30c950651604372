"""The only receiver of messages: Dramatiq actors, bodies of a line.

Every message names an account and says "look". The first act is to take back the ring, before
anything is looked at, so that no wake-up is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import dramatiq
import structlog

from outbound import doorbell, hanging_up, logs, unknowns
from outbound.broker import BellBroker
from outbound.carriers.base import Carrier
from outbound.dialer import Dialer
from outbound.node import Node

log = logs.get(__name__)


def register(broker: BellBroker, node: Node, carrier: Carrier, dialer: Dialer) -> None:
    """Declare the three actors on this broker."""
    bodies: dict[str, Callable[[UUID], int]] = {
        doorbell.DIAL: dialer.dial,
        doorbell.RESOLVE: lambda account_id: unknowns.look_up_due(node, carrier, account_id),
        doorbell.HANG_UP: lambda account_id: hanging_up.hang_up_due(node, carrier, account_id),
    }
    for name, body in bodies.items():
        dramatiq.actor(
            _receiver(name, body, broker),
            broker=broker,
            queue_name=doorbell.QUEUE,
            actor_name=name,
        )


def _receiver(name: str, body: Callable[[UUID], int], broker: BellBroker) -> Callable[[str], None]:
    def receive(account: str) -> None:
        structlog.contextvars.clear_contextvars()
        if not doorbell.take_up(broker.client, name, account):
            return
        started = time.monotonic()
        done = body(UUID(account))
        write = log.info if done else log.debug
        write(
            "batch_done",
            actor=name,
            account_id=account,
            done=done,
            duration_ms=round((time.monotonic() - started) * 1000),
        )

    return receive
