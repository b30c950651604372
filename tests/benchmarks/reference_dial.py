"""What a message a call does durably: its intent, a carrier that answers at once, the result."""

from __future__ import annotations

import threading

import psycopg2

_INTENT = """
    INSERT INTO attempts (call_id, number, state) VALUES (%s, 1, 'sending')
    ON CONFLICT DO NOTHING RETURNING call_id
"""
_RESULT = """
    WITH ended AS (
        UPDATE attempts SET state = 'ended', ended_at = clock_timestamp(), carrier_call_id = %s
         WHERE call_id = %s AND number = 1 AND state = 'sending' RETURNING call_id)
    UPDATE calls SET state = 'failed', outcome = 'failed', attempts = attempts + 1
     WHERE id IN (SELECT call_id FROM ended)
"""


class Dialling:
    """One connection a thread, kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._here = threading.local()

    def dial(self, call_id: int) -> bool:
        """Dial one call; false if somebody else has it."""
        if not hasattr(self._here, "connection"):
            self._here.connection = psycopg2.connect(self._url)
        connection = self._here.connection
        with connection.cursor() as cursor:
            cursor.execute(_INTENT, (call_id,))
            ours = cursor.fetchone()
            connection.commit()
            if ours is None:
                return False
            cursor.execute(_RESULT, (_place(call_id), call_id))
            connection.commit()
        return True


def _place(call_id: int) -> str:
    return f"N-{call_id}"
