"""The limit: nothing but the SQL that any design needs, a hundred calls at once.

python -m benchmarks.reference_sql URL CONNECTIONS
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from benchmarks.references import serve

BATCH = 100
_CLAIM = """
    WITH claimed AS (
        UPDATE calls SET state = 'dialing', attempts = attempts + 1
         WHERE id = ANY (ARRAY(SELECT id FROM calls WHERE state = 'queued'
                                ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED))
        RETURNING id, attempts)
    INSERT INTO attempts (call_id, number, state)
    SELECT id, attempts, 'sending' FROM claimed RETURNING call_id
"""
_SETTLE = """
    WITH ended AS (
        UPDATE attempts SET state = 'ended', ended_at = clock_timestamp(), carrier_call_id = call_id
         WHERE call_id = ANY (%s) AND state = 'sending' RETURNING call_id)
    UPDATE calls SET state = 'failed', outcome = 'failed'
     WHERE id = ANY (%s) AND id IN (SELECT call_id FROM ended)
"""


def dial_all(connection: Connection) -> None:
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_CLAIM, (BATCH,))
            claimed = [row[0] for row in cursor.fetchall()]
            connection.commit()
            if not claimed:
                return
            cursor.execute(_SETTLE, (claimed, claimed))
            connection.commit()


def main(url: str, connections: str) -> None:
    opened = [psycopg2.connect(url) for _ in range(int(connections))]

    def work() -> None:
        with ThreadPoolExecutor(len(opened)) as pool:
            list(pool.map(dial_all, opened))

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
