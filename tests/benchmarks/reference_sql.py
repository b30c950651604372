"""The limit: nothing but the SQL that any design needs, a hundred calls at once.

python -m benchmarks.reference_sql URL CONNECTIONS small|ours

`small`: tables that have what this needs and no more. `ours`: the product's own, with all their
columns and indexes, so that the schema's share can be told from that of the protocol.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from benchmarks.references import serve

BATCH = 100
SMALL = (
    """
    WITH claimed AS (
        UPDATE calls SET state = 'dialing', attempts = attempts + 1
         WHERE id = ANY (ARRAY(SELECT id FROM calls WHERE state = 'queued'
                                ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED))
        RETURNING id, attempts)
    INSERT INTO attempts (call_id, number, state)
    SELECT id, attempts, 'sending' FROM claimed RETURNING call_id
    """,
    """
    WITH ended AS (
        UPDATE attempts SET state = 'ended', ended_at = clock_timestamp(), carrier_call_id = call_id
         WHERE call_id = ANY (%s) AND state = 'sending' RETURNING call_id)
    UPDATE calls SET state = 'failed', outcome = 'failed'
     WHERE id = ANY (%s) AND id IN (SELECT call_id FROM ended)
    """,
)
OURS = (
    """
    WITH claimed AS (
        UPDATE calls SET state = 'dialing', attempts = attempts + 1, last_number = last_number + 1
         WHERE id = ANY (ARRAY(SELECT id FROM calls WHERE run_id = (SELECT id FROM runs)
                                  AND is_queued AND next_attempt_at <= clock_timestamp()
                                ORDER BY next_attempt_at, id LIMIT %s FOR UPDATE SKIP LOCKED))
        RETURNING id, run_id, account_id, phone, last_number)
    INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id, carrier, state,
           fence, worker_id, claimed_at, lease_until, occupies_until)
    SELECT uuidv7(), id, run_id, account_id, last_number, phone, '+97231234567', 'null', 'sending',
           1, 'bench:1', clock_timestamp(), clock_timestamp() + interval '15 s',
           clock_timestamp() + interval '1 hour'
      FROM claimed RETURNING call_id
    """,
    """
    WITH ended AS (
        UPDATE attempts SET state = 'ended', outcome = 'failed', phone_held = false,
               ended_at = clock_timestamp()
         WHERE call_id = ANY (%s) AND state = 'sending' RETURNING call_id)
    UPDATE calls SET state = 'failed', outcome = 'failed'
     WHERE id = ANY (%s) AND id IN (SELECT call_id FROM ended)
    """,
)


def dial_all(connection: Connection, claim: str, settle: str) -> None:
    """Claim and settle until nothing is queued."""
    with connection.cursor() as cursor:
        while True:
            cursor.execute(claim, (BATCH,))
            claimed = [row[0] for row in cursor.fetchall()]
            connection.commit()
            if not claimed:
                return
            cursor.execute(settle, (claimed, claimed))
            connection.commit()


def main(url: str, connections: str, tables: str) -> None:
    claim, settle = OURS if tables == "ours" else SMALL
    opened = [psycopg2.connect(url) for _ in range(int(connections))]

    def work() -> None:
        with ThreadPoolExecutor(len(opened)) as pool:
            list(pool.map(lambda one: dial_all(one, claim, settle), opened))

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
