"""Attempts that differ in nothing but their ids and phones: read, judged and written as one.

A claim's hundred answers are mostly one answer a hundred times. PostgreSQL groups the rows as it
reads them, the rules judge the first of a group, and what they say is written for all of it: a
tenth of the work. An attempt of which a batch knows more than one thing is a group of its own.

Whatever a rule reads or a move writes must be in the GROUP BY or a member's own: else one of them
gets what was the first one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Executable, Row

from outbound import as_json, db
from outbound.prepared import prepared
from outbound.states import (
    Attempt,
    AttemptState,
    Call,
    CallState,
    Decision,
    Outcome,
    Policy,
    RunStatus,
)

_SHARED = [name for name in Attempt._fields if name not in ("id", "call_id")]
_OF_CALL = ("call_state", "call_outcome", "call_attempts", "waiting_for", "call_cancelled")
_ALIKE = ", ".join((*_SHARED, "carrier", *_OF_CALL, "run_id"))
# OFFSET 0 and LIMIT 1 keep each row a probe by its id: joined plainly, a batch of 100 read all runs
# there are, and all attempts of a table that was analysed while it was empty. A call of which there
# was ever more than one attempt is a group of its own, and so is each of those.
_ROWS = f"""
    SELECT {", ".join(f"a.{name}" for name in Attempt._fields)}, a.carrier, a.phone,
           c.state AS call_state, c.outcome AS call_outcome, c.attempts AS call_attempts,
           c.waiting_for, c.cancel_requested AS call_cancelled, a.run_id,
           c.last_number <> 1 AS by_itself
      FROM unnest(CAST(:calls AS bigint[])) wanted
     CROSS JOIN LATERAL (SELECT * FROM attempts WHERE call_id = wanted OFFSET 0) a
     CROSS JOIN LATERAL (SELECT * FROM calls WHERE id = wanted LIMIT 1) c
     WHERE a.state <> 'released' OR a.id = ANY (CAST(:ids AS uuid[]))
"""  # noqa: S608 - only our own column names


def _with_runs(groups: str) -> Executable:
    return prepared(f"""
        SELECT found.*, r.account_id, r.purge_started_at IS NOT NULL AS purged, r.status,
               r.max_attempts, r.retry_delay, r.retry_on, r.ring_timeout,
               r.ended_at IS NULL AS run_open, r.cancel_requested,
               (r.expires_at IS NULL OR r.expires_at > clock_timestamp()) AS unexpired,
               clock_timestamp() AS now
          FROM ({groups}) found
         CROSS JOIN LATERAL (SELECT * FROM runs WHERE id = found.run_id LIMIT 1) r
         ORDER BY found.call_ids[1], found.number
    """)  # noqa: S608 - only our own column names


_READ = _with_runs(f"""
    SELECT array_agg(id) AS ids, array_agg(call_id) AS call_ids, array_agg(phone) AS phones,
           {_ALIKE}
      FROM ({_ROWS}) one
     GROUP BY {_ALIKE}, CASE WHEN by_itself OR id = ANY (CAST(:apart AS uuid[])) THEN id END
""")  # noqa: S608 - only our own column names
_READ_EACH = _with_runs(f"""
    SELECT ARRAY[id] AS ids, ARRAY[call_id] AS call_ids, ARRAY[phone] AS phones, {_ALIKE}
      FROM ({_ROWS}) one
""")  # noqa: S608 - only our own column names
_WRITE_ATTEMPTS = prepared("""
    UPDATE attempts a
       SET state = w.state, outcome = w.outcome, carrier_call_id = w.carrier_call_id,
           phone_held = w.phone_held, placed_at = w.placed_at, ringing_at = w.ringing_at,
           answered_at = w.answered_at, unknown_at = w.unknown_at, ended_at = w.ended_at,
           duration = w.duration, error = w.error, heard_at = w.heard_at,
           decision = w.decision, decided_by = w.decided_by,
           decision_stands = w.decision_stands, next_lookup_at = w.next_lookup_at,
           lookups_fail_since = w.lookups_fail_since
      FROM (SELECT one.id, one.carrier_call_id, w.*
              FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
                   ids uuid[], carrier_call_ids text[], state text, outcome text,
                   phone_held boolean, placed_at timestamptz, ringing_at timestamptz,
                   answered_at timestamptz, unknown_at timestamptz, ended_at timestamptz,
                   duration integer, error text, heard_at timestamptz, decision text,
                   decided_by text, decision_stands boolean, next_lookup_at timestamptz,
                   lookups_fail_since timestamptz)
             CROSS JOIN unnest(w.ids, w.carrier_call_ids) AS one (id, carrier_call_id)) w
     WHERE a.id = w.id AND a.id = ANY (CAST(:ids AS uuid[]))
""")
_WRITE_CALLS = prepared("""
    UPDATE calls c
       SET state = w.state, outcome = w.outcome, attempts = w.attempts,
           next_attempt_at = coalesce(w.next_attempt_at, c.next_attempt_at),
           waiting_for = w.waiting_for, last_error = NULL
      FROM (SELECT one.id, w.*
              FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w (
                   ids bigint[], state text, outcome text, attempts smallint,
                   next_attempt_at timestamptz, waiting_for text)
             CROSS JOIN unnest(w.ids) AS one (id)) w
     WHERE c.id = w.id AND c.id = ANY (CAST(:ids AS bigint[]))
""")


class Member(NamedTuple):
    """What is an attempt's own among those that are like it, beside its id."""

    call_id: int
    phone: str


