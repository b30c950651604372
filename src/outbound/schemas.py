"""What request bodies must look like, and what answers do. The API's description is made of both.

Requests are judged by their models. Answers are written by hand, for speed; their models only
describe them, and tests hold real answers against them.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from outbound.errors import Fault, invalid
from outbound.states import AttemptState, CallState, Decision, Outcome, RunStatus

MAX_LEADS = 100_000
MAX_METADATA = 4096
MAX_SUPPRESSIONS = 10_000

M = TypeVar("M", bound=BaseModel)

# fromisoformat also reads week dates, times without minutes, and any character for the T.
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _time(value: Any) -> Any:
    """Read RFC 3339 and nothing else; strict models would take no string at all."""
    if not isinstance(value, str):
        return value
    try:
        if _RFC_3339.fullmatch(value):
            return datetime.fromisoformat(value.upper())
    except ValueError:
        pass  # the thirteenth month
    raise PydanticCustomError("invalid_time", "Must be a time as in RFC 3339.")


Time = Annotated[AwareDatetime, BeforeValidator(_time)]
Name = Annotated[str, Field(max_length=200)]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
Twiml = Annotated[str, Field(min_length=1, max_length=4000)]


class Strict(BaseModel):
    """No unknown field, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RetryPolicy(Strict):
    """When a call is dialled again by itself."""

    max_attempts: int = Field(1, ge=1, le=20)
    delay: int = Field(600, ge=0, le=604_800)
    on: list[Literal["busy", "no_answer", "failed"]] = Field(["busy", "no_answer"], max_length=3)


class OnUnknown(Strict):
    """What the run's author decides beforehand about calls that nobody knows of."""

    # The validator's rule, for readers of the description.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {"action": {"const": "hold"}, "after": {"type": "null"}}},
                {
                    "properties": {"action": {"const": "redial"}, "after": {"type": "integer"}},
                    "required": ["action", "after"],
                },
            ]
        }
    )

    action: Literal["hold", "redial"] = "hold"
    after: int | None = Field(None, ge=900, le=86_400)

    @model_validator(mode="after")
    def _after_goes_with_redial(self) -> OnUnknown:
        if (self.action == "redial") != (self.after is not None):
            raise PydanticCustomError("after_goes_with_redial", "`after` goes with `redial`.")
        return self


class RunRequest(Strict):
    """The body of POST runs. The leads are checked one by one, so that a bad one sinks no other."""

    name: Name | None = None
    leads: list[Any] = Field(
        min_length=1,
        max_length=MAX_LEADS,
        description="Later copies of a lead_id or a phone are left out: see on_duplicate.",
    )
    concurrency: int = Field(10, ge=1, le=1000)
    calls_per_second: float = Field(1.0, ge=0.01, le=1000)
    caller_id: Annotated[str, Field(max_length=32)] | None = None
    answer_url: Url | None = None
    twiml: Twiml | None = None
    ring_timeout: int = Field(30, ge=5, le=600)
    max_call_duration: int = Field(3600, ge=10, le=14_400)
    retry: RetryPolicy = RetryPolicy()
    on_unknown: OnUnknown = OnUnknown()
    on_duplicate: Literal["skip", "reject"] = "skip"
    allow_duplicate: bool = False
    start_at: Time | None = None
    expires_at: Time | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _metadata_is_small(self) -> RunRequest:
        if len(json.dumps(self.metadata, ensure_ascii=False).encode()) > MAX_METADATA:
            raise PydanticCustomError("metadata_too_large", "metadata may have 4 KiB at most.")
        return self


class CancelRequest(Strict):
    """The body of POST cancel."""

    hang_up: bool = False


class EmptyRequest(Strict):
    """The body of a POST that takes none."""


class ResolveRequest(Strict):
    """A person's word on what is unknown."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "properties": {"decision": {"const": "placed"}, "outcome": {"type": "string"}},
                    "required": ["outcome"],
                },
                {
                    "properties": {
                        "decision": {"enum": ["not_placed", "redial"]},
                        "outcome": {"type": "null"},
                    }
                },
            ]
        }
    )

    decision: Literal["placed", "not_placed", "redial"]
    outcome: Literal["answered", "busy", "no_answer", "failed", "cancelled"] | None = None
    note: Annotated[str, Field(max_length=1000)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _outcome_goes_with_placed(self) -> ResolveRequest:
        if (self.decision == "placed") != (self.outcome is not None):
            raise PydanticCustomError("outcome_goes_with_placed", "`outcome` goes with `placed`.")
        return self


class AccountPatch(Strict):
    """The body of PATCH account; what is left out stays as it is."""

    max_live_calls: int = Field(20, ge=1, le=10_000)
    calls_per_second: float = Field(1.0, ge=0.01, le=1000)
    min_seconds_between_calls: int = Field(3600, ge=0, le=31_536_000)
    caller_ids: list[Annotated[str, Field(max_length=32)]] = Field([], max_length=100)
    default_region: Annotated[str, Field(min_length=2, max_length=2)] | None = None
    default_answer_url: Url | None = None
    default_twiml: Twiml | None = None


class KeyRequest(Strict):
    """The body of POST keys."""

    role: Literal["viewer", "operator", "admin"]
    name: Name | None = None


class Lead(Strict):
    """A person to call. One that does not fit is left out of the run and listed as rejected."""

    lead_id: str = Field(min_length=1, max_length=128, description="Your own id of this person.")
    phone: str = Field(
        min_length=1,
        max_length=64,
        description="E.164, or national if the account has a default_region.",
        json_schema_extra={"format": "phone"},
    )
    variables: dict[str, str | float | bool | None] | None = Field(
        None, max_length=50, description="Fill the placeholders of the TwiML, or the answer URL."
    )


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


class SuppressRequest(Strict):
    """Numbers never to be called. One that is no phone sinks no other."""

    phones: list[Any] = Field(
        min_length=1,
        max_length=MAX_SUPPRESSIONS,
        description="E.164, or national if the account has a default_region.",
        json_schema_extra={"items": {"type": "string", "format": "phone"}},
    )
    reason: Annotated[str, Field(max_length=200)] | None = None


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


_CODES = {
    "extra_forbidden": "unknown_field",
    "missing": "missing",
    "literal_error": "unknown_word",
    "timezone_aware": "invalid_time",
    "datetime_type": "invalid_time",
}


def parse(model: type[M], data: Any) -> M:
    """Validate a body.

    Raises:
        Refused: 422 with a pointer and a code for each thing that is wrong; never the input.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False, include_context=False)
        raise invalid([_fault(one) for one in found]) from None


def _fault(found: Any) -> Fault:
    # Cut: a name that nobody knows is input, and may be of any length.
    names = [str(part)[:64].replace("~", "~0").replace("/", "~1") for part in found["loc"]]
    return Fault(
        "#" + "".join(f"/{name}" for name in names if name != "function-after"),
        _CODES.get(found["type"], found["type"]),
        found["msg"],
    )
