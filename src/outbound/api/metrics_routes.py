"""GET /metrics, for Prometheus: on a port of its own, and without one nowhere.

It takes no key and tells no secret: no account, phone, id or host. Yet how much is called is
nobody's business outside, so the port that the public reaches answers as if it did not exist.
"""

from __future__ import annotations

import threading
import time
from weakref import WeakKeyDictionary

import falcon
from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from sqlalchemy import Engine

from outbound import metrics_state
from outbound.api.routing import Route
from outbound.errors import Unavailable, not_found
from outbound.node import Node

KEEP_SECONDS = 1.0
"""Scrapes within this time share one reading. Shorter than any scrape interval: else two web
processes, answering in turns, would tell an older and a newer reading in the wrong order."""
WAIT_SECONDS = 1.0


class Reading:
    """One process's last reading, in the shape of a registry."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._families: list[Metric] = []
        self._until = 0.0

    def refresh(self) -> None:
        """Read again if that was a while ago.

        Raises:
            Unavailable: another request has been reading for long; what is older is not shown.
        """
        # Not for ever: with the database hanging, scrapes would take every thread there is.
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise Unavailable("Another reading is under way.")
        try:
            started = time.monotonic()
            if started >= self._until:
                self._families = metrics_state.read(self._engine)
                self._until = started + KEEP_SECONDS
        finally:
            self._lock.release()

    def collect(self) -> list[Metric]:
        """Return what was read, for the encoders."""
        return self._families


_readings: WeakKeyDictionary[Engine, Reading] = WeakKeyDictionary()


def show_metrics(req: falcon.Request, resp: falcon.Response) -> None:
    """Answer in the format that the scraper asks for."""
    node: Node = req.context.node
    # The listener's own port, as the socket has it; no header can claim it.
    if str(node.settings.metrics_port) != req.env.get("SERVER_PORT"):
        raise not_found("page")
    reading = _readings.setdefault(node.engine, Reading(node.engine))
    reading.refresh()
    encode, resp.content_type = choose_encoder(req.get_header("Accept") or "")
    resp.data = encode(reading)
    resp.set_header("Cache-Control", "no-store")


ROUTES = [Route("GET", "/metrics", None, show_metrics)]
