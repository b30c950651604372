"""Accounts, their limits, and the API keys that speak for them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import IntEnum
from typing import Any
from uuid import UUID

import phonenumbers
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from outbound import pace
from outbound.errors import Fault, Refused, invalid, not_found
from outbound.ids import uuid7
from outbound.models import account_pace, accounts, api_keys
from outbound.prepared import prepared

RANGES: dict[str, tuple[float, float]] = {
    "max_live_calls": (1, 10_000),
    "calls_per_second": (0.01, 1_000),
    "min_seconds_between_calls": (0, 31_536_000),
}
RAISED_FOR_MORE = ("max_live_calls", "calls_per_second")
PREFIX = "ob_"
MAX_NAME = 200


class Role(IntEnum):
    """What a key may do; each role includes the ones before it."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The role as the API spells it."""
        return self.name.lower()


@dataclass(frozen=True)
class Caller:
    """Who asks, as their API key says.

    Attributes:
        role: viewer, operator or admin.
        request_id: of the request, and of the work that it causes.
    """

    account_id: UUID
    key_id: UUID
    role: str
    request_id: str


WHO = """
    SELECT id AS key_id, account_id AS key_account, role FROM api_keys
     WHERE hash = :hash AND revoked_at IS NULL"""
"""Finds who asks with a key; a statement may read more for them in the same round trip."""
_AUTHENTICATE = prepared(WHO)
_READ = text("""
    SELECT a.id AS account_id, a.name, p.max_live_calls, p.calls_per_second,
           p.min_seconds_between_calls, p.stopped, p.stopped_at, p.stopped_by,
           (SELECT k.name FROM api_keys k WHERE k.account_id = a.id
               AND CAST(k.id AS text) = p.stopped_by) AS stopped_by_name,
           a.caller_ids, a.default_region, a.default_answer_url, a.default_twiml, a.created_at
      FROM accounts a JOIN account_pace p ON p.account_id = a.id
     WHERE CAST(:account AS uuid) IS NULL OR a.id = :account
     ORDER BY a.id
""")
_KEYS = text("""
    SELECT id AS key_id, name, role, hint, created_at, revoked_at FROM api_keys
     WHERE account_id = :account AND (CAST(:before AS uuid) IS NULL OR id < :before)
     ORDER BY id DESC LIMIT :limit
""")


def create(connection: Connection, name: str, **fields: Any) -> UUID:
    """Make an account with its limits.

    Args:
        connection: in a transaction.
        name: unique, for people.
        fields: limits and columns of `accounts`; what is left out has its default.

    Raises:
        Refused: the name is taken, or a field is not valid.
    """
    if not name.strip() or len(name) > MAX_NAME:
        detail = f"The name must have 1 to {MAX_NAME} characters."
        raise invalid([Fault("#/name", "invalid_name", detail)])
    account_id = uuid7()
    fields = check(fields)
    _refuse_two_scripts(fields)
    limits = {key: fields.pop(key) for key in RANGES if key in fields}
    try:
        connection.execute(insert(accounts).values(id=account_id, name=name, **fields))
    except IntegrityError as error:
        raise Refused("name_taken", "There is an account of that name already.") from error
    connection.execute(insert(account_pace).values(account_id=account_id, **limits))
    return account_id


def list_accounts(connection: Connection) -> list[dict[str, Any]]:
    """Read all accounts, oldest first."""
    return [dict(row) for row in connection.execute(_READ, {"account": None}).mappings()]


def get(connection: Connection, account_id: UUID) -> dict[str, Any]:
    """Read one account with its limits. Raises Refused if there is none."""
    row = connection.execute(_READ, {"account": account_id}).mappings().first()
    if row is None:
        raise not_found("account")
    return dict(row)


def change(connection: Connection, account_id: UUID, changes: dict[str, Any]) -> bool:
    """Change an account.

    Limits are changed under the lock that every claim takes, so that no later claim sees the
    old ones.

    Returns:
        Whether a limit was raised, so that a ring may find work.

    Raises:
        Refused: a field is not valid.
    """
    changes = check(changes)
    limits = {key: changes.pop(key) for key in RANGES if key in changes}
    pace.lock(connection, account_id)
    before = get(connection, account_id)
    if limits:
        where = account_pace.c.account_id == account_id
        connection.execute(update(account_pace).where(where).values(**limits))
    if changes:
        connection.execute(update(accounts).where(accounts.c.id == account_id).values(**changes))
    _refuse_two_scripts(get(connection, account_id))
    return any(limits.get(key, 0) > before[key] for key in RAISED_FOR_MORE)


