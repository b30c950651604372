"""Every state, and who moves it. Pure: rows and evidence in, moves out.

An attempt's life::

    sending ──accepted, progress──► placed ──final word──► ended
       │  │                            │
       │  └─final word, refused────────┼──────────────────► ended
       │                               │
       ├─lease ran out, ambiguous─► unknown ◄─look-ups fail─┘
       │                               │
       └─unsent, not processed─► released ◄─late "not processed", decision

`unknown` is left by the carrier's word or by a recorded decision, by nothing else. A final word
absorbs: nothing changes the attempt afterwards. A decision stands only until the carrier speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from outbound import policy
from outbound.carriers.base import Progress


class RunStatus(StrEnum):
    """A run. The first claim makes it running; advance() ends it."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class CallState(StrEnum):
    """One lead's place in a run. `dialing` and `live` are what the API calls in_progress."""

    QUEUED = "queued"
    DIALING = "dialing"
    LIVE = "live"
    UNKNOWN = "unknown"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def counter(self) -> str:
        """The column of run_counters that counts calls in this state."""
        return "in_progress" if self in (CallState.DIALING, CallState.LIVE) else str(self)


class AttemptState(StrEnum):
    """One dial of a call."""

    SENDING = "sending"
    PLACED = "placed"
    UNKNOWN = "unknown"
    ENDED = "ended"
    RELEASED = "released"


class Outcome(StrEnum):
    """How a call went."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no_answer"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def counter(self) -> str:
        """The column of run_counters that counts this outcome."""
        return f"outcome_{self}" if self in (Outcome.FAILED, Outcome.CANCELLED) else str(self)

    @property
    def call_state(self) -> CallState:
        """The state of a call that ended so."""
        return {Outcome.FAILED: CallState.FAILED, Outcome.CANCELLED: CallState.CANCELLED}.get(
            self, CallState.COMPLETED
        )


class Decision(StrEnum):
    """What a person, or the run's author beforehand, may decide about an unknown."""

    PLACED = "placed"
    NOT_PLACED = "not_placed"
    REDIAL = "redial"


class Kind(StrEnum):
    """What a piece of evidence, or an intention, says about an attempt."""

    WORD = "word"
    REFUSED_CALLEE = "refused_callee"
    NOT_PROCESSED = "not_processed"
    AMBIGUOUS = "ambiguous"
    LEASE_RAN_OUT = "lease_ran_out"
    UNSENT = "unsent"
    SILENT = "silent"
    PHONE_BACK = "phone_back"
    DECISION = "decision"


class Evidence(NamedTuple):
    """Something that bears on one attempt.

    Attributes:
        source: `answer`, `callback`, `look_up`, `sweep`, `audit`, `operator` or `policy`.
        fence: for UNSENT, the claim that the releasing worker holds.
        due_in: when a released call is due again.
        by: who decided, for DECISION.
        matched_by_number: a look-up that rests on To and From alone; never makes a stray.
    """

    attempt_id: UUID
    kind: Kind
    source: str
    carrier_call_id: str | None = None
    progress: Progress | None = None
    duration: int | None = None
    error: str | None = None
    fence: int | None = None
    due_in: timedelta = policy.RELEASE_DUE
    decision: Decision | None = None
    outcome: Outcome | None = None
    by: str | None = None
    note: str | None = None
    request_id: str | None = None
    matched_by_number: bool = False


class Attempt(NamedTuple):
    """The columns of an attempt that evidence may change, and the few that it reads."""

    id: UUID
    call_id: int
    number: int
    state: AttemptState
    outcome: Outcome | None
    carrier_call_id: str | None
    phone_held: bool
    fence: int
    lease_until: datetime
    claimed_at: datetime
    placed_at: datetime | None
    ringing_at: datetime | None
    answered_at: datetime | None
    unknown_at: datetime | None
    ended_at: datetime | None
    duration: int | None
    error: str | None
    heard_at: datetime | None
    decision: Decision | None
    decided_by: str | None
    decision_stands: bool
    next_lookup_at: datetime | None
    lookups_fail_since: datetime | None


class Policy(NamedTuple):
    """What a run says about retries, and whether it still dials."""

    dials: bool
    max_attempts: int
    retry_delay: int
    retry_on: tuple[str, ...]
    ring_timeout: int


class Call(NamedTuple):
    """The columns of a call that settling changes; no `next_attempt_at` means as it was."""

    id: int
    state: CallState
    outcome: Outcome | None
    attempts: int
    next_attempt_at: datetime | None
    waiting_for: str | None


@dataclass(frozen=True)
class Move:
    """What a piece of evidence did: a new attempt, a stray, or both None for nothing."""

    attempt: Attempt | None = None
    stray: str | None = None
    requeue_in: timedelta | None = field(default=None)


NOTHING = Move()


