"""What answers look like. They are written by hand, for speed; these models only describe them.

Tests hold real answers against them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from outbound.schemas import Time
from outbound.states import AttemptState, CallState, Decision, Outcome, RunStatus


class Rejection(BaseModel):
    """A lead that was left out: where it stood in the body, and why."""

    index: int
    lead_id: str | None
    code: str


class RunTaken(BaseModel):
    """The answer to POST runs. `rejections` lists the first 1,000."""

    run_id: str
    status: RunStatus
    accepted: int
    duplicates: int
    rejected: int
    rejections: list[Rejection]


class Outcomes(BaseModel):
    """How many calls ended in which way."""

    answered: int
    busy: int
    no_answer: int
    failed: int
    cancelled: int


class Run(BaseModel):
    """A run. The six states of its calls add up to `total_leads`, in every answer."""

    run_id: str
    name: str | None
    status: RunStatus
    total_leads: int
    queued: int
    in_progress: int = Field(description="Calls that are dialing or live.")
    completed: int
    failed: int
    cancelled: int
    unknown: int
    outcomes: Outcomes
    attempts: int
    duplicates: int
    rejected: int
    concurrency: int
    calls_per_second: float
    caller_id: str
    metadata: dict[str, Any]
    created_at: Time
    started_at: Time | None
    ended_at: Time | None
    start_at: Time | None
    expires_at: Time | None
    purged_at: Time | None = Field(description="When its people's data was deleted.")
    eta: Time | None
    last_error: str | None = Field(description="Why the carrier is not asked at the moment.")
    cancel_requested: bool
    can_pause: bool
    can_resume: bool
    can_cancel: bool


class Attempt(BaseModel):
    """One dial of a call."""

    attempt_id: str
    number: int
    state: AttemptState
    outcome: Outcome | None
    carrier: str
    carrier_call_id: str | None
    claimed_at: Time
    placed_at: Time | None
    ringing_at: Time | None
    answered_at: Time | None
    unknown_at: Time | None
    ended_at: Time | None
    duration: int | None = Field(description="Seconds, as the carrier counts them.")
    error: str | None
    decision: Decision | None
    decided_by: str | None
    worker_id: str = Field(description="The process that claimed it.")
    empty_lookups: int = Field(description="Look-ups that were answered and found nothing.")
    next_lookup_at: Time | None


class Call(BaseModel):
    """One lead's place in one run."""

    call_id: str
    lead_id: str
    phone: str
    state: CallState
    outcome: Outcome | None
    attempts: list[Attempt]
    next_attempt_at: Time | None
    waiting_for: (
        Literal[
            "retry",
            "phone",
            "recent_call",
            "pace",
            "slots",
            "breaker",
            "stopped",
            "paused",
            "start_at",
        ]
        | None
    )
    cancel_requested: bool
    last_error: str | None = Field(
        description="Why it ended without being dialled: suppressed, or cancelled_by_operator."
    )
    variables: dict[str, Any]


class TimelineEntry(BaseModel):
    """Something that happened to a call, or to its run; an attempt's own times have a `number`."""

    at: Time
    event: str
    source: str
    attempt_id: str | None
    number: int = 0
    worker_id: str | None = None
    actor: str | None = None
    request_id: str | None = None
    details: dict[str, Any] | None = None


class CallWithTimeline(Call):
    """A call, and what happened when."""

    timeline: list[TimelineEntry]


class Page(BaseModel):
    """A page of a list."""

    next_cursor: str | None = Field(description="For ?cursor= of the next page; null at the end.")


class RunPage(Page):
    """Runs, newest first."""

    items: list[Run]


class CallPage(Page):
    """Calls, newest first."""

    items: list[Call]


class RejectionPage(Page):
    """Leads that a run left out, in body order."""

    items: list[Rejection]


class Resolved(BaseModel):
    """How many unknowns were decided."""

    resolved: int


class ReconciledRun(BaseModel):
    """A run that a sweep moved."""

    run_id: str
    old_status: RunStatus
    new_status: RunStatus
    reason: str
    completed_jobs: int
    total_leads: int


class Reconciled(BaseModel):
    """What the sweeps did."""

    success: bool
    reconciled_count: int
    runs: list[ReconciledRun]
    redialled: int
    unknown: int
    settled: int
    rung: int
    more: bool = Field(description="Whether there is work left.")
    duration_ms: int


