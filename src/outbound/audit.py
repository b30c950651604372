"""Our record of a run held against the carrier's, lead by lead, and mended where that is certain.

All leads are compared first, with as few requests as the carrier allows. Those that differ are
read again, both sides, before anything is reported: while a run moves, its answers and callbacks
overtake every list.

A repair is the carrier's word, recorded by the verbs that callbacks go through, so that every
guard holds. It dials nothing, and what it did is judged by comparing once more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, RowMapping, text

from outbound import counters, db, logs, recording, settling, unknowns
from outbound.carriers.base import Carrier, CarrierCall, CarrierUnavailable, ListsAll
from outbound.counters import SUMS
from outbound.errors import Refused, not_found
from outbound.models import COUNTERS
from outbound.node import Node
from outbound.states import AttemptState, CallState, Decision, Evidence, Outcome

log = logs.get(__name__)

SOURCE = "audit"
ACKNOWLEDGED = "stray_acknowledged"
"""The event by which a repair says that a call too many is known: it cannot be undone."""

THREADS = 8
PAGE = 500
AT_ONCE = 100
GIVE_UP = 2 * THREADS
"""So many leads in a row of which the carrier said nothing, and the audit is given up."""

Listing = Callable[[str], list[CarrierCall]]

_RUN = text("""
    SELECT id, account_id, caller_id, max_attempts, total_leads, created_at,
           coalesce(ended_at, clock_timestamp()) AS until, purge_started_at
      FROM runs WHERE id = :run
""")
_LEADS = """
    SELECT c.id AS call_id, c.phone AS lead_phone, a.id, a.state, a.outcome, a.carrier,
           a.carrier_call_id, a.phone, a.caller_id, a.claimed_at, a.decision, a.decision_stands,
           a.state = 'sending' AND a.lease_until >= clock_timestamp() AS on_the_wire
      FROM (SELECT id, phone FROM calls WHERE run_id = :run AND {} ORDER BY id LIMIT :limit) c
      LEFT JOIN attempts a ON a.call_id = c.id
     ORDER BY c.id, a.number
"""
_PAGE = text(_LEADS.format("id > :after"))
_AGAIN = text(_LEADS.format("id = ANY (CAST(:ids AS bigint[]))"))
_WHOSE = text("SELECT run_id, phone FROM attempts WHERE id = :id")
_ACKNOWLEDGED = text("""
    SELECT details ->> 'carrier_call_id' FROM events WHERE run_id = :run AND event = :event
""")
_STRAYS = text("""
    SELECT s.attempt_id, s.carrier_call_id, s.reason, a.call_id, a.account_id, a.run_id
      FROM stray_carrier_calls s JOIN attempts a ON a.id = s.attempt_id
     WHERE s.carrier = :carrier AND s.carrier_call_id = ANY (CAST(:sids AS text[]))
