"""Numbers that an account never calls.

The claim is the judge: it looks each due phone up here, in the statement that would dial it.
Whoever suppresses takes the lock that every claim takes, so that no later claim misses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from outbound import accounts, actions, db, logs, pace, pages
from outbound.accounts import Caller
from outbound.errors import Fault, invalid, not_found
from outbound.leads import BadLead, parse_phone
from outbound.node import Node
from outbound.times import rfc3339

log = logs.get(__name__)

_ADD = text("""
    INSERT INTO suppressions (account_id, phone, reason, actor, request_id)
    SELECT :account, phone, :reason, :actor, :request
      FROM unnest(CAST(:phones AS text[])) AS given (phone) ORDER BY phone
    ON CONFLICT (account_id, phone) DO NOTHING
""")
_REMOVE = text("DELETE FROM suppressions WHERE account_id = :account AND phone = :phone")
_PAGE = text("""
    SELECT s.id, s.phone, s.reason, s.actor, k.name AS actor_name, s.created_at
      FROM suppressions s
      LEFT JOIN api_keys k ON k.account_id = s.account_id AND CAST(k.id AS text) = s.actor
     WHERE s.account_id = :account AND (CAST(:phone AS text) IS NULL OR s.phone = :phone)
       AND (CAST(:before AS bigint) IS NULL OR s.id < :before)
     ORDER BY s.id DESC LIMIT :limit
""")
_ANY = text("SELECT EXISTS (SELECT FROM suppressions WHERE account_id = :account)")
_AMONG = text("""
    SELECT phone FROM suppressions
     WHERE account_id = :account AND phone = ANY (CAST(:phones AS text[]))
""")
_IN_FLIGHT = text("""
    SELECT count(*) FROM attempts a
     WHERE a.account_id = :account AND a.ended_at IS NULL
       AND a.phone = ANY (CAST(:phones AS text[]))
""")


@dataclass(frozen=True)
class Added:
    """What became of the phones of one request.

    Attributes:
        phones: those that are suppressed now, each once, as E.164.
        new: how many of them were not before.
        rejections: place in the list and code of those that are no phone.
    """

    phones: list[str]
    new: int
    rejections: list[tuple[int, str]]


def add(
    node: Node, account_id: UUID, given: Sequence[Any], reason: str | None, who: Caller
) -> Added:
    """Never call these phones again. Twice is no error; the first reason stays.

    Raises:
        Refused: none of them is a phone.
    """
    with node.engine.connect() as connection:
        region = accounts.get(connection, account_id)["default_region"]
    phones, rejections = _parse(given, region)
    if not phones:
        raise invalid([_fault(index, code) for index, code in rejections])
    hand = actions.by(node, who)
    values = {
        "account": account_id,
        "phones": phones,
        "reason": reason,
        "actor": hand.actor,
        "request": hand.request_id,
    }

    def body(connection: Connection) -> int:
        pace.lock(connection, account_id)
        new = connection.execute(_ADD, values).rowcount
        if new:
            details = {"phones": new, "reason": reason}
            actions.record(connection, hand, account_id, "suppressions_added", details=details)
        return new

    new = db.transaction(node.engine, body)
    log.info("suppressions_added", account_id=str(account_id), phones=new)
    return Added(phones, new, rejections)


def _parse(given: Sequence[Any], region: str | None) -> tuple[list[str], list[tuple[int, str]]]:
    phones: dict[str, None] = {}
    rejections = []
    for index, one in enumerate(given):
        try:
            phones[parse_phone(one, region)] = None
        except BadLead as bad:
            rejections.append((index, str(bad)))
    return list(phones), rejections


def _fault(index: int, code: str) -> Fault:
    return Fault(f"#/phones/{index}", code, code.replace("_", " ").capitalize() + ".")


def in_flight(connection: Connection, account_id: UUID, phones: Sequence[str]) -> int:
    """Count the calls to these phones that the carrier has, or may have."""
    values = {"account": account_id, "phones": list(phones)}
    return int(connection.execute(_IN_FLIGHT, values).scalar_one())


def remove(node: Node, account_id: UUID, given: str, who: Caller) -> None:
    """Allow calls to this phone again.

    Raises:
        Refused: it is not suppressed, or no phone.
    """
    with node.engine.begin() as connection:
        try:
            phone = parse_phone(given, accounts.get(connection, account_id)["default_region"])
        except BadLead:
            raise not_found("suppression") from None
        if not connection.execute(_REMOVE, {"account": account_id, "phone": phone}).rowcount:
            raise not_found("suppression")
        # The row that told who and when is gone: its phone stands here until it is purged.
        details = {"phone": phone}
        hand = actions.by(node, who)
        actions.record(connection, hand, account_id, "suppression_removed", details=details)
    log.info("suppression_removed", account_id=str(account_id))


def page(
    connection: Connection,
    account_id: UUID,
    phone: str | None,
    limit: str | None,
    cursor: str | None,
) -> dict[str, Any]:
    """Read a page of the suppressed phones, newest first.

    Raises:
        Refused: a parameter of the query is not valid.
    """
    most = pages.parse_limit(limit)
    values = {
        "account": account_id,
        "phone": _of_query(connection, account_id, phone) if phone else None,
        "limit": most + 1,
        "before": pages.decode_int(cursor),
    }
    rows = connection.execute(_PAGE, values).mappings().all()
    more = pages.encode(rows[most - 1]["id"]) if len(rows) > most else None
    return {"items": [_show(row) for row in rows[:most]], "next_cursor": more}


def _of_query(connection: Connection, account_id: UUID, given: str) -> str:
    # A plus that nobody escaped arrives as a blank.
    phone = f"+{given[1:]}" if given.startswith(" ") else given
    try:
        return parse_phone(phone, accounts.get(connection, account_id)["default_region"])
    except BadLead as bad:
        fault = Fault("#/query/phone", str(bad), "Not a phone number.")
        raise invalid([fault], "The query is not valid.") from None


def _show(row: Any) -> dict[str, Any]:
    plain = {name: row[name] for name in ("phone", "reason", "actor", "actor_name")}
    return plain | {"created_at": rfc3339(row["created_at"])}


def among(connection: Connection, account_id: UUID, phones: Sequence[str]) -> set[str]:
    """Say which of these phones are suppressed; costs next to nothing if the account has none."""
    if not connection.execute(_ANY, {"account": account_id}).scalar():
        return set()
    return set(
        connection.execute(_AMONG, {"account": account_id, "phones": list(phones)}).scalars()
    )
