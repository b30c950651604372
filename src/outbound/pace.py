"""The lock that every claim of an account takes first, and whoever must not be overlooked by one.

Whatever is committed under it is seen by every later claim, and no earlier claim is still
unfinished. It comes before all other row locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, Row

from outbound.prepared import prepared

# A statement of its own, so that the next one's snapshot is younger than the lock: read together
# with what it guards, a limit of 5 gave 10.
_LOCK = prepared("""
    SELECT account_id, backoff_seconds, pg_current_xact_id()::text AS xid
      FROM account_pace WHERE account_id = ANY (CAST(:accounts AS uuid[]))
     ORDER BY account_id
       FOR NO KEY UPDATE
""")


def lock(connection: Connection, *accounts: UUID) -> Sequence[Row[tuple[UUID, float, str]]]:
    """Lock the accounts' pace rows, in order of their ids, until the transaction ends.

    Returns:
        A row for each account that exists: its id, its back-off in seconds, and the transaction.
    """
    return connection.execute(_LOCK, {"accounts": sorted(accounts)}).all()
