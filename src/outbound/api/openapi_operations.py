"""What each operation is about: what the route table does not tell of a route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from outbound import schemas
from outbound.api import openapi_answers as answers
from outbound.api.openapi_components import MEDIA_JSON
from outbound.api.openapi_examples import NEW_RUNS


@dataclass(frozen=True)
class Answer:
    """One answer that is no problem.

    Attributes:
        model: of its JSON.
        media: of a body that no model describes; without either there is no body.
        headers: names out of `HEADERS`; X-Request-Id goes without saying.
    """

    text: str
    model: type[BaseModel] | None = None
    media: str | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Operation:
    """What the route table does not tell about a route.

    Attributes:
        examples: bodies by name; tests send each of them.
        parameters: names out of `PARAMETERS`.
        problems: codes, besides those that follow from the role, the path and the body.
    """

    tag: str
    summary: str
    answers: dict[int, Answer]
    body: type[BaseModel] | None = None
    examples: dict[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def _ok(model: type[BaseModel], text: str = "Done.", *headers: str) -> dict[int, Answer]:
    return {200: Answer(text, model, headers=headers)}


_WAIT = {
    202: Answer(
        "A request may still be on its way; ask again.", answers.Run, headers=("Retry-After",)
    )
}
_UNCHANGED = {304: Answer("Unchanged.", headers=("ETag",))}
_PAGE = ("limit", "cursor")
_RESOLVE = {
    "placed": {"decision": "placed", "outcome": "answered", "note": "Dana confirms the call."},
    "redial": {"decision": "redial", "force": True},
    "not placed": {"decision": "not_placed", "force": True},
}


def _bare(summary: str, answers: dict[int, Answer], problem: str) -> Operation:
    return Operation(
        "Runs", summary, answers, schemas.EmptyRequest, {"empty": {}}, problems=(problem,)
    )


OPERATIONS: dict[str, Operation] = {
    "create_run": Operation(
        "Runs",
        "Create a run",
        {
            202: Answer(
                "Stored; it will be dialled.",
                answers.RunTaken,
                headers=("Location", "Idempotent-Replayed"),
            )
        },
        body=schemas.RunRequest,
        examples=NEW_RUNS,
        parameters=("Idempotency-Key",),
        problems=(
            "invalid_idempotency_key",
            "duplicate_run",
            "in_progress",
            "duplicate_leads",
            "no_acceptable_leads",
            "idempotency_key_reused",
        ),
    ),
    "list_runs": Operation(
        "Runs",
        "List runs, newest first",
        _ok(answers.RunPage, "A page.", "ETag") | _UNCHANGED,
        parameters=("status", "q", *_PAGE, "If-None-Match"),
        problems=("invalid",),
    ),
    "reconcile": _bare(
        "Repair the account's runs now, once a minute",
        _ok(answers.Reconciled),
        "rate_limited",
    ),
    "show_run": Operation(
        "Runs",
        "Show a run",
        _ok(answers.Run, "The run.", "ETag") | _UNCHANGED,
        parameters=("If-None-Match",),
    ),
    "pause_run": _bare(
        "Pause a run",
        _ok(answers.Run, "Paused; no request is on its way.") | _WAIT,
        "wrong_state",
    ),
    "resume_run": _bare(
        "Resume a run",
        _ok(answers.Run, "It goes on."),
        "wrong_state",
    ),
    "cancel_run": Operation(
        "Runs",
        "Cancel a run",
        _ok(answers.Run, "Nothing more is dialled.") | _WAIT,
        body=schemas.CancelRequest,
        examples={"let calls end": {}, "hang up": {"hang_up": True}},
        problems=("wrong_state",),
    ),
    "resolve_run": Operation(
        "Calls",
        "Decide about all unknown calls of a run that are older than 15 minutes",
        _ok(answers.Resolved),
        body=schemas.ResolveRequest,
        examples=_RESOLVE,
    ),
    "list_rejections": Operation(
        "Runs",
        "List the leads that a run left out, in body order",
        _ok(answers.RejectionPage, "A page."),
        parameters=_PAGE,
        problems=("invalid",),
    ),
    "export_calls": Operation(
        "Calls",
        "Export all calls of a run, for spreadsheets",
        {200: Answer("One line for each call.", media="text/csv; charset=utf-8")},
    ),
    "list_calls": Operation(
        "Calls",
        "List the calls of a run, newest first",
        _ok(answers.CallPage, "A page.", "ETag") | _UNCHANGED,
        parameters=("state", "outcome", "q", *_PAGE, "If-None-Match"),
        problems=("invalid",),
    ),
    "show_call": Operation(
        "Calls",
        "Show a call and its timeline",
        _ok(answers.CallWithTimeline, "The call."),
    ),
    "cancel_call": Operation(
        "Calls",
        "Cancel a call: it is not dialled again",
        _ok(answers.CallWithTimeline, "It is over, or the carrier is asked to end it.")
        | {
            202: Answer(
                "Its request may still be on its way; ask again.",
                answers.CallWithTimeline,
                headers=("Retry-After",),
            )
        },
        body=schemas.CancelRequest,
        examples={"queued": {}, "live": {"hang_up": True}},
        problems=("wrong_state",),
    ),
    "resolve_call": Operation(
        "Calls",
        "Decide about an unknown call",
        _ok(answers.CallWithTimeline, "Decided."),
        body=schemas.ResolveRequest,
        examples=_RESOLVE,
        problems=("carrier_has_call", "not_unknown", "too_early"),
    ),
    "show_account": Operation("Account", "Show the account", _ok(answers.Account, "The account.")),
    "change_account": Operation(
        "Account",
        "Change the account: only what is named changes",
        _ok(answers.Account, "The account as it is now."),
        body=schemas.AccountPatch,
        examples={
            "limits": {"max_live_calls": 50, "calls_per_second": 2.5},
            "numbers": {"caller_ids": ["+97231234567"], "default_region": "IL"},
        },
    ),
    "stop_account": Operation(
        "Account",
        "Stop all dialling, at once; twice is no error",
        _ok(answers.Account, "Stopped; no request is on its way.")
        | {
            202: Answer(
                "Stopped; a request may still be on its way; ask again.",
                answers.Account,
                headers=("Retry-After",),
            )
        },
        body=schemas.CancelRequest,
        examples={"let calls end": {}, "hang up": {"hang_up": True}},
    ),
    "start_account": Operation(
        "Account",
        "Dial again after a stop; twice is no error",
        _ok(answers.Account, "It goes on."),
        body=schemas.EmptyRequest,
        examples={"empty": {}},
    ),
    "list_suppressions": Operation(
        "Account",
        "List the numbers that are never called, newest first",
        _ok(answers.SuppressionPage, "A page."),
        parameters=("phone", *_PAGE),
        problems=("invalid",),
    ),
    "add_suppressions": Operation(
        "Account",
        "Never call these numbers again; twice is no error",
        _ok(answers.Suppressed, "No request to any of them is on its way.")
        | {
            202: Answer(
                "Suppressed; a request may still be on its way; ask again.",
                answers.Suppressed,
                headers=("Retry-After",),
            )
        },
        body=schemas.SuppressRequest,
        examples={"one": {"phones": ["+12025550143"], "reason": "asked not to be called"}},
    ),
    "remove_suppression": Operation(
        "Account",
        "Allow calls to a number again",
        {204: Answer("It may be called.")},
    ),
    "list_actions": Operation(
        "Account",
        "List what operators did, newest first",
        _ok(answers.ActionPage, "A page."),
        parameters=_PAGE,
        problems=("invalid",),
    ),
    "list_keys": Operation(
        "Account",
        "List the API keys, newest first",
        _ok(answers.KeyPage, "A page."),
        parameters=_PAGE,
        problems=("invalid",),
    ),
    "create_key": Operation(
        "Account",
        "Create an API key",
        {
            201: Answer(
                "The only answer with the secret.", answers.NewKey, headers=("Idempotent-Replayed",)
            )
        },
        body=schemas.KeyRequest,
        examples={"viewer": {"role": "viewer", "name": "Wallboard"}},
        parameters=("Idempotency-Key",),
        problems=("invalid_idempotency_key", "in_progress", "idempotency_key_reused"),
    ),
    "revoke_key": Operation(
        "Account",
        "Revoke an API key, at once; twice is no error",
        {204: Answer("It is useless now.")},
    ),
    "show_system": Operation(
        "Health",
        "Show leader, processes, breaker and repairs",
        _ok(answers.System, "How it is."),
    ),
    "receive": Operation(
        "Carrier",
        "Take a callback of the carrier",
        {204: Answer("Committed, or known already.")},
        problems=("bad_request", "forbidden", "length_required", "too_large", "unavailable"),
    ),
    "live": Operation(
        "Health", "Tell whether the process serves", _ok(answers.Liveness, "It does.")
    ),
    "ready": Operation(
        "Health",
        "Tell whether runs can be taken",
        _ok(answers.Readiness, "They can.") | {503: Answer("They cannot.", answers.Readiness)},
    ),
    "show_description": Operation(
        "Health",
        "Show this description",
        {200: Answer("OpenAPI 3.1.", media=MEDIA_JSON)},
    ),
}
