"""What request bodies must look like: they are judged by these models.

The API's description is made of them too, and of `api.openapi_answers`.
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


class SuppressRequest(Strict):
    """Numbers never to be called. One that is no phone sinks no other."""

    phones: list[Any] = Field(
        min_length=1,
        max_length=MAX_SUPPRESSIONS,
        description="E.164, or national if the account has a default_region.",
        json_schema_extra={"items": {"type": "string", "format": "phone"}},
    )
    reason: Annotated[str, Field(max_length=200)] | None = None


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
