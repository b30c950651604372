"""Taking a run in: everything is checked first, then stored in one transaction, then rung.

Committed before it is answered: with Redis away the run exists all the same, and the leader
rings for it when Redis is back.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, text
from sqlalchemy.exc import DBAPIError

from outbound import (
    accounts,
    actions,
    apart,
    checking,
    claims,
    db,
    doorbell,
    idempotency,
    logs,
    suppressions,
)
from outbound.accounts import Caller
from outbound.checking import Checked, Terms
from outbound.errors import Fault, Refused
from outbound.idempotency import Stored
from outbound.ids import uuid7
from outbound.leads import Parsed, Rejection, copy_lines, copy_text
from outbound.models import run_counters, runs
from outbound.node import Node

log = logs.get(__name__)

LISTED_REJECTIONS = 1000
TWIN_MINUTES = 10
STORE_MS, LOCK_MS = 60_000, 5_000
"""100,000 calls take one INSERT of 2 to 5 s, and longer on a busy server: more than the time
that a statement has otherwise."""

_TWIN = text("""
    SELECT id FROM runs
     WHERE account_id = :account AND body_hash = :body_hash
       AND created_at > clock_timestamp() - make_interval(mins => :minutes)
     ORDER BY created_at DESC LIMIT 1
""")
_STAGE = text("""
    CREATE TEMPORARY TABLE new_leads
           (position integer, lead_id text, phone text, variables jsonb) ON COMMIT DROP
""")
_COPY = "COPY new_leads FROM STDIN"
_INSERT_CALLS = text("""
    INSERT INTO calls (run_id, account_id, lead_id, phone, variables, next_attempt_at)
    SELECT :run, :account, lead_id, phone, variables,
           greatest(statement_timestamp(), CAST(:start_at AS timestamptz))
      FROM new_leads ORDER BY position
    ON CONFLICT DO NOTHING