""")


@dataclass(frozen=True)
class Difference:
    """One thing that the two records do not agree on.

    Attributes:
        kind: `double` (a second call of one attempt, hung up or not), `carrier_does_not_know`,
            `we_do_not_know` (a call to a lead that no attempt has), `wrong_outcome`,
            `still_open`, `still_unknown` (not over, and the carrier knows it),
            `called_too_often` (more calls of one lead than its run means), `counter_differs`,
            or why a lead was not compared: `carrier_unavailable`, `another_carrier`,
            `list_incomplete` (the carrier's list lacks a call that it knows by its id).
        repaired: a repair mended it, and the next look found nothing.
    """

    kind: str
    attempt_id: str | None
    carrier_call_id: str | None
    ours: str
    carriers: str
    call_id: str | None = None
    repaired: bool = False

    @property
    def about(self) -> tuple[object, ...]:
        """What tells whether two looks found the same thing."""
        name = self.ours.split()[0] if self.kind == "counter_differs" else None
        return self.kind, self.call_id, self.attempt_id, self.carrier_call_id, name


@dataclass(frozen=True)
class Report:
    """What an audit found.

    Attributes:
        attempts: how many were compared.
        known_strays: calls too many that an earlier repair acknowledged.
    """

    attempts: int
    known_strays: int
    differences: list[Difference]

    @property
    def agrees(self) -> bool:
        """Tell whether nothing differs, or no longer does."""
        return all(one.repaired for one in self.differences)


@dataclass(frozen=True)
class _Found:
    """A difference, and what to record if the carrier's word is certain."""

    difference: Difference
    evidence: Evidence | None = None


@dataclass(frozen=True)
class _Lead:
    call_id: int
    phone: str
    attempts: list[RowMapping]

    def differs(
        self,
        kind: str,
        row: RowMapping | None,
        call: CarrierCall | None,
        carriers: str,
        evidence: Evidence | None = None,
        ours: str = "nothing",
    ) -> _Found:
        if row:
            ours = f"{row['state']} {row['outcome'] or ''}".strip()
        sid = call.carrier_call_id if call else row["carrier_call_id"] if row else None
        attempt = str(row["id"]) if row else None
        return _Found(Difference(kind, attempt, sid, ours, carriers, str(self.call_id)), evidence)


def audit(engine: Engine, carrier: Carrier, run_id: UUID) -> Report:
    """Compare a run with the carrier's record.

    Raises:
        Refused: there is no such run.
        CarrierUnavailable: the carrier's record cannot be seen.
    """
    look = _Look.at(engine, carrier, run_id)
    found = [one.difference for one in look.again()]
    return Report(look.compared, len(look.acknowledged), _wrong_counters(engine, run_id) + found)


def repair(node: Node, carrier: Carrier, run_id: UUID) -> Report:
    """Compare a run with the carrier's record, and take the carrier's word where it is certain.

    Raises:
        Refused: there is no such run.
        CarrierUnavailable: the carrier's record cannot be seen. What was repaired before stays.
    """
    node = replace(node, source=SOURCE)
    look = _Look.at(node.engine, carrier, run_id)
    found = look.again()
    before = _wrong_counters(node.engine, run_id) + [one.difference for one in found]
    evidence = [one.evidence for one in found if one.evidence]
    for start in range(0, len(evidence), AT_ONCE):
        recording.record(node, evidence[start : start + AT_ONCE])
    _acknowledge(node, carrier, evidence)
    _correct_counters(node, look.run)
    known = look.read_acknowledged()
    left = _wrong_counters(node.engine, run_id) + [one.difference for one in look.again()]
    differences = _mark(before, left)
    repaired = sum(one.repaired for one in differences)
    log.info("audit_repaired", run_id=str(run_id), repaired=repaired, left=len(left))
    return Report(look.compared, known, differences)


def _mark(before: list[Difference], left: list[Difference]) -> list[Difference]:
    still = {one.about for one in left}
    repaired = [replace(one, repaired=True) for one in before if one.about not in still]
    return repaired + left


@dataclass
class _Look:
    """One run, seen from both sides.

    Attributes:
        suspects: the leads that differed at the first look.
        acknowledged: the carrier's ids of calls too many that a repair made known.
        failures: how many leads in a row the carrier said nothing of, and why, in `error`.
    """

    engine: Engine
    carrier: Carrier
    run: RowMapping
    compared: int = 0
    leads: int = 0
    suspects: list[int] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    failures: int = 0
    error: str = ""

    @classmethod
    def at(cls, engine: Engine, carrier: Carrier, run_id: UUID) -> _Look:
        with engine.connect() as connection:
            run = connection.execute(_RUN, {"run": run_id}).mappings().first()
        if run is None:
            raise not_found("run")
        if run["purge_started_at"]:
            # Without its phones, a call that we do not know of could not be found.
            raise Refused("wrong_state", "The run's phones were purged; it cannot be compared.")
        look = cls(engine, carrier, run)
        look.read_acknowledged()
        look.find_suspects()
        return look

    def read_acknowledged(self) -> int:
        """Read which calls too many are known; returns how many."""
        values = {"run": self.run["id"], "event": ACKNOWLEDGED}
        with self.engine.connect() as connection:
            self.acknowledged = set(connection.execute(_ACKNOWLEDGED, values).scalars())
        return len(self.acknowledged)

    @property
    def since(self) -> datetime:
        created: datetime = self.run["created_at"]
        return created - unknowns.MATCH_BEFORE

    def find_suspects(self) -> None:
        """Compare all leads, quickly, and remember those that differ."""
        listing = self._list_all() or self._list_one
        after = 0
        while leads := self._read(_PAGE, after=after, limit=PAGE):
            self.leads += len(leads)
            self.compared += sum(len(lead.attempts) for lead in leads)
            found = self._compare_all(leads, listing)
            self.suspects += sorted({int(one.difference.call_id or 0) for one in found})
            after = leads[-1].call_id

    def again(self) -> list[_Found]:
        """Compare the suspects again, both sides read afresh: what differs now is reported.

        Raises:
            CarrierUnavailable: of every lead of the run, the carrier said nothing.
        """
        found = []
        for start in range(0, len(self.suspects), AT_ONCE):
            ids = self.suspects[start : start + AT_ONCE]
            found += self._compare_all(self._read(_AGAIN, ids=ids, limit=AT_ONCE), self._list_one)
        unseen = [one for one in found if one.difference.kind == "carrier_unavailable"]
        if unseen and len(unseen) == self.leads:
            raise CarrierUnavailable(unseen[0].difference.carriers)
        return found

    def _read(self, statement: Any, **values: Any) -> list[_Lead]:
        with self.engine.connect() as connection:
            rows = connection.execute(statement, values | {"run": self.run["id"]}).mappings().all()
        return [
            _Lead(call_id, group[0]["lead_phone"], [row for row in group if row["id"]])
            for call_id, grouped in groupby(rows, itemgetter("call_id"))
            if (group := list(grouped))
        ]

    def _list_all(self) -> Listing | None:
        """List everything from the run's number at once; None if that is not the shorter way."""
        if not isinstance(self.carrier, ListsAll):
            return None
        most = min(1000 + 20 * self.run["total_leads"], 500_000)
        try:
            walk = self.carrier.calls_from(self.run["caller_id"], self.since)
            calls = list(islice(walk, most + 1))
        except CarrierUnavailable as error:
            log.warning("audit_list_failed", run_id=str(self.run["id"]), error=str(error))
            return None
        by_phone = defaultdict(list)
        for call in calls:
            by_phone[call.to].append(call)
        return None if len(calls) > most else lambda phone: by_phone.get(phone, [])

    def _list_one(self, phone: str) -> list[CarrierCall]:
        return self.carrier.find(to=phone, caller_id=self.run["caller_id"], since=self.since)

    def _compare_all(self, leads: list[_Lead], listing: Listing) -> list[_Found]:
        with ThreadPoolExecutor(THREADS) as pool:
            compared = pool.map(lambda lead: self._compare(lead, listing), leads)
            return [one for found in compared for one in found]

    def _compare(self, lead: _Lead, listing: Listing) -> list[_Found]:
        if self.failures >= GIVE_UP:
            raise CarrierUnavailable(self.error)
        try:
            calls = listing(lead.phone)
            found = [*self._own(lead, calls), *self._others(lead, calls), *self._too_often(lead)]
        except CarrierUnavailable as error:
            self.failures, self.error = self.failures + 1, str(error)
            return [
                lead.differs("carrier_unavailable", None, None, self.error, ours="not compared")
            ]
        self.failures = 0
        return found

    def _own(self, lead: _Lead, calls: list[CarrierCall]) -> Iterator[_Found]:
        """Hold each attempt whose call we know against the carrier's record of that call."""
        listed = {call.carrier_call_id: call for call in calls}
        for row in lead.attempts:
            if row["carrier"] != self.carrier.name:
                yield lead.differs("another_carrier", row, None, f"asked {self.carrier.name}")
            elif row["carrier_call_id"]:
                yield from self._own_call(lead, row, listed.get(row["carrier_call_id"]))

    def _own_call(
        self, lead: _Lead, row: RowMapping, listed: CarrierCall | None
    ) -> Iterator[_Found]:
        call = listed or self.carrier.look_up(row["carrier_call_id"])
        if call is None:
            yield lead.differs("carrier_does_not_know", row, None, "nothing")
            return
        # A list that lacks what we know of may lack a double as well.
        if listed is None and self._belongs_in_list(lead, call):
            yield lead.differs("list_incomplete", row, call, str(call.progress))
        if kind := _disagreement(row, call):
            evidence = unknowns.word(row["id"], call, SOURCE)
            yield lead.differs(kind, row, call, str(call.progress), evidence)

    def _belongs_in_list(self, lead: _Lead, call: CarrierCall) -> bool:
        if (call.to, call.caller_id) != (lead.phone, self.run["caller_id"]):
            return False
        return call.created_at is None or call.created_at >= self.since

    def _others(self, lead: _Lead, calls: list[CarrierCall]) -> Iterator[_Found]:
        """Find the carrier's calls to this lead that no attempt has, and whose they are."""
        tagged = [
            (call, self.carrier.attempt_of(call.carrier_call_id))
            for call in self._free(lead, calls)
        ]
        words = _match(lead, tagged)
        rows = {row["id"]: row for row in lead.attempts}
        taken = {row["id"] for row in lead.attempts if row["carrier_call_id"]}
        for call, tag in tagged:
            evidence = words.get(call.carrier_call_id)
            row = rows[evidence.attempt_id] if evidence else None
            if row is None and not self._is_other_runs(lead, tag):
                yield lead.differs("we_do_not_know", None, call, str(call.progress))
            elif row is not None and not row["on_the_wire"]:
                # The only call of an attempt is no double, even if we never heard of it.
                kind = "double" if row["id"] in taken else "we_do_not_know"
                taken.add(row["id"])
                yield lead.differs(kind, row, call, str(call.progress), evidence)
        for row in lead.attempts:
            # A person said that the call took place, and no call of the carrier's bears that out.
            if (
                row["decision_stands"]
                and row["decision"] == Decision.PLACED
                and row["id"] not in taken
            ):
                yield lead.differs("carrier_does_not_know", row, None, "nothing")

    def _free(self, lead: _Lead, calls: list[CarrierCall]) -> list[CarrierCall]:
        own = {row["carrier_call_id"] for row in lead.attempts} | self.acknowledged
        near = [call for call in calls if call.carrier_call_id not in own and self._is_near(call)]
        free = unknowns.without_owner(self.engine, self.carrier, near)
        # The oldest first: of two calls of an unknown it is taken, and the later one hung up.
        return sorted(free, key=lambda call: call.created_at or self.since)

    def _is_near(self, call: CarrierCall) -> bool:
        latest = self.run["until"] + unknowns.MATCH_AFTER
        in_time = call.created_at is None or self.since <= call.created_at <= latest
        return call.placed_by_api and in_time

    def _is_other_runs(self, lead: _Lead, tag: UUID | None) -> bool:
        """Tell whether the audit of another run finds this call."""
        if tag is None:
            return False
        with self.engine.connect() as connection:
            row = connection.execute(_WHOSE, {"id": tag}).first()
        return row is not None and row.run_id != self.run["id"] and row.phone == lead.phone

    def _too_often(self, lead: _Lead) -> Iterator[_Found]:
        """Hold a lead's calls against what its run, and the decisions about it, mean it to get."""
        calls = sum(row["carrier_call_id"] is not None for row in lead.attempts)
        again = (Decision.REDIAL, Decision.NOT_PLACED)
        meant = self.run["max_attempts"] + sum(row["decision"] in again for row in lead.attempts)
        if calls > meant:
            called, ours = f"{calls} calls", f"{meant} meant"
            yield lead.differs("called_too_often", None, None, called, ours=ours)


def _disagreement(row: RowMapping, call: CarrierCall) -> str | None:
    if row["state"] == AttemptState.ENDED:
        return None if row["outcome"] == str(call.progress) else "wrong_outcome"
    if call.progress.is_final:
        return "still_open"
    return "still_unknown" if row["state"] == AttemptState.UNKNOWN else None


def _match(
    lead: _Lead, tagged: list[tuple[CarrierCall, UUID | None]]
) -> dict[str | None, Evidence]:
    """Say which attempts the carrier's calls belong to, as the look-ups of unknowns do."""
    words: dict[str | None, Evidence] = {}
    for row in lead.attempts:
        certain = [(call, tag) for call, tag in tagged if tag is not None]
        for one in unknowns.match(row, tagged if _is_unresolved(row) else certain, SOURCE) or ():
            words.setdefault(one.carrier_call_id, one)
    return words


def _is_unresolved(row: RowMapping) -> bool:
    open_states = (AttemptState.SENDING, AttemptState.UNKNOWN)
    undecided = row["state"] in open_states or row["decision_stands"]
    return undecided and row["carrier_call_id"] is None


def _acknowledge(node: Node, carrier: Carrier, evidence: list[Evidence]) -> None:
    """Note in their calls' timelines those that were recorded as strays."""
    sids = [one.carrier_call_id for one in evidence]

    def body(connection: Connection) -> None:
        values = {"carrier": carrier.name, "sids": sids}
        rows = connection.execute(_STRAYS, values).mappings().all()
        settling.write_events(connection, [_acknowledgement(node, row) for row in rows])

    if sids:
        db.transaction(node.engine, body)


def _acknowledgement(node: Node, row: RowMapping) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("account_id", "run_id", "call_id", "attempt_id")},
        "event": ACKNOWLEDGED,
        "source": node.source,
        "worker_id": node.worker_id,
        "details": {"carrier_call_id": row["carrier_call_id"], "reason": row["reason"]},
    }


