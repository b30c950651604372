"""Writes the carrier's answers to our own requests: those of 50 ms, or 200, in one transaction.

Nobody waits for the slowest: a sender hands its answer in and takes the next call.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from sqlalchemy import Connection, text

from outbound import db, logs, pace, policy, recording
from outbound.carriers.base import Answer, Progress, Verdict
from outbound.claims import ClaimedCall
from outbound.node import Node
from outbound.settling import Settled
from outbound.states import Evidence, Kind

log = logs.get(__name__)

WELL = (Verdict.ACCEPTED, Verdict.REFUSED_CALLEE)
BATCH = 200
BATCH_SECONDS = 0.05
TRY_AGAIN_SECONDS = 0.5

_KEEP_OFF = text("""
    UPDATE account_pace
       SET not_before = greatest(not_before, clock_timestamp() + make_interval(secs => :seconds)),
           backoff_seconds = :seconds
     WHERE account_id = :account
""")
_EASE = text("UPDATE account_pace SET backoff_seconds = 0 WHERE account_id = :account")
_OPEN_BREAKER = text("""
    INSERT INTO breakers AS b (account_id, carrier, opened_at, next_trial_at, last_error)
    VALUES (:account, :carrier, clock_timestamp(), clock_timestamp() + :after, :error)
    ON CONFLICT (account_id, carrier) DO UPDATE
       SET last_error = excluded.last_error, next_trial_at = excluded.next_trial_at
    RETURNING (xmax = 0) AS is_new
""")
_CLOSE_BREAKER = text("DELETE FROM breakers WHERE account_id = :account AND carrier = :carrier")


@dataclass
class Answered:
    """One answer; `answer` None means that the call was never sent and is given back.

    Attributes:
        written: set once it is, if somebody waits for that.
    """

    call: ClaimedCall
    answer: Answer | None
    reason: str | None = None
    written: threading.Event | None = None

    @property
    def is_good(self) -> bool:
        """Whether the carrier took it, or refused the callee: it is well."""
        return bool(self.answer) and self.answer.verdict in WELL  # type: ignore[union-attr]

    @property
    def is_bad(self) -> bool:
        """Whether the carrier is not well: nothing more may go out before this is written."""
        return self.answer is not None and not self.is_good


class Recorder:
    """The thread that writes answers, and what they say about the account and the carrier."""

    def __init__(self, node: Node, carrier: str) -> None:
        self._node = node
        self._carrier = carrier
        self._queue: queue.SimpleQueue[Answered | None] = queue.SimpleQueue()
        self._bad_in_a_row: Counter[UUID] = Counter()
        self._collected = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, answered: Answered) -> None:
        """Hand in an answer. Returns when a bad one is written, else at once.

        While the sender waits it sends nothing: after the first error about us, or "slow down",
        a process can have as many more requests out as it has senders, whatever their speed.
        """
        if answered.is_bad:
            answered.written = threading.Event()
        self._queue.put(answered)
        if answered.written:
            answered.written.wait(self._node.settings.record_margin)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until no more answers wait than one transaction takes; false if that is too long.

        Whoever claims asks first, so that a crash leaves unknown what the senders were sending and
        at most two batches, one that waits and one that is written, however slow the database is.
        """
        with self._collected:
            return self._collected.wait_for(lambda: self._queue.qsize() <= BATCH, seconds)

    def close(self, seconds: float) -> bool:
        """Write what was handed in, then stop; false if that took longer."""
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        open_ = True
        while open_:
            batch, open_ = self._collect()
            with self._collected:
                self._collected.notify_all()
            if batch:
                self._write_until_done(batch)
            for item in batch:
                if item.written:
                    item.written.set()

    def _collect(self) -> tuple[list[Answered], bool]:
        first = self._queue.get()
        if first is None:
            return [], False
        batch, deadline = [first], time.monotonic() + BATCH_SECONDS
        while len(batch) < BATCH and not batch[-1].is_bad:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, False
            batch.append(item)
        return batch, True

    def _write_until_done(self, batch: list[Answered]) -> None:
        # With the database away there is nothing better to do than to ask again: the guards
        # make a second writing harmless, and after the lease a sweep calls them unknown.
        while True:
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the answers go on
                if not db.is_away(error):
                    self._write_one_by_one(batch)
                    return
                log.warning("record_failed", answers=len(batch), error=type(error).__name__)
                time.sleep(TRY_AGAIN_SECONDS)
            else:
                return

    def _write_one_by_one(self, batch: list[Answered]) -> None:
        # One answer that cannot be written must not take the others with it. Its lease runs
        # out, a sweep calls it unknown, and look-ups find it.
        for item in batch:
            try:
                self._write([item])
            except Exception:
                log.exception("answer_lost", attempt_id=str(item.call.attempt_id))

    def _write(self, batch: list[Answered]) -> None:
        bad = self._bad_after(batch)

        def body(connection: Connection) -> tuple[Settled, list[Callable[[], None]]]:
            waits, tells = self._note_accounts(connection, batch, bad)
            evidence = [_evidence(item, waits) for item in batch]
            return recording.settle_in(connection, self._node, evidence), tells

        settled, tells = db.transaction(self._node.engine, body)
        self._bad_in_a_row = bad
        for tell in tells:
            tell()
        recording.follow_up(self._node, settled)
        _tell(batch)

    def _bad_after(self, batch: list[Answered]) -> Counter[UUID]:
        bad = Counter(self._bad_in_a_row)
        for item in batch:
            if item.answer is None:
                continue
            if item.answer.verdict in (Verdict.AMBIGUOUS, Verdict.NEVER_SENT):
                bad[item.call.account_id] += 1
            else:
                bad.pop(item.call.account_id, None)
        return bad

    def _note_accounts(
        self, connection: Connection, batch: list[Answered], bad: Counter[UUID]
    ) -> tuple[dict[UUID, float], list[Callable[[], None]]]:
        """Write what the answers say about their accounts, in the lock order before all else.

        Returns:
            Seconds to wait, for accounts that are to slow down, and what to log after the COMMIT.
        """
        opening = _errors_about_us(batch, bad)
        slowed = {
            i.call.account_id: i.answer.retry_after
            for i in batch
            if i.answer and i.answer.verdict is Verdict.TRY_LATER
        }
        well = {i.call.account_id for i in batch if i.answer and i.is_good}
        closing = {
            i.call.account_id for i in batch if i.call.is_trial and i.call.account_id in well
        } - opening.keys()
        # Only a claim that saw the back-off eases it: an answer to a request that went out
        # before the carrier's "slow down" says nothing about it.
        eased = {i.call.account_id for i in batch if i.call.is_slowed and i.is_good} - slowed.keys()
        accounts = {*opening, *slowed, *closing, *eased}
        if not accounts:
            return {}, []
        found = pace.lock(connection, *accounts)
        waits = {
            row.account_id: policy.next_backoff(row.backoff_seconds, slowed[row.account_id])
            for row in found
            if row.account_id in slowed
        }
        tells: list[Callable[[], None]] = []
        for account_id, seconds in waits.items():
            connection.execute(_KEEP_OFF, {"account": account_id, "seconds": seconds})
            names = {"account_id": str(account_id), "seconds": seconds}
            tells.append(partial(log.warning, "carrier_asks_to_slow_down", **names))
        for account_id in sorted(eased):
            connection.execute(_EASE, {"account": account_id})
        return waits, tells + self._set_breakers(connection, opening, closing)

    def _set_breakers(
        self, connection: Connection, opening: dict[UUID, str], closing: set[UUID]
    ) -> list[Callable[[], None]]:
        tells: list[Callable[[], None]] = []
        for account_id, error in sorted(opening.items()):
            values = {
                "account": account_id,
                "carrier": self._carrier,
                "error": error,
                "after": policy.BREAKER_TRIAL_AFTER,
            }
            if connection.execute(_OPEN_BREAKER, values).scalar_one():
                names = {"account_id": str(account_id), "carrier": self._carrier}
                tells.append(partial(log.error, "breaker_opened", **names, error=error))
        for account_id in sorted(closing):
            names = {"account_id": str(account_id), "carrier": self._carrier}
            connection.execute(_CLOSE_BREAKER, {"account": account_id, "carrier": self._carrier})
            tells.append(partial(log.info, "breaker_closed", **names))
        return tells


