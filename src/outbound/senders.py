"""The threads on which calls go to the carrier: as many at once as OUTBOUND_SENDERS.

A sender is reserved before the claim's BEGIN, so that what is committed goes on the wire at
once and a killed worker leaves at most that many calls unknown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Senders:
    """A pool of sender threads with reservations."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle = size
        self._open = True
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="sender")

    def reserve(self, seconds: float) -> int:
        """Take every idle sender; wait for one at most that long. 0 once they are stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle > 0 or not self._open, seconds)
            if not self._open:
                return 0
            taken, self._idle = self._idle, 0
            return taken

    def give_back(self, count: int) -> None:
        """Return reserved senders that are not used."""
        if count:
            with self._changed:
                self._idle += count
                self._changed.notify_all()

    def send(self, work: Callable[[], None]) -> None:
        """Run `work` on a reserved sender, which is idle again afterwards."""

        def run() -> None:
            try:
                work()
            finally:
                self.give_back(1)

        self._pool.submit(run)

    def stop(self) -> None:
        """Let nobody reserve any more; what is reserved may still be sent."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def close(self, seconds: float) -> bool:
        """Wait until every sender is idle; false if some were not within the time."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._idle == self.size, seconds)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return done