def _from_rows(name: str) -> str:
    if name == "attempts":
        return "coalesce(sum(c.attempts), 0)::int AS attempts"
    states = [str(state) for state in CallState if state.counter == name]
    outcomes = [str(outcome) for outcome in Outcome if outcome.counter == name]
    words = ", ".join(f"'{word}'" for word in states or outcomes)
    column = "state" if states else "outcome"
    return f"(count(*) FILTER (WHERE c.{column} IN ({words})))::int AS {name}"


# One statement, since whoever moves a call moves its counters in the same transaction: in one
# snapshot the two sides agree at every moment, also while the run goes on.
_COUNTED = text(f"""
    SELECT to_jsonb(counted) AS counted, to_jsonb(rows) AS rows
      FROM (SELECT {SUMS} FROM run_counters c WHERE c.run_id = :run) counted,
           (SELECT {", ".join(map(_from_rows, COUNTERS))} FROM calls c WHERE c.run_id = :run) rows
""")  # noqa: S608 - our own words


def _wrong_counters(engine: Engine, run_id: UUID) -> list[Difference]:
    with engine.connect() as connection:
        counted, rows = _count(connection, run_id)
    return [
        Difference("counter_differs", None, None, f"{name} {counted[name]}", f"rows {rows[name]}")
        for name in COUNTERS
        if counted[name] != rows[name]
    ]


def _count(connection: Connection, run_id: UUID) -> tuple[dict[str, int], dict[str, int]]:
    row = connection.execute(_COUNTED, {"run": run_id}).one()
    return row.counted, row.rows


def _correct_counters(node: Node, run: RowMapping) -> None:
    """Add to the counters what they lack of the rows.

    The run's lock keeps two repairs apart, which would both add it.
    """

    def body(connection: Connection) -> None:
        connection.execute(settling.LOCK_RUNS, {"ids": [run["id"]]})
        counted, rows = _count(connection, run["id"])
        missing = Counter({name: rows[name] - counted[name] for name in COUNTERS})
        if any(missing.values()):
            settling.write_events(connection, [_correction(node, run, missing)])
            counters.add(connection, {run["id"]: missing}, node.shard)

    db.transaction(node.engine, body)


def _correction(node: Node, run: RowMapping, missing: Counter[str]) -> dict[str, Any]:
    return {
        "account_id": run["account_id"],
        "run_id": run["id"],
        "event": "counters_corrected",
        "source": node.source,
        "worker_id": node.worker_id,
        "details": {name: n for name, n in missing.items() if n},
    }