def judge(attempt: Attempt, evidence: Evidence, now: datetime, ring_timeout: int) -> Move:
    """Apply one piece of evidence to one locked attempt.

    Evidence is accepted from anyone, also from a worker that lost its lease; only intentions
    (UNSENT, LEASE_RAN_OUT) are guarded, by fence and state.
    """
    if evidence.kind is Kind.WORD:
        return _word(attempt, evidence, now, ring_timeout)
    if evidence.kind is Kind.DECISION:
        return _decide(attempt, evidence, now)
    return _NOT_WORDS[evidence.kind](attempt, evidence, now)


def _word(attempt: Attempt, evidence: Evidence, now: datetime, ring_timeout: int) -> Move:
    if attempt.carrier_call_id not in (None, evidence.carrier_call_id):
        return NOTHING if evidence.matched_by_number else Move(stray="another_carrier_id")
    over = attempt.state in (AttemptState.ENDED, AttemptState.RELEASED)
    if over and not attempt.decision_stands:
        if attempt.state is AttemptState.RELEASED and not evidence.matched_by_number:
            return Move(stray="word_on_released")
        return NOTHING
    heard = attempt._replace(
        carrier_call_id=evidence.carrier_call_id,
        placed_at=attempt.placed_at or now,
        heard_at=now if evidence.source == "callback" else attempt.heard_at,
        decision_stands=False,
        lookups_fail_since=None,
    )
    if evidence.progress and evidence.progress.is_final:
        outcome = Outcome(str(evidence.progress))
        return Move(_end(heard, now, outcome, evidence.duration, evidence.error))
    return _progress(attempt, heard, evidence.progress, now, ring_timeout)


def _progress(
    before: Attempt, heard: Attempt, word: Progress | None, now: datetime, ring_timeout: int
) -> Move:
    first_ring = word is Progress.RINGING and not (heard.ringing_at or heard.answered_at)
    first_talk = word is Progress.IN_PROGRESS and not heard.answered_at
    if before.state is AttemptState.PLACED and not (
        first_ring or first_talk or before.carrier_call_id is None
    ):
        return NOTHING
    first_look = policy.placed_lookup(heard.placed_at or now, ring_timeout)
    after = heard._replace(
        state=AttemptState.PLACED,
        outcome=None,
        ended_at=None,
        error=None,
        ringing_at=now if first_ring else heard.ringing_at,
        answered_at=now if first_talk else heard.answered_at,
        next_lookup_at=max(now, first_look)
        if before.state is not AttemptState.PLACED
        else heard.next_lookup_at,
    )
    return Move(after)


def _end(
    attempt: Attempt,
    now: datetime,
    outcome: Outcome | None,
    duration: int | None = None,
    error: str | None = None,
) -> Attempt:
    return attempt._replace(
        state=AttemptState.ENDED,
        outcome=outcome,
        ended_at=now,
        phone_held=False,
        duration=duration if duration is not None else attempt.duration,
        error=error,
        next_lookup_at=None,
    )


def _release(attempt: Attempt, now: datetime, error: str | None) -> Attempt:
    return attempt._replace(
        state=AttemptState.RELEASED,
        ended_at=now,
        phone_held=False,
        error=error,
        next_lookup_at=None,
    )


def _to_unknown(attempt: Attempt, now: datetime, error: str | None) -> Attempt:
    return attempt._replace(
        state=AttemptState.UNKNOWN,
        unknown_at=now,
        next_lookup_at=now,
        lookups_fail_since=None,
        error=error,
    )


