"""One process of ours: its settings, its database, its doorbell, and what it is called."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from sqlalchemy import Engine

from outbound import counters, db
from outbound.config import Settings
from outbound.doorbell import Doorbell


@dataclass(frozen=True)
class Node:
    """What nearly every verb needs.

    Attributes:
        source: this process's `consumer_source` in logs and events.
    """

    settings: Settings
    engine: Engine
    doorbell: Doorbell
    source: str

    @property
    def worker_id(self) -> str:
        """The process, as `host:pid`."""
        return self.settings.worker_id

    @property
    def shard(self) -> int:
        """The run_counters rows that this process adds to."""
        return counters.shard_of_process()


def build(settings: Settings, source: str) -> Node:
    """Build the process's node; opens no connection yet, so build it after a fork."""
    # What is imported by now is never garbage: a twentieth of a worker's time was spent on looking.
    gc.freeze()
    return Node(settings, db.connect(settings, source=source), Doorbell(settings), source)
