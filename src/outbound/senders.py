"""The threads on which calls go to the carrier: as many at once as OUTBOUND_SENDERS.

A sender is reserved before the claim's BEGIN, so that what is committed goes on the wire at
once, and a killed worker leaves no more calls unknown than these and the answers that it had not
written yet (recorder.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Generic, TypeVar

from outbound import logs

T = TypeVar("T")

log = logs.get(__name__)

GATHER_SECONDS = 0.01
"""How long a reservation waits for half of the senders: a claim costs nearly the same for one call
as for many, and one claim a call is what a busy database has no time for."""


class Senders(Generic[T]):
    """So many sender threads, with reservations.

    Args:
        size: how many.
        work: what each does with one call.
    """

    def __init__(self, size: int, work: Callable[[T], None]) -> None:
        self.size = size
        self._work = work
        self._half = (size + 1) // 2
        self._idle = size
        self._open = True
        self._changed = threading.Condition()
        self._queue: SimpleQueue[T] = SimpleQueue()
        for number in range(size):
            # Daemons: a request that outlasts the time to shut down holds the process no longer.
            threading.Thread(target=self._run, name=f"sender_{number}", daemon=True).start()

    def reserve(self, seconds: float) -> int:
        """Take every idle sender; wait for one at most that long. 0 once they are stopped."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._wait_for(1, deadline - time.monotonic()):
                self._wait_for(self._half, GATHER_SECONDS)
                if self._open and self._idle:  # meanwhile another account may have taken them
                    taken, self._idle = self._idle, 0
                    return taken
            return 0

    def _wait_for(self, idle: int, seconds: float) -> bool:
        self._changed.wait_for(lambda: self._idle >= idle or not self._open, seconds)
        return self._open and self._idle >= idle

    def give_back(self, count: int) -> None:
        """Return reserved senders that are not used."""
        if count:
            with self._changed:
                before, self._idle = self._idle, self._idle + count
                # Not at each one: who waits would take the interpreter from the senders.
                if before == 0 or before < self._half <= self._idle or self._idle == self.size:
                    self._changed.notify_all()

    def send(self, calls: Iterable[T]) -> None:
        """Hand each call to a reserved sender, which is idle again afterwards."""
        for call in calls:
            self._queue.put(call)

    def _run(self) -> None:
        while True:
            call = self._queue.get()
            try:
                self._work(call)
            except Exception:
                log.exception("sender_failed")
            finally:
                self.give_back(1)

    def stop(self) -> None:
        """Let nobody reserve any more; what is reserved may still be sent."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Wait until every sender is idle; false if some were not within the time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle == self.size, seconds)
