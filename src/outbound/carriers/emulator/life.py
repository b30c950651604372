"""The passing of time: brings each call from one status to the next when its moment comes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from .calls import next_step

if TYPE_CHECKING:
    from .book import Book
    from .callbacks import Courier
    from .calls import Call


class Life:
    """Moves calls on, and has each move told to the client.

    Args:
        book: The calls.
        courier: Tells the client.
        queue_seconds: How long a call stays queued.
    """

    def __init__(self, book: Book, courier: Courier, queue_seconds: float) -> None:
        self._book = book
        self._courier = courier
        self._queue_seconds = queue_seconds

    def begin(self, call: Call) -> None:
        """Set a call's timer for what happens to it next.

        What fell due while no emulator ran happens at once; what follows takes its usual time.
        """
        step = next_step(call, self._queue_seconds)
        if step is not None:
            wait = max(0.0, step.at - time.time())
            call.wake = asyncio.get_running_loop().call_later(
                wait, self._advance, call, step.status
            )

    def hang_up(self, call: Call) -> None:
        """End a call from our side."""
        self._advance(call, "completed" if call.status == "in-progress" else "canceled")

    def resume(self) -> int:
        """Continue the calls that an earlier process left unfinished, and count them."""
        unfinished = self._book.unfinished()
        for call in unfinished:
            self.begin(call)
        return len(unfinished)

    def stop(self) -> None:
        """Leave the calls as they are, for the next process to continue."""
        for call in self._book.unfinished():
            self._disarm(call)

    def _advance(self, call: Call, status: str) -> None:
        self._disarm(call)
        self._book.move(call, status, time.time())
        self._courier.report(call)
        self.begin(call)

    @staticmethod
    def _disarm(call: Call) -> None:
        if call.wake is not None:
            call.wake.cancel()
            call.wake = None