def _errors_about_us(batch: list[Answered], bad: Counter[UUID]) -> dict[UUID, str]:
    found: dict[UUID, str] = {}
    for item in batch:
        account_id, answer = item.call.account_id, item.answer
        if answer is None or item.is_good:
            continue
        error = answer.error or str(answer.verdict)
        if answer.verdict is Verdict.REFUSED_US:
            found[account_id] = error
        elif bad[account_id] >= policy.BREAKER_AMBIGUOUS:
            found.setdefault(account_id, f"{bad[account_id]} requests in a row failed: {error}")
    return found


def _evidence(item: Answered, waits: dict[UUID, float]) -> Evidence:
    call, answer = item.call, item.answer
    if answer is None:
        return Evidence(call.attempt_id, Kind.UNSENT, "answer", fence=call.fence, error=item.reason)
    if answer.verdict is Verdict.ACCEPTED:
        return Evidence(
            call.attempt_id,
            Kind.WORD,
            "answer",
            progress=Progress.QUEUED,
            carrier_call_id=answer.carrier_call_id,
        )
    due = policy.NEVER_SENT_DUE
    if answer.verdict is not Verdict.NEVER_SENT:
        due = max(policy.RELEASE_DUE, timedelta(seconds=waits.get(call.account_id, 0)))
    return Evidence(
        call.attempt_id, _KINDS[answer.verdict], "answer", error=answer.error, due_in=due
    )


_KINDS = {
    Verdict.REFUSED_CALLEE: Kind.REFUSED_CALLEE,
    Verdict.REFUSED_US: Kind.NOT_PROCESSED,
    Verdict.TRY_LATER: Kind.NOT_PROCESSED,
    Verdict.NEVER_SENT: Kind.NOT_PROCESSED,
    Verdict.AMBIGUOUS: Kind.AMBIGUOUS,
}


def _tell(batch: list[Answered]) -> None:
    placed, released, not_placed = [], [], []
    for item in batch:
        call, answer = item.call, item.answer
        names = {
            "account_id": call.account_id,
            "run_id": call.run_id,
            "call_id": str(call.call_id),
            "attempt_id": call.attempt_id,
            "request_id": call.request_id,
        }
        if answer is None:
            released.append({**names, "reason": item.reason})
        elif answer.verdict is Verdict.ACCEPTED:
            placed.append({**names, "carrier_call_id": answer.carrier_call_id})
        else:
            said = {"verdict": str(answer.verdict), "error": answer.error}
            not_placed.append({**names, **said})
    if placed:
        log.info("call_placed", each=placed)
    if released:
        log.warning("attempt_released", each=released)
    if not_placed:
        log.warning("call_not_placed", each=not_placed)
