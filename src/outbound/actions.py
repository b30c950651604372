"""What operators did: who, when, by which request. Events with an actor, and a list of them.

Each is written in the transaction of what it tells: an action that is not listed did not happen.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from outbound import pages, settling
from outbound.accounts import Caller
from outbound.config import Settings
from outbound.node import Node
from outbound.times import rfc3339

# The key's name is read with the id: keys are never deleted, only revoked.
_PAGE = text("""
    SELECT e.id, e.at, e.event, e.actor, k.name AS actor_name, e.source, e.request_id, e.run_id,
           e.call_id, e.attempt_id, e.details
      FROM events e
      LEFT JOIN api_keys k ON k.account_id = e.account_id AND CAST(k.id AS text) = e.actor
     WHERE e.account_id = :account AND e.actor <> 'on_unknown'
       AND (CAST(:before AS bigint) IS NULL OR e.id < :before)
     ORDER BY e.id DESC LIMIT :limit
""")


@dataclass(frozen=True)
class Operator:
    """Who acts, and through which process of ours.

    Attributes:
        actor: the id of their API key, or `cli:` and the user of this machine.
        source: the process's consumer_source.
    """

    actor: str
    request_id: str | None
    source: str
    worker_id: str


def by(node: Node, caller: Caller) -> Operator:
    """Name whoever sent a request."""
    return Operator(str(caller.key_id), caller.request_id, node.source, node.worker_id)


def at_this_machine(settings: Settings) -> Operator:
    """Name whoever types a command that works on the database itself, where no key is asked for."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        user = str(os.getuid())
    return Operator(f"cli:{user}", None, "cli", settings.worker_id)


def record(
    connection: Connection,
    operator: Operator,
    account_id: UUID,
    action: str,
    *,
    run_id: UUID | None = None,
    call_id: int | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Write down what is done in this transaction."""
    row = {
        "account_id": account_id,
        "run_id": run_id,
        "call_id": call_id,
        "event": action,
        "source": operator.source,
        "worker_id": operator.worker_id,
        "actor": operator.actor,
        "request_id": operator.request_id,
        "details": details,
    }
    settling.write_events(connection, [row])


def page(
    connection: Connection, account_id: UUID, limit: str | None, cursor: str | None
) -> dict[str, Any]:
    """Read a page of what the account's operators did, newest first.

    Raises:
        Refused: a parameter of the query is not valid.
    """
    most = pages.parse_limit(limit)
    values = {"account": account_id, "limit": most + 1, "before": pages.decode_int(cursor)}
    rows = connection.execute(_PAGE, values).mappings().all()
    more = pages.encode(rows[most - 1]["id"]) if len(rows) > most else None
    return {"items": [_show(row) for row in rows[:most]], "next_cursor": more}


def _show(row: Any) -> dict[str, Any]:
    ids = {name: str(row[name]) if row[name] else None for name in _IDS}
    plain = {name: row[name] for name in ("actor", "actor_name", "source", "request_id", "details")}
    at = rfc3339(row["at"])
    return {"action_id": str(row["id"]), "at": at, "action": row["event"], **plain, **ids}


_IDS = ("run_id", "call_id", "attempt_id")
