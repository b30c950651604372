"""The process: puts the parts together, says that it is ready, and stops cleanly."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from .book import Book
from .callbacks import Courier
from .clock import iso
from .control import Control
from .errors import EmulatorError
from .faults import Faults
from .ledger import Ledger
from .life import Life
from .rest import Rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .settings import EmulatorSettings

_LARGEST_BODY: Final = 64 * 1024
# Bursts of a thousand clients that connect at once are what an emulator is for.
_BACKLOG: Final = 4096
# Nearly all that is made is kept or freed by count; looking for cycles costs a tenth of the speed.
_GC_THRESHOLDS: Final = (50_000, 50, 100)


def serve(settings: EmulatorSettings) -> None:
    """Run an emulator until SIGTERM or SIGINT; call it in the main thread.

    Args:
        settings: How it runs.

    Raises:
        EmulatorError: The address is taken, or the ledger is not usable.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    asyncio.run(_serve(settings))


async def _serve(settings: EmulatorSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger = Ledger(settings.ledger)
    try:
        await _serve_with(ledger, settings, stop)
    finally:
        ledger.close()


async def _serve_with(ledger: Ledger, settings: EmulatorSettings, stop: asyncio.Event) -> None:
    book = Book(ledger, settings.phone_book())
    faults = Faults(settings.faults, settings.seed)
    courier = Courier(book, faults, settings)
    life = Life(book, courier, settings.queue_seconds)
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.add_routes(Rest(settings, book, life, faults).routes())
    app.add_routes(Control(book, courier, faults).routes())
    try:
        async with _listening(app, settings) as url:
            resumed = life.resume()
            _say_ready(settings, url, calls=len(book.calls), resumed=resumed, torn=ledger.torn)
            await stop.wait()
    finally:
        life.stop()
        await courier.close()


@asynccontextmanager
async def _listening(app: web.Application, settings: EmulatorSettings) -> AsyncIterator[str]:
    # Answers that are held back on purpose must not hold back the end.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, backlog=_BACKLOG)
        await _start(site, settings)
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        await runner.cleanup()


async def _start(site: web.TCPSite, settings: EmulatorSettings) -> None:
    try:
        await site.start()
    except (OSError, OverflowError) as error:
        raise EmulatorError(f"cannot listen at {settings.host}:{settings.port}: {error}") from error


def _say_ready(
    settings: EmulatorSettings, url: str, *, calls: int, resumed: int, torn: int
) -> None:
    line = {
        "timestamp": iso(time.time()),
        "level": "info",
        "event": "emulator_ready",
        "worker_id": f"{socket.gethostname()}:{os.getpid()}",
        "consumer_source": "cli",
        "url": url,
        "account_sid": settings.account_sid,
        "ledger": str(settings.ledger),
        "calls_replayed": calls,
        "calls_resumed": resumed,
        "torn_lines_skipped": torn,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