def _refuse_two_scripts(account: dict[str, Any]) -> None:
    if account.get("default_answer_url") and account.get("default_twiml"):
        fault = Fault("#/default_twiml", "one_of", "Set default_answer_url or default_twiml.")
        raise invalid([fault])


def check(fields: dict[str, Any]) -> dict[str, Any]:
    """Check limits, region and numbers; returns the fields, numbers as E.164.

    Raises:
        Refused: with a fault for each field that is wrong.
    """
    faults = [_range_fault(key) for key in RANGES if key in fields and not _fits(key, fields[key])]
    region = fields.get("default_region")
    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        faults.append(Fault("#/default_region", "unknown_region", "Not an ISO 3166 region."))
    numbers = [_e164(given) for given in fields.get("caller_ids", ())]
    wrong = "Not a valid number in E.164, such as +12025550123."
    faults += [
        Fault(f"#/caller_ids/{index}", "invalid_phone", wrong)
        for index, number in enumerate(numbers)
        if number is None
    ]
    if faults:
        raise invalid(faults)
    return fields | ({"caller_ids": numbers} if "caller_ids" in fields else {})


def _fits(key: str, value: float) -> bool:
    low, high = RANGES[key]
    return low <= value <= high  # false for NaN, which a pace would never get over


def _range_fault(key: str) -> Fault:
    low, high = RANGES[key]
    return Fault(f"#/{key}", "out_of_range", f"Must be from {low:,} to {high:,}.")


def _e164(number: str) -> str | None:
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def create_key(
    connection: Connection, account_id: UUID, role: str, name: str | None = None
) -> tuple[UUID, str]:
    """Make a key; the secret is returned once and stored only as a hash.

    Raises:
        Refused: there is no such account or role.
    """
    if role.upper() not in Role.__members__:
        fault = Fault("#/role", "unknown_role", "The role must be viewer, operator or admin.")
        raise invalid([fault])
    if connection.execute(select(accounts.c.id).where(accounts.c.id == account_id)).first() is None:
        raise not_found("account")
    key_id, secret = uuid7(), PREFIX + secrets.token_urlsafe(32)
    connection.execute(
        insert(api_keys).values(
            id=key_id,
            account_id=account_id,
            name=name,
            role=role.lower(),
            hash=digest(secret),
            hint=secret[-4:],
        )
    )
    return key_id, secret


def list_keys(
    connection: Connection, account_id: UUID, limit: int = 500, before: UUID | None = None
) -> list[dict[str, Any]]:
    """Read an account's keys, newest first, without their secrets."""
    values = {"account": account_id, "limit": limit, "before": before}
    return [dict(row) for row in connection.execute(_KEYS, values).mappings()]


def revoke_key(connection: Connection, account_id: UUID | None, key_id: UUID) -> UUID | None:
    """Make a key useless, at once.

    Returns:
        Whose key it was; None if the account (any, if None) has no such key.
    """
    statement = update(api_keys).where(api_keys.c.id == key_id)
    if account_id is not None:
        statement = statement.where(api_keys.c.account_id == account_id)
    now = text("coalesce(revoked_at, clock_timestamp())")
    changed = statement.values(revoked_at=now).returning(api_keys.c.account_id)
    return connection.execute(changed).scalar()


def authenticate(connection: Connection, secret: str, request_id: str) -> Caller | None:
    """Find out whose key this is; None if it is nobody's, or revoked."""
    row = connection.execute(_AUTHENTICATE, {"hash": digest(secret)}).first()
    return Caller(row.key_account, row.key_id, row.role, request_id) if row else None


def digest(secret: str) -> bytes | None:
    """Say by what WHO finds a key; None for what is none."""
    if not secret.startswith(PREFIX) or not secret.isascii():
        return None
    # The secret is 256 random bits: a slow password hash would only slow every request.
    return hashlib.sha256(secret.encode()).digest()
