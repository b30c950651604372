"""Rings an account again when time alone holds it back: pace, back-off, a retry due soon."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from uuid import UUID


class Timer:
    """One thread and a heap of wake-ups; at most one wake-up an account, the earliest."""

    def __init__(self, ring: Callable[[UUID], object]) -> None:
        self._ring = ring
        self._heap: list[tuple[float, UUID]] = []
        self._due: dict[UUID, float] = {}
        self._changed = threading.Condition()
        self._open = True
        threading.Thread(target=self._run, name="timer", daemon=True).start()

    def ring_in(self, account_id: UUID, seconds: float) -> None:
        """Ring the account after so many seconds, unless it is rung earlier anyway."""
        at = time.monotonic() + seconds
        with self._changed:
            if at < self._due.get(account_id, float("inf")):
                self._due[account_id] = at
                heapq.heappush(self._heap, (at, account_id))
                self._changed.notify()

    def close(self) -> None:
        """Stop; what was not rung is the leader's."""
        with self._changed:
            self._open = False
            self._changed.notify()

    def _run(self) -> None:
        while (account_id := self._next()) is not None:
            self._ring(account_id)

    def _next(self) -> UUID | None:
        with self._changed:
            while self._open:
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    at, account_id = heapq.heappop(self._heap)
                    if self._due.get(account_id) == at:
                        del self._due[account_id]
                        return account_id
                    continue
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
        return None