""")
_COPY_REJECTIONS = "COPY rejections (run_id, index, lead_id, code) FROM STDIN"


def create(node: Node, caller: Caller, body: bytes, body_hash: bytes, key: str | None) -> Stored:
    """Create a run from a request's body.

    Args:
        node: this process.
        caller: whose run it is.
        body: JSON, nothing checked yet.
        body_hash: SHA-256 of the body.
        key: the Idempotency-Key, if one was sent.

    Returns:
        The answer to send, 202; the first one again if this key was answered before.

    Raises:
        Refused: the body, the key, or a twin of it stands against it; nothing was stored.
        Unavailable: it is big, and others are being taken in, or the process that checked it
            ended; nothing was stored.
    """
    with node.engine.connect() as connection:
        # Before 100,000 leads are checked for nothing; judged again in the transaction.
        if found := idempotency.replay(connection, caller.account_id, key, body_hash):
            return found
        account = accounts.get(connection, caller.account_id)
    terms = Terms(
        region=account["default_region"],
        caller_ids=account["caller_ids"],
        answer_url=account["default_answer_url"],
        twiml=account["default_twiml"],
        private_answer_urls=node.settings.private_answer_urls,
    )
    if len(body) < apart.BIG:
        return _take_in(node, caller, checking.check(body, terms), body_hash, key)
    with apart.room():
        return _take_in(node, caller, apart.check(body, terms), body_hash, key)


def _take_in(
    node: Node, caller: Caller, checked: Checked, body_hash: bytes, key: str | None
) -> Stored:
    columns, parsed = checked.columns, checked.leads
    _reject_suppressed(node, caller.account_id, parsed)
    _refuse_hopeless(checked)
    run_id = uuid7()
    columns |= {
        "id": run_id,
        "account_id": caller.account_id,
        "total_leads": len(parsed.accepted),
        "duplicates": parsed.duplicates,
        "rejected": len(parsed.rejections) - parsed.duplicates,
        "body_hash": body_hash,
        "request_id": caller.request_id,
    }
    with node.engine.begin() as connection:
        db.set_timeouts(connection, statement_ms=STORE_MS, lock_ms=LOCK_MS)
        stored = idempotency.once(
            connection,
            caller.account_id,
            key,
            body_hash,
            lambda: _store(connection, node, caller, checked),
        )
    if not stored.replayed:
        _ring(node, columns)
    return stored


def _reject_suppressed(node: Node, account_id: UUID, parsed: Parsed) -> None:
    """Leave out whom the account never calls, so that its operator sees it at once.

    What is suppressed from now on, the claim ends.
    """
    with node.engine.connect() as connection:
        phones = [phone for _, phone, _ in parsed.accepted]
        found = suppressions.among(connection, account_id, phones)
    if not found:
        return
    rejected = {one.index for one in parsed.rejections}
    total = len(parsed.accepted) + len(rejected)
    indexes = [index for index in range(total) if index not in rejected]
    parsed.rejections += [
        Rejection(index, lead_id, claims.SUPPRESSED)
        for index, (lead_id, phone, _) in zip(indexes, parsed.accepted, strict=True)
        if phone in found
    ]
    parsed.rejections.sort(key=lambda one: one.index)
    parsed.accepted[:] = [lead for lead in parsed.accepted if lead[1] not in found]


def _refuse_hopeless(checked: Checked) -> None:
    parsed = checked.leads
    if checked.refuses_duplicates and parsed.duplicates:
        found = [_fault(one) for one in parsed.rejections if one.is_duplicate]
        raise Refused("duplicate_leads", "Leads appear more than once.", 422, found)
    if not parsed.accepted:
        found = [_fault(one) for one in parsed.rejections]
        raise Refused("no_acceptable_leads", "No lead can be accepted.", 422, found)


_ABOUT = {"phone": ("phone",), "lead_id": ("lead_id",), "variables": ("variable", "twiml")}


def _fault(one: Rejection) -> Fault:
    field = next(
        (f"/{name}" for name, words in _ABOUT.items() if any(w in one.code for w in words)), ""
    )
    return Fault(
        f"#/leads/{one.index}{field}", one.code, one.code.replace("_", " ").capitalize() + "."
    )


def _store(connection: Connection, node: Node, caller: Caller, checked: Checked) -> Stored:
    columns, parsed = checked.columns, checked.leads
    idempotency.lock(connection, f"twin:{caller.account_id}:{columns['body_hash'].hex()}")
    if not checked.allows_twin:
        _refuse_twin(connection, columns)
    run_id, total = columns["id"], len(parsed.accepted)
    connection.execute(insert(runs).values(columns))
    connection.execute(insert(run_counters).values(run_id=run_id, shard=0, queued=total))
    connection.execute(_STAGE)
    _copy(connection, _COPY, copy_lines(parsed.accepted))
    values = {"run": run_id, "account": caller.account_id, "start_at": columns["start_at"]}
    inserted = connection.execute(_INSERT_CALLS, values).rowcount
    if inserted != total:
        raise AssertionError(f"{total} leads were checked, {inserted} stored")
    _copy(connection, _COPY_REJECTIONS, _rejection_lines(run_id, parsed.rejections))
    hand = actions.by(node, caller)
    actions.record(connection, hand, caller.account_id, "run_created", run_id=run_id)
    return _answer(columns, parsed)


def _refuse_twin(connection: Connection, columns: dict[str, Any]) -> None:
    values = {
        "account": columns["account_id"],
        "body_hash": columns["body_hash"],
        "minutes": TWIN_MINUTES,
    }
    if twin := connection.execute(_TWIN, values).scalar():
        detail = "The same body was posted less than ten minutes ago; allow_duplicate permits it."
        raise Refused("duplicate_run", detail, 409, extra={"run_id": str(twin)})


def _copy(connection: Connection, statement: str, lines: Iterator[str]) -> None:
    cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
    try:
        cursor.copy_expert(statement, _Lines(lines))
    except connection.dialect.loaded_dbapi.Error as error:
        # The driver's own error, since SQLAlchemy knows no COPY; the API looks for this one.
        raise DBAPIError(statement, None, error) from error


class _Lines(io.TextIOBase):
    """Lines as the file that COPY reads, so that no second copy of the leads is held."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._left = ""

    def read(self, size: int | None = -1, /) -> str:
        """Return about `size` characters, "" at the end."""
        parts, length, wanted = [self._left], len(self._left), size or 8192
        while length < wanted and (line := next(self._lines, "")):
            parts.append(line)
            length += len(line)
        whole = "".join(parts)
        self._left = whole[wanted:]
        return whole[:wanted]


def _rejection_lines(run_id: UUID, rejections: list[Rejection]) -> Iterator[str]:
    for one in rejections:
        lead_id = r"\N" if one.lead_id is None else copy_text(one.lead_id)
        yield f"{run_id}\t{one.index}\t{lead_id}\t{one.code}\n"


def _answer(columns: dict[str, Any], parsed: Parsed) -> Stored:
    body = {
        "run_id": str(columns["id"]),
        "status": columns["status"],
        "accepted": len(parsed.accepted),
        "duplicates": columns["duplicates"],
        "rejected": columns["rejected"],
        "rejections": [
            {"index": one.index, "lead_id": one.lead_id, "code": one.code}
            for one in parsed.rejections[:LISTED_REJECTIONS]
        ],
    }
    headers = {"Location": f"/api/outbound/runs/{columns['id']}"}
    return Stored(202, headers, json.dumps(body, ensure_ascii=False).encode())


def _ring(node: Node, columns: dict[str, Any]) -> None:
    log.info(
        "run_created",
        account_id=str(columns["account_id"]),
        run_id=str(columns["id"]),
        total_leads=columns["total_leads"],
        rejected=columns["rejected"],
        duplicates=columns["duplicates"],
    )
    if columns["status"] == "pending":
        messages = doorbell.messages_for(columns["total_leads"], node.settings.senders)
        node.doorbell.ring(columns["account_id"], messages=messages)
