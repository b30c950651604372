"""What a run shows: one statement, so that its numbers add up in every answer."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Executable, RowMapping, text

from outbound import accounts, as_json, models, pages, sessions
from outbound.counters import SUMS
from outbound.errors import Fault, invalid, not_found
from outbound.models import STATE_COUNTERS
from outbound.prepared import prepared
from outbound.states import Outcome, RunStatus
from outbound.times import rfc3339


def _select(runs: str) -> str:
    return f"""
    SELECT {", ".join(f"r.{column.name}" for column in models.runs.columns)}, n.*,
           clock_timestamp() AS now, p.calls_per_second AS account_rate, p.stopped,
           CASE WHEN r.ended_at IS NULL THEN (
               SELECT b.last_error FROM breakers b WHERE b.account_id = r.account_id
                ORDER BY b.opened_at LIMIT 1) END AS last_error
      FROM {runs} r JOIN account_pace p ON p.account_id = r.account_id
      CROSS JOIN LATERAL (SELECT {SUMS} FROM run_counters c WHERE c.run_id = r.id) n
"""  # noqa: S608 - our own column names


# LIMIT 1 keeps it a probe by the id: planned while there were no runs, it read all that an account
# has by now.
_BY_ID = _select("(SELECT * FROM runs WHERE id = :run LIMIT 1)")
_COLUMNS = [
    *models.runs.columns.keys(),
    *(*models.COUNTERS, "now", "account_rate", "stopped", "last_error"),
]
_ONE = prepared(f"{_BY_ID} WHERE r.account_id = :account", _COLUMNS)


def _with(who: str) -> Executable:
    one = f"{_BY_ID} WHERE r.account_id = who.key_account"
    sql = f"SELECT who.*, one.* FROM ({who}) who LEFT JOIN LATERAL ({one}) one ON true"  # noqa: S608 - our own words
    return prepared(sql, ["key_id", "key_account", "role", *_COLUMNS])


_BY_KEY, _BY_SESSION = _with(accounts.WHO), _with(sessions.WHO)
_PAGE = text(f"""
    {_select("runs")}
     WHERE r.account_id = :account AND (CAST(:before AS uuid) IS NULL OR r.id < :before)
       AND (CAST(:status AS text) IS NULL OR r.status = :status)
       AND (CAST(:search AS text) IS NULL OR strpos(lower(r.name), lower(:search)) > 0
            OR strpos(CAST(r.id AS text), lower(:search)) > 0)
     ORDER BY r.id DESC LIMIT :limit
""")

_PLAIN = ("total_leads", *STATE_COUNTERS)
_SETTINGS = ("concurrency", "calls_per_second", "caller_id", "metadata")
_TIMES = ("created_at", "started_at", "ended_at", "start_at", "expires_at", "purged_at")


def run(connection: Connection, account_id: UUID, run_id: UUID) -> dict[str, Any]:
    """Read one run as the API shows it. Raises Refused if the account has no such run."""
    values = {"run": run_id, "account": account_id}
    return show(connection.execute(_ONE, values).mappings().first())


def run_and_asker(
    connection: Connection, who: str, digest: bytes, run_id: UUID | None
) -> RowMapping | None:
    """Read one run together with who asks for it: one round trip, not two.

    Args:
        connection: to read with.
        who: accounts.WHO or sessions.WHO.
        digest: by which that finds them.
        run_id: which; None for one that there cannot be.

    Returns:
        Who asks, and what show() takes; None if it is nobody.
    """
    statement = _BY_KEY if who == accounts.WHO else _BY_SESSION
    return connection.execute(statement, {"hash": digest, "run": run_id}).mappings().first()


def show(row: RowMapping | None) -> dict[str, Any]:
    """Show what was read as the API does. Raises Refused if that is no run of the account's."""
    if row is None or row["id"] is None:
        raise not_found("run")
    return _show(row)


def runs(
    connection: Connection,
    account_id: UUID,
    status: str | None,
    limit: str | None,
    cursor: str | None,
    search: str | None = None,
) -> dict[str, Any]:
    """Read a page of the account's runs, newest first; stable while new ones come.

    Raises:
        Refused: a parameter of the query is not valid.
    """
    if status is not None and status not in set(RunStatus):
        fault = Fault("#/query/status", "unknown_word", "There is no such status.")
        raise invalid([fault], "The query is not valid.")
    most = pages.parse_limit(limit)
    values = {
        "account": account_id,
        "status": status,
        "search": search,
        "limit": most + 1,
        "before": pages.decode_uuid(cursor),
    }
    rows = connection.execute(_PAGE, values).mappings().all()
    more = pages.encode(rows[most - 1]["id"]) if len(rows) > most else None
    return {"items": [_show(row) for row in rows[:most]], "next_cursor": more}


def etag(body: dict[str, Any]) -> str:
    """Make the ETag of a run: over every field but the ETA, which moves by itself."""
    stable = {name: value for name, value in body.items() if name != "eta"}
    return f'"{hashlib.sha256(as_json.dumps(stable).encode()).hexdigest()[:32]}"'


def etag_of_page(page: dict[str, Any]) -> str:
    """Make the ETag of a page of runs."""
    return etag({"items": [etag(item) for item in page["items"]], "next": page["next_cursor"]})


def _show(row: RowMapping) -> dict[str, Any]:
    going = row["ended_at"] is None and not row["cancel_requested"]
    paused = row["status"] == RunStatus.PAUSED
    return {
        "run_id": str(row["id"]),
        "name": row["name"],
        "status": row["status"],
        **{name: row[name] for name in _PLAIN},
        "outcomes": {str(outcome): row[outcome.counter] for outcome in Outcome},
        "attempts": row["attempts"],
        "duplicates": row["duplicates"],
        "rejected": row["rejected"],
        **{name: row[name] for name in _SETTINGS},
        **{name: rfc3339(row[name]) if row[name] else None for name in _TIMES},
        "eta": _eta(row),
        "last_error": row["last_error"],
        "cancel_requested": row["cancel_requested"],
        "can_pause": going and not paused,
        "can_resume": going and paused,
        "can_cancel": going,
    }


def _eta(row: RowMapping) -> str | None:
    """Guess when the run ends: by its pace, or by what it has settled so far if that is slower."""
    left = row["queued"] + row["in_progress"]
    if row["status"] not in (RunStatus.PENDING, RunStatus.RUNNING) or not left:
        return None
    if row["stopped"] or row["last_error"]:  # how long they hold, nobody knows
        return None
    seconds = row["queued"] / min(row["calls_per_second"], row["account_rate"])
    settled = row["total_leads"] - left
    if row["started_at"] and settled:
        seconds = max(seconds, (row["now"] - row["started_at"]).total_seconds() * left / settled)
    return rfc3339(row["now"] + timedelta(seconds=min(seconds, 10 * 365 * 86400)))
