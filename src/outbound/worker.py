"""The worker process: Dramatiq's Worker embedded, with our own clean shutdown.

Dramatiq's command line kills running jobs when a supervisor signals the process group, so the
process hosts the Worker itself.
"""

from __future__ import annotations

import threading
import time

import dramatiq

from outbound import actors, broker, logs, metrics, node, signals
from outbound.carriers import base
from outbound.config import Settings
from outbound.dialer import Dialer

log = logs.get(__name__)

IDLE_MS = 500
"""How often an idle thread looks whether it is to stop. At 50 ms four of them spent half a percent
of a core on that."""


def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish or give back what is held.

    Raises:
        ConfigError: a setting is missing.
    """
    stop = threading.Event()
    signals.on_stop(stop.set)
    logs.set_up(settings, "dramatiq_worker")
    here = node.build(settings, "dramatiq_worker")
    carrier = base.load(settings)
    dialer = Dialer(here, carrier)
    bell = broker.build(settings)
    actors.register(bell, here, carrier, dialer)
    worker = dramatiq.Worker(bell, worker_threads=settings.worker_threads, worker_timeout=IDLE_MS)
    # Prefetched doorbells that a busy process cannot answer are kept from those that can.
    worker.queue_prefetch = settings.worker_threads
    worker.start()
    metrics.start(here.engine)
    log.info(
        "WORKER_START",
        carrier=carrier.name,
        senders=settings.senders,
        threads=settings.worker_threads,
    )
    stop.wait()
    _shut_down(settings, worker, dialer)


def _shut_down(settings: Settings, worker: dramatiq.Worker, dialer: Dialer) -> None:
    started = time.monotonic()
    log.info("worker_stopping")
    # First the dialer: actors then stop claiming, and what is on the wire ends.
    clean = dialer.close(settings.shutdown_seconds)
    left = max(1.0, settings.shutdown_seconds - (time.monotonic() - started))
    worker.stop(timeout=int(left * 1000))
    log.info("worker_stopped", clean=clean, seconds=round(time.monotonic() - started, 2))