@dataclass
class Calls:
    """Calls that are alike; several only if each has one attempt.

    Attributes:
        was: the first of them, as it was read.
        now: the same after all moves.
        attempts: theirs, by number.
    """

    ids: list[int]
    was: Call
    now: Call
    attempts: list[Attempts] = field(default_factory=list)

    @property
    def counted(self) -> list[Attempt]:
        """Their attempts that count by now: those that are not released."""
        found = [one.now for one in self.attempts]
        return [one for one in found if one.state is not AttemptState.RELEASED]


@dataclass
class Attempts:
    """Attempts that are alike, and what was read with them, under the locks.

    Attributes:
        members: the call and the phone of each.
        was: the first of them, as it was read.
        now: the same after all moves.
        carrier_call_ids: of each, in the members' order.
        expired: they would be dialled again if their run had not expired.
        reopens: the run has ended, and goes on if one of them is dialled again.
    """

    members: dict[UUID, Member]
    was: Attempt
    now: Attempt
    carrier_call_ids: list[str | None]
    calls: Calls
    account_id: UUID
    run_id: UUID
    carrier: str
    status: RunStatus
    run: Policy
    reopens: bool
    expired: bool

    def part(self, ids: Iterable[UUID]) -> Attempts:
        """Take some of them, before any has moved; the first stands for all of these."""
        if len(self.members) == 1:
            return self
        members = {one: self.members[one] for one in ids}
        first, call_ids = next(iter(members)), [one.call_id for one in members.values()]
        call = self.calls.was._replace(id=call_ids[0])
        attempt = self.was._replace(id=first, call_id=call_ids[0])
        part = replace(
            self,
            members=members,
            was=attempt,
            now=attempt,
            carrier_call_ids=[None] * len(members),
            calls=Calls(call_ids, call, call),
        )
        part.calls.attempts.append(part)
        return part


def read(
    connection: Connection, ids: list[UUID], call_ids: list[int], apart: list[UUID] | None
) -> tuple[datetime, dict[UUID, Attempts]]:
    """Read attempts and the others of their calls that are not released.

    Args:
        connection: holds the locks of all of them.
        ids: the attempts.
        call_ids: their calls; at least one.
        apart: attempts that shall be groups of their own; None if all shall, which is quicker.

    Returns:
        The database's time, and the group of each attempt.
    """
    values = {"calls": db.array(call_ids), "ids": db.array(ids)}
    if apart is None:
        rows = connection.execute(_READ_EACH, values).all()
    else:
        rows = connection.execute(_READ, values | {"apart": db.array(apart)}).all()
    groups, calls = dict[UUID, Attempts](), dict[int, Calls]()
    for row in rows:
        of_call = calls.get(row.call_ids[0])
        if of_call is None:
            call = _call(row)
            of_call = calls[call.id] = Calls(row.call_ids, call, call)
        group = _attempts(row, of_call)
        of_call.attempts.append(group)
        groups.update(dict.fromkeys(group.members, group))
    return rows[0].now, groups


def _attempts(row: Row[Any], calls: Calls) -> Attempts:
    # A call that somebody cancelled, or whose phone was purged, is never queued again.
    wanted = not (row.cancel_requested or row.call_cancelled or row.purged)
    first = dict(zip(_SHARED, row[3 : 3 + len(_SHARED)], strict=True)) | {
        "id": row.ids[0],
        "call_id": row.call_ids[0],
        "state": AttemptState(row.state),
        "outcome": Outcome(row.outcome) if row.outcome else None,
        "decision": Decision(row.decision) if row.decision else None,
    }
    attempt = Attempt(**first)
    return Attempts(
        members=dict(zip(row.ids, map(Member, row.call_ids, row.phones), strict=True)),
        was=attempt,
        now=attempt,
        carrier_call_ids=[row.carrier_call_id] * len(row.ids),
        calls=calls,
        account_id=row.account_id,
        run_id=row.run_id,
        carrier=row.carrier,
        status=RunStatus(row.status),
        run=Policy(
            dials=row.run_open and wanted and row.unexpired,
            max_attempts=row.max_attempts,
            retry_delay=row.retry_delay,
            retry_on=tuple(row.retry_on),
            ring_timeout=row.ring_timeout,
        ),
        expired=row.run_open and wanted and not row.unexpired,
        reopens=row.status == RunStatus.COMPLETED and wanted and row.unexpired,
    )


def _call(row: Row[Any]) -> Call:
    return Call(
        id=row.call_ids[0],
        state=CallState(row.call_state),
        outcome=Outcome(row.call_outcome) if row.call_outcome else None,
        attempts=row.call_attempts,
        next_attempt_at=None,
        waiting_for=row.waiting_for,
    )


def write(connection: Connection, attempts: list[Attempts], calls: list[Calls]) -> None:
    """Write what moved: a statement for all attempts, and one for all calls."""
    moved = [
        one.now._asdict() | {"ids": [*one.members], "carrier_call_ids": one.carrier_call_ids}
        for one in attempts
    ]
    _write(connection, _WRITE_ATTEMPTS, moved)
    _write(connection, _WRITE_CALLS, [one.now._asdict() | {"ids": one.ids} for one in calls])


def _write(connection: Connection, statement: Executable, rows: list[dict[str, Any]]) -> None:
    if rows:
        ids = db.array(one for row in rows for one in row["ids"])
        connection.execute(statement, {"rows": as_json.dumps(rows), "ids": ids})


def freed_phones(attempts: list[Attempts]) -> list[dict[str, Any]]:
    """Name the phones that are held no more, by account."""
    freed = defaultdict[UUID, list[str]](list)
    for one in attempts:
        if one.was.phone_held and not one.now.phone_held:
            freed[one.account_id] += [member.phone for member in one.members.values()]
    return [{"account_id": account, "phones": phones} for account, phones in freed.items()]