def _refused_callee(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if not _nobody_spoke(attempt):
        return NOTHING
    return Move(_end(attempt, now, Outcome.FAILED, error=evidence.error))


def _not_processed(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if not _nobody_spoke(attempt):
        return NOTHING
    return Move(_release(attempt, now, evidence.error), requeue_in=evidence.due_in)


def _nobody_spoke(attempt: Attempt) -> bool:
    undecided = attempt.state in (AttemptState.SENDING, AttemptState.UNKNOWN)
    return undecided and attempt.carrier_call_id is None


def _ambiguous(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if attempt.state is not AttemptState.SENDING:
        return NOTHING
    return Move(_to_unknown(attempt, now, evidence.error))


def _lease_ran_out(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if attempt.state is not AttemptState.SENDING or attempt.lease_until >= now:
        return NOTHING
    return Move(_to_unknown(attempt, now, evidence.error))


def _unsent(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    # Also once a sweep has called it unknown: only the claim's own worker could have sent it, and
    # a worker that wakes up too late knows that it wrote no byte.
    if not _nobody_spoke(attempt) or attempt.fence != evidence.fence:
        return NOTHING
    return Move(_release(attempt, now, evidence.error), requeue_in=evidence.due_in)


def _silent(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if attempt.state is not AttemptState.PLACED:
        return NOTHING
    return Move(_to_unknown(attempt, now, evidence.error))


def _phone_back(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    del evidence
    old = attempt.unknown_at and now - attempt.unknown_at >= policy.PHONE_BACK_AFTER
    if attempt.state is not AttemptState.UNKNOWN or not attempt.phone_held or not old:
        return NOTHING
    return Move(attempt._replace(phone_held=False))


def _decide(attempt: Attempt, evidence: Evidence, now: datetime) -> Move:
    if attempt.state is not AttemptState.UNKNOWN:
        return NOTHING
    if evidence.source == "policy" and (attempt.carrier_call_id or attempt.heard_at):
        return NOTHING  # the author's rule speaks only of calls that nobody ever heard of
    decided = attempt._replace(
        decision=evidence.decision, decided_by=evidence.by, decision_stands=True
    )
    if evidence.decision is Decision.PLACED:
        return Move(_end(decided, now, evidence.outcome, error=attempt.error))
    if evidence.decision is Decision.REDIAL:
        return Move(_end(decided, now, None, error=attempt.error), requeue_in=timedelta(0))
    if attempt.carrier_call_id is not None:
        return NOTHING
    return Move(_release(decided, now, attempt.error), requeue_in=timedelta(0))


_NOT_WORDS: dict[Kind, Callable[[Attempt, Evidence, datetime], Move]] = {
    Kind.REFUSED_CALLEE: _refused_callee,
    Kind.NOT_PROCESSED: _not_processed,
    Kind.AMBIGUOUS: _ambiguous,
    Kind.LEASE_RAN_OUT: _lease_ran_out,
    Kind.UNSENT: _unsent,
    Kind.SILENT: _silent,
    Kind.PHONE_BACK: _phone_back,
}


def settle(
    call: Call,
    moved: Attempt,
    counted: list[Attempt],
    run: Policy,
    now: datetime,
    requeue_in: timedelta | None,
) -> Call:
    """Say where a call stands after one of its attempts moved.

    Args:
        call: the locked call.
        moved: the attempt as it is now.
        counted: the call's attempts that are not released, by number, `moved` as it is now.
        run: the run's policy, read under its lock if the call may be queued again.
        now: the database's clock.
        requeue_in: when a released or redialled call is due.
    """
    here = call._replace(attempts=len(counted))
    # A late word about an attempt that was dialled again by decision: the lead has been reached,
    # so whatever is still planned would call somebody who answered.
    reached = any(one.outcome is Outcome.ANSWERED for one in counted)
    if any(other.number > moved.number for other in counted):
        ends = reached and call.state is CallState.QUEUED
        # A later attempt decides; else a person who answered is called again.
        return _finish(here, Outcome.ANSWERED) if ends else here
    due = requeue_in or timedelta(0)
    if not counted or (counted[-1].state is AttemptState.ENDED and counted[-1].outcome is None):
        return _requeue(here, run, now, due, None, None)
    if counted[-1].state is not AttemptState.ENDED:
        return _stand(here, _CALL_STATE_OF[counted[-1].state])
    if reached:
        return _finish(here, Outcome.ANSWERED)
    return _retry_or_finish(here, moved, counted, run, now, due)


def _retry_or_finish(
    call: Call, moved: Attempt, counted: list[Attempt], run: Policy, now: datetime, due: timedelta
) -> Call:
    last = counted[-1]
    assert last.outcome  # noqa: S101 - its caller saw to it
    if last.decision_stands or not _retries(last, len(counted), run):
        return _finish(call, last.outcome)
    if moved is last:
        due = timedelta(seconds=run.retry_delay)
    return _requeue(call, run, now, due, last.outcome, "retry")


_CALL_STATE_OF = {
    AttemptState.SENDING: CallState.DIALING,
    AttemptState.PLACED: CallState.LIVE,
    AttemptState.UNKNOWN: CallState.UNKNOWN,
}


def _retries(last: Attempt, attempts: int, run: Policy) -> bool:
    refused = last.carrier_call_id is None and last.outcome is Outcome.FAILED
    return not refused and last.outcome in run.retry_on and attempts < run.max_attempts


def _stand(call: Call, state: CallState) -> Call:
    return call._replace(state=state, outcome=None, waiting_for=None)


def _finish(call: Call, outcome: Outcome) -> Call:
    return call._replace(state=outcome.call_state, outcome=outcome, waiting_for=None)


def _requeue(
    call: Call,
    run: Policy,
    now: datetime,
    due_in: timedelta,
    last_outcome: Outcome | None,
    waiting_for: str | None,
) -> Call:
    if not run.dials:
        return _finish(call, last_outcome or Outcome.CANCELLED)
    return call._replace(
        state=CallState.QUEUED,
        outcome=None,
        next_attempt_at=now + due_in,
        waiting_for=waiting_for,
    )
