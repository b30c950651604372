"""Sessions of the console: a browser's stand-in for an API key, which it never keeps.

They are rows, so that every web process accepts them and a sign-out is one. The cookie's token
is stored as a hash only, like a key, and a session is worth no more than its key: revoking the
key ends it at once.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, text

from outbound.accounts import Caller

LIFETIME = timedelta(hours=12)
MAX_TOKEN = 128

_PURGE = text("""
    DELETE FROM sessions WHERE hash IN (
        SELECT hash FROM sessions WHERE expires_at < clock_timestamp()
         LIMIT 1000 FOR UPDATE SKIP LOCKED)
""")
_START = text("""
    INSERT INTO sessions (hash, key_id, expires_at)
    VALUES (:hash, :key, clock_timestamp() + CAST(:lifetime AS interval))
""")
_IS_OPEN = """
    s.hash = :hash AND s.expires_at > clock_timestamp() AND k.revoked_at IS NULL"""
_READ = text(f"""
    SELECT k.id AS key_id, k.account_id, k.role, k.name AS key_name, k.hint, s.expires_at,
           a.name AS account_name
      FROM sessions s JOIN api_keys k ON k.id = s.key_id JOIN accounts a ON a.id = k.account_id
     WHERE {_IS_OPEN}
""")  # noqa: S608 - our own words
WHO = f"""
    SELECT k.id AS key_id, k.account_id AS key_account, k.role
      FROM sessions s JOIN api_keys k ON k.id = s.key_id
     WHERE {_IS_OPEN}"""  # noqa: S608 - our own words
"""Finds who asks with a session, as accounts.WHO does with a key."""
_END = text("DELETE FROM sessions WHERE hash = :hash")


def start(connection: Connection, caller: Caller) -> str:
    """Open a session for this key; returns its token, which is stored nowhere."""
    token = secrets.token_urlsafe(32)
    connection.execute(_PURGE)
    values = {"hash": digest(token), "key": caller.key_id, "lifetime": LIFETIME}
    connection.execute(_START, values)
    return token


def read(connection: Connection, token: str) -> RowMapping | None:
    """Find a session that is open: whose it is, and until when. None for any other token."""
    return connection.execute(_READ, {"hash": digest(token)}).mappings().first()


def end(connection: Connection, token: str) -> None:
    """End a session; ending one that is over is no error."""
    connection.execute(_END, {"hash": digest(token)})


def digest(token: str) -> bytes | None:
    """Say by what WHO finds a session; None for what is no token of ours."""
    if not token.isascii() or len(token) > MAX_TOKEN:
        return None
    return hashlib.sha256(token.encode()).digest()
