"""Idempotency-Key: the same request twice does its work once, and gets the same answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, text

from outbound.errors import Refused

_READ = text("""
    SELECT body_hash, status, headers, body FROM idempotency_keys
     WHERE account_id = :account AND key = :key
       AND created_at > clock_timestamp() - interval '24 hours'
""")
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")
_STORE = text("""
    INSERT INTO idempotency_keys AS k (account_id, key, body_hash, status, headers, body)
    VALUES (:account, :key, :body_hash, :status, CAST(:headers AS jsonb), :body)
    ON CONFLICT (account_id, key) DO UPDATE
       SET body_hash = excluded.body_hash, status = excluded.status,
           headers = excluded.headers, body = excluded.body, created_at = excluded.created_at
     WHERE k.created_at <= clock_timestamp() - interval '24 hours'
""")


@dataclass(frozen=True)
class Stored:
    """An answer that can be given again.

    Attributes:
        replayed: whether it was given before.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    replayed: bool = False


def check_key(given: str | None) -> str | None:
    """Check the header. Raises Refused (400) unless it has 1 to 255 visible ASCII characters."""
    if given is None:
        return None
    if not (1 <= len(given) <= 255 and all("!" <= char <= "~" for char in given)):
        detail = "Idempotency-Key must have 1 to 255 visible ASCII characters."
        raise Refused("invalid_idempotency_key", detail, 400)
    return given


def replay(
    connection: Connection, account_id: UUID, key: str | None, body_hash: bytes
) -> Stored | None:
    """Find the first answer to this key.

    Raises:
        Refused: 422 if the key came with another body.
    """
    if key is None:
        return None
    row = connection.execute(_READ, {"account": account_id, "key": key}).first()
    if row is None:
        return None
    if bytes(row.body_hash) != body_hash:
        detail = "This Idempotency-Key came with another body before."
        raise Refused("idempotency_key_reused", detail, 422)
    return Stored(row.status, row.headers, bytes(row.body), replayed=True)


def once(
    connection: Connection,
    account_id: UUID,
    key: str | None,
    body_hash: bytes,
    make: Callable[[], Stored],
) -> Stored:
    """Do something once for this key, and store its answer in the same transaction.

    Raises:
        Refused: 409 at once, never a wait, while the first request is still at it; 422 for
            another body.
    """
    if key is None:
        return make()
    lock(connection, f"idempotency:{account_id}:{key}")
    if found := replay(connection, account_id, key, body_hash):
        return found
    stored = make()
    connection.execute(
        _STORE,
        {
            "account": account_id,
            "key": key,
            "body_hash": body_hash,
            "status": stored.status,
            "headers": json.dumps(stored.headers),
            "body": stored.body,
        },
    )
    return replace(stored, replayed=False)


def lock(connection: Connection, name: str) -> None:
    """Take a name for this transaction. Raises Refused (409 in_progress) if somebody has it."""
    if not connection.execute(TRY_LOCK, {"name": name}).scalar():
        detail = "The same request is being worked on; ask again."
        raise Refused("in_progress", detail, 409, retry_after=1)