class Account(BaseModel):
    """An account and its limits."""

    account_id: str
    name: str
    max_live_calls: int
    calls_per_second: float
    min_seconds_between_calls: int
    stopped: bool
    stopped_at: Time | None
    stopped_by: str | None = Field(description="The id of the key that asked for it.")
    stopped_by_name: str | None
    caller_ids: list[str]
    default_region: str | None
    default_answer_url: str | None
    default_twiml: str | None
    created_at: Time


class Key(BaseModel):
    """An API key without its secret."""

    key_id: str
    name: str | None
    role: Literal["viewer", "operator", "admin"]
    hint: str = Field(description="The last four characters of the secret.")
    created_at: Time
    revoked_at: Time | None


class KeyPage(Page):
    """Keys, newest first."""

    items: list[Key]


class NewKey(BaseModel):
    """A new key."""

    key_id: str
    key: str | None = Field(description="The secret: in this answer only, null in a replay.")
    role: Literal["viewer", "operator", "admin"]
    name: str | None


class Leader(BaseModel):
    """The reconciler that leads."""

    worker_id: str
    epoch: int
    since: Time
    is_alive: bool = Field(description="Whether it spoke with the database in the last 5 s.")


class ProcessSeen(BaseModel):
    """A process of ours that holds connections to the database."""

    worker_id: str
    kind: str
    connections: int
    since: Time
    last_seen_at: Time | None


class OpenBreaker(BaseModel):
    """Why a carrier is not asked at the moment."""

    carrier: str
    opened_at: Time
    next_trial_at: Time
    last_error: str


class Repair(BaseModel):
    """Something that a sweep or a look-up found and wrote."""

    at: Time
    event: str
    run_id: str
    call_id: str | None
    worker_id: str
    found_by: str | None
    error: str | None


class System(BaseModel):
    """How the processes are, and how this account is."""

    redis: Literal["ok", "degraded"]
    now: Time
    stopped: bool
    not_before: Time | None
    occupying: int = Field(description="Attempts that take from max_live_calls.")
    max_live_calls: int
    unknown: int
    waiting_for_phone: int = Field(description="Calls whose phone another run's call holds.")
    strays: int
    strays_not_over: int
    leader: Leader | None
    processes: list[ProcessSeen]
    breakers: list[OpenBreaker]
    repairs: list[Repair]


class Liveness(BaseModel):
    """The process serves."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether runs can be taken. Redis away only degrades that."""

    database: Literal["ok", "down"]
    redis: Literal["ok", "degraded"]
    migrations: Literal["ok", "pending", "unknown"]


class BodyFault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str
    code: str
    detail: str


class Problem(BaseModel):
    """RFC 9457. `type` is stable; `detail` is for people and never repeats the input."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None
    request_id: str | None
    errors: list[BodyFault] = Field(default_factory=list, max_length=100)
    errors_total: int = 0
    run_id: str = Field("", description="Of `duplicate_run`: the run that the body made before.")


class RejectedPhone(BaseModel):
    """What is no phone: where it stood in the body, and why."""

    index: int
    code: str


class Suppressed(BaseModel):
    """The answer to POST suppressions."""

    suppressed: int = Field(description="Phones of the body that are never called from now on.")
    added: int = Field(description="How many of them were not before.")
    rejected: int
    rejections: list[RejectedPhone]
    in_flight: int = Field(description="Calls to them that the carrier has, or may have.")


class Suppression(BaseModel):
    """A number that is never called."""

    phone: str
    reason: str | None
    actor: str = Field(description="The id of the key that added it.")
    actor_name: str | None
    created_at: Time


class SuppressionPage(Page):
    """Suppressions, newest first."""

    items: list[Suppression]


class Action(BaseModel):
    """What an operator did."""

    action_id: str
    at: Time
    action: str
    actor: str = Field(description="The id of the key, or cli: and a user of the machine.")
    actor_name: str | None = Field(description="The key's name.")
    source: str
    request_id: str | None
    run_id: str | None
    call_id: str | None
    attempt_id: str | None
    details: dict[str, Any] | None


class ActionPage(Page):
    """Actions, newest first."""

    items: list[Action]
