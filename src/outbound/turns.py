"""One thread of a process dials for an account at a time.

More would stand in line for the account's lock, and share the idle senders out among them: many
claims of few calls, where one claim of many costs the database the same.
"""

from __future__ import annotations

import threading
from uuid import UUID


class Turns:
    """Which accounts some thread of this process is at, and who was asked for meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[UUID, bool] = {}

    def take(self, account_id: UUID) -> bool:
        """Begin; false if another thread is at it, which will then look once more."""
        with self._lock:
            if account_id in self._asked:
                self._asked[account_id] = True
                return False
            self._asked[account_id] = False
            return True

    def leave(self, account_id: UUID) -> bool:
        """End; true if somebody asked meanwhile, and may not have been seen."""
        with self._lock:
            return self._asked.pop(account_id)
