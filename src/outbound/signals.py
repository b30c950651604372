"""Being told to stop: SIGTERM and SIGINT, heard on a thread of their own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

TOLD_TO_STOP = (signal.SIGTERM, signal.SIGINT)


def on_stop(act: Callable[[], object]) -> None:
    """Call `act` each time this process is told to stop. The main thread calls this, once.

    A handler in Python runs on the main thread, between any two of its steps: set there, an
    Event that the main thread is just about to wait for is locked by the waiter, who is
    interrupted, so the process hangs and does not stop. The pipe is written by the
    interpreter itself, whatever its threads are at.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in TOLD_TO_STOP:
        signal.signal(number, _heard)

    def listen() -> None:
        while number := os.read(reading, 1):
            if number[0] in TOLD_TO_STOP:
                act()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def _heard(_number: int, _frame: object) -> None:
    """Replace the default, which would end the process; the pipe tells the rest."""
