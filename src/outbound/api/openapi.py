"""The API's description, OpenAPI 3.1: made of the route table and of the models of `schemas`.

What is said twice here, one of them a lie some day, is not said: paths, methods and roles are
the routes', bodies are judged by the very models that describe them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

import falcon
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from outbound import __version__, pages, schemas
from outbound.api.answers import json_bytes
from outbound.api.problems import TYPE
from outbound.api.routing import Route
from outbound.states import CallState, Outcome, RunStatus

PATH = "/api/openapi.json"
MEDIA_JSON, MEDIA_PROBLEM = "application/json", "application/problem+json"

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_json": (400, "The body is not strict JSON."),
    "bad_request": (400, "The body is shorter than its Content-Length, or cannot be read."),
    "invalid_idempotency_key": (400, "The key must have 1 to 255 visible ASCII characters."),
    "unauthorized": (401, "There is no good API key."),
    "forbidden": (403, "The key's role is too small, or the callback's signature does not fit."),
    "not_found": (404, "There is no such object, or it is another account's."),
    "carrier_has_call": (409, "The carrier is known to have the call."),
    "duplicate_run": (409, "The same body came less than ten minutes ago."),
    "in_progress": (409, "The same request is being worked on."),
    "not_unknown": (409, "There is nothing to decide any more."),
    "too_early": (409, "Wait until 15 minutes after the claim, or send `force`."),
    "wrong_state": (409, "The state of the run or call forbids the move."),
    "length_required": (411, "Send a Content-Length, not a chunked body."),
    "too_large": (413, "The body is too large."),
    "unsupported_media_type": (415, "Send application/json."),
    "invalid": (422, "The body or the query is not valid: see `errors`."),
    "duplicate_leads": (422, "Leads appear more than once and `on_duplicate` is `reject`."),
    "no_acceptable_leads": (422, "No lead can be accepted."),
    "idempotency_key_reused": (422, "The key came with another body before."),
    "rate_limited": (429, "Wait for Retry-After."),
    "unavailable": (503, "The database is away, or busy; wait for Retry-After."),
}
_OF_A_BODY = (
    "bad_json",
    "bad_request",
    "length_required",
    "too_large",
    "unsupported_media_type",
    "invalid",
)
_WITH_RETRY_AFTER = ("in_progress", "rate_limited", "unavailable")

_ABOUT = """\
Places batches of phone calls, each lead exactly as often as meant.

Answers may gain fields; none is ever renamed or taken away. Ids are opaque strings. Every error
is `application/problem+json` with a stable `type`. Besides what each operation lists, any request
may be answered with 405 `method_not_allowed`; one that no server could read with 400
`bad_request`, 414 `uri_too_long`, 417 `expectation_failed` or 431 `headers_too_large`; and a bug
of ours with 500 `internal_error`. A HEAD is answered as the GET is."""


@dataclass(frozen=True)
class Answer:
    """One answer that is no problem.

    Attributes:
        model: of its JSON.
        media: of a body that no model describes; without either there is no body.
        headers: names out of `_HEADERS`; X-Request-Id goes without saying.
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
        parameters: names out of `_PARAMETERS`.
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
        "A request may still be on its way; ask again.", schemas.Run, headers=("Retry-After",)
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
                schemas.RunTaken,
                headers=("Location", "Idempotent-Replayed"),
            )
        },
        body=schemas.RunRequest,
        examples={
            "smallest": {
                "leads": [{"lead_id": "crm-17", "phone": "+972502345678"}],
                "twiml": "<Response><Say>Hello</Say></Response>",
            },
            "full": {
                "name": "November renewals",
                "leads": [
                    {
                        "lead_id": "crm-17",
                        "phone": "+972502345678",
                        "variables": {"name": "Dana", "amount": 12.5},
                    },
                    {"lead_id": "crm-18", "phone": "+12025550101"},
                ],
                "concurrency": 20,
                "calls_per_second": 5.0,
                "caller_id": "+97231234567",
                "answer_url": "https://crm.example.com/twiml",
                "twiml": None,
                "ring_timeout": 30,
                "max_call_duration": 3600,
                "retry": {"max_attempts": 3, "delay": 600, "on": ["busy", "no_answer"]},
                "on_unknown": {"action": "redial", "after": 900},
                "on_duplicate": "skip",
                "allow_duplicate": False,
                "start_at": None,
                "expires_at": None,
                "metadata": {"owner": "42"},
            },
        },
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
        _ok(schemas.RunPage, "A page.", "ETag") | _UNCHANGED,
        parameters=("status", "q", *_PAGE, "If-None-Match"),
        problems=("invalid",),
    ),
    "reconcile": _bare(
        "Repair the account's runs now, once a minute",
        _ok(schemas.Reconciled),
        "rate_limited",
    ),
    "show_run": Operation(
        "Runs",
        "Show a run",
        _ok(schemas.Run, "The run.", "ETag") | _UNCHANGED,
        parameters=("If-None-Match",),
    ),
    "pause_run": _bare(
        "Pause a run",
        _ok(schemas.Run, "Paused; no request is on its way.") | _WAIT,
        "wrong_state",
    ),
    "resume_run": _bare(
        "Resume a run",
        _ok(schemas.Run, "It goes on."),
        "wrong_state",
    ),
    "cancel_run": Operation(
        "Runs",
        "Cancel a run",
        _ok(schemas.Run, "Nothing more is dialled.") | _WAIT,
        body=schemas.CancelRequest,
        examples={"let calls end": {}, "hang up": {"hang_up": True}},
        problems=("wrong_state",),
    ),
    "resolve_run": Operation(
        "Calls",
        "Decide about all unknown calls of a run that are older than 15 minutes",
        _ok(schemas.Resolved),
        body=schemas.ResolveRequest,
        examples=_RESOLVE,
    ),
    "list_rejections": Operation(
        "Runs",
        "List the leads that a run left out, in body order",
        _ok(schemas.RejectionPage, "A page."),
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
        _ok(schemas.CallPage, "A page.", "ETag") | _UNCHANGED,
        parameters=("state", "outcome", "q", *_PAGE, "If-None-Match"),
        problems=("invalid",),
    ),
    "show_call": Operation(
        "Calls",
        "Show a call and its timeline",
        _ok(schemas.CallWithTimeline, "The call."),
    ),
    "cancel_call": Operation(
        "Calls",
        "Cancel a call: it is not dialled again",
        _ok(schemas.CallWithTimeline, "It is over, or the carrier is asked to end it.")
        | {
            202: Answer(
                "Its request may still be on its way; ask again.",
                schemas.CallWithTimeline,
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
        _ok(schemas.CallWithTimeline, "Decided."),
        body=schemas.ResolveRequest,
        examples=_RESOLVE,
        problems=("carrier_has_call", "not_unknown", "too_early"),
    ),
    "show_account": Operation("Account", "Show the account", _ok(schemas.Account, "The account.")),
    "change_account": Operation(
        "Account",
        "Change the account: only what is named changes",
        _ok(schemas.Account, "The account as it is now."),
        body=schemas.AccountPatch,
        examples={
            "limits": {"max_live_calls": 50, "calls_per_second": 2.5},
            "numbers": {"caller_ids": ["+97231234567"], "default_region": "IL"},
        },
    ),
    "stop_account": Operation(
        "Account",
        "Stop all dialling, at once; twice is no error",
        _ok(schemas.Account, "Stopped; no request is on its way.")
        | {
            202: Answer(
                "Stopped; a request may still be on its way; ask again.",
                schemas.Account,
                headers=("Retry-After",),
            )
        },
        body=schemas.CancelRequest,
        examples={"let calls end": {}, "hang up": {"hang_up": True}},
    ),
    "start_account": Operation(
        "Account",
        "Dial again after a stop; twice is no error",
        _ok(schemas.Account, "It goes on."),
        body=schemas.EmptyRequest,
        examples={"empty": {}},
    ),
    "list_suppressions": Operation(
        "Account",
        "List the numbers that are never called, newest first",
        _ok(schemas.SuppressionPage, "A page."),
        parameters=("phone", *_PAGE),
        problems=("invalid",),
    ),
    "add_suppressions": Operation(
        "Account",
        "Never call these numbers again; twice is no error",
        _ok(schemas.Suppressed, "No request to any of them is on its way.")
        | {
            202: Answer(
                "Suppressed; a request may still be on its way; ask again.",
                schemas.Suppressed,
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
        _ok(schemas.ActionPage, "A page."),
        parameters=_PAGE,
        problems=("invalid",),
    ),
    "list_keys": Operation(
        "Account",
        "List the API keys, newest first",
        _ok(schemas.KeyPage, "A page."),
        parameters=_PAGE,
        problems=("invalid",),
    ),
    "create_key": Operation(
        "Account",
        "Create an API key",
        {
            201: Answer(
                "The only answer with the secret.", schemas.NewKey, headers=("Idempotent-Replayed",)
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
        _ok(schemas.System, "How it is."),
    ),
    "receive": Operation(
        "Carrier",
        "Take a callback of the carrier",
        {204: Answer("Committed, or known already.")},
        problems=("bad_request", "forbidden", "length_required", "too_large", "unavailable"),
    ),
    "live": Operation(
        "Health", "Tell whether the process serves", _ok(schemas.Liveness, "It does.")
    ),
    "ready": Operation(
        "Health",
        "Tell whether runs can be taken",
        _ok(schemas.Readiness, "They can.") | {503: Answer("They cannot.", schemas.Readiness)},
    ),
    "show_description": Operation(
        "Health",
        "Show this description",
        {200: Answer("OpenAPI 3.1.", media=MEDIA_JSON)},
    ),
}

_RUN_ID = "01936f7a-5b1e-7c44-9c0f-3a7d6f0e2b11"
_ATTEMPT_ID = "01936f7a-6c02-7d1e-8a55-0b1f4c9e7d20"
_AT = "2026-11-24T09:30:00.000Z"
_CALL: dict[str, Any] = {
    "call_id": "4711",
    "lead_id": "crm-17",
    "phone": "+972502345678",
    "state": "completed",
    "outcome": "answered",
    "attempts": [
        {
            "attempt_id": _ATTEMPT_ID,
            "number": 1,
            "state": "ended",
            "outcome": "answered",
            "carrier": "twilio",
            "carrier_call_id": "CA00000000000000000000000000000001",
            "claimed_at": _AT,
            "placed_at": _AT,
            "ringing_at": _AT,
            "answered_at": _AT,
            "unknown_at": None,
            "ended_at": _AT,
            "duration": 42,
            "error": None,
            "decision": None,
            "decided_by": None,
            "worker_id": "worker-7:4711",
            "empty_lookups": 0,
            "next_lookup_at": None,
        }
    ],
    "next_attempt_at": None,
    "waiting_for": None,
    "cancel_requested": False,
    "last_error": None,
    "variables": {"name": "Dana"},
}
EXAMPLES: dict[type[BaseModel], Any] = {
    schemas.RunTaken: {
        "run_id": _RUN_ID,
        "status": "pending",
        "accepted": 2,
        "duplicates": 0,
        "rejected": 1,
        "rejections": [{"index": 3, "lead_id": "crm-20", "code": "invalid_phone"}],
    },
    schemas.Run: {
        "run_id": _RUN_ID,
        "name": "November renewals",
        "status": "running",
        "total_leads": 2,
        "queued": 0,
        "in_progress": 1,
        "completed": 1,
        "failed": 0,
        "cancelled": 0,
        "unknown": 0,
        "outcomes": {"answered": 1, "busy": 0, "no_answer": 0, "failed": 0, "cancelled": 0},
        "attempts": 2,
        "duplicates": 0,
        "rejected": 1,
        "concurrency": 10,
        "calls_per_second": 1.0,
        "caller_id": "+97231234567",
        "metadata": {"owner": "42"},
        "created_at": _AT,
        "started_at": _AT,
        "ended_at": None,
        "start_at": None,
        "expires_at": None,
        "purged_at": None,
        "eta": _AT,
        "last_error": None,
        "cancel_requested": False,
        "can_pause": True,
        "can_resume": False,
        "can_cancel": True,
    },
    schemas.CallWithTimeline: _CALL
    | {
        "timeline": [
            {
                "at": _AT,
                "event": "attempt_claimed",
                "source": "attempt",
                "attempt_id": _ATTEMPT_ID,
                "number": 1,
            }
        ]
    },
}
"""Of what answers look like, for people; tests hold them against their models."""

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's own, if it sent a sane one; it is in our log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds after which asking again makes sense.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Location": {"description": "The run.", "required": True, "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "This answer was given before.",
        "schema": {"const": "true"},
    },
    "ETag": {
        "description": "Over every field but a run's `eta`.",
        "required": True,
        "schema": {"type": "string", "pattern": '^"[0-9a-f]{32}"$'},
    },
    "WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}},
}


def _parameter(where: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    empty = {"allowEmptyValue": True} if where == "query" else {}  # what a form sends for none
    return {"in": where, "schema": schema, "description": text, **empty}


def _words(kind: Iterable[str], *more: str) -> dict[str, Any]:
    return {"type": "string", "enum": [*map(str, kind), *more]}


_LIMIT = {"type": "integer", "minimum": 1, "maximum": pages.MOST, "default": pages.DEFAULT}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "limit": _parameter("query", _LIMIT, "How many at most."),
    "cursor": _parameter("query", {"type": "string"}, "`next_cursor` of the page before."),
    "status": _parameter("query", _words(RunStatus), "Only runs with this status."),
    "state": _parameter(
        "query",
        _words(CallState, "in_progress"),
        "Only calls in this state; in_progress is dialing or live.",
    ),
    "phone": _parameter("query", {"type": "string"}, "Only this phone."),
    "outcome": _parameter("query", _words(Outcome), "Only calls that ended so."),
    "q": _parameter(
        "query", {"type": "string"}, "Only those with this in their name, id, lead or phone."
    ),
    "Idempotency-Key": _parameter(
        "header",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "The same key and body get the first answer again, for 24 hours.",
    ),
    "If-None-Match": _parameter("header", {"type": "string"}, "An ETag that is known."),
    "run_id": _parameter("path", {"type": "string", "minLength": 1}, "The run."),
    "call_id": _parameter("path", {"type": "string", "minLength": 1}, "The call."),
    "suppressed": _parameter("path", {"type": "string", "minLength": 1}, "The phone, E.164."),
    "key_id": _parameter("path", {"type": "string", "minLength": 1}, "The key."),
    "carrier_name": _parameter("path", {"type": "string", "minLength": 1}, "Such as `twilio`."),
    "attempt_id": _parameter("path", {"type": "string", "minLength": 1}, "The attempt."),
}

_SECURITY = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "`ob_…`; roles: viewer < operator < admin.",
    },
    "carrierSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Twilio-Signature",
        "description": "Over the public URL and the fields of the form.",
    },
}


def route(routes: list[Route]) -> Route:
    """Make the route that describes all of `routes`, itself too once it is one of them."""

    @cache
    def written() -> bytes:
        return json_bytes(document(routes))

    def show_description(_: falcon.Request, resp: falcon.Response) -> None:
        """GET /api/openapi.json."""
        resp.data = written()
        resp.content_type = MEDIA_JSON

    return Route("GET", PATH, None, show_description)


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Describe these routes. A route that OPERATIONS does not know raises KeyError."""
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    responses: dict[str, Any] = {}
    for one in routes:
        paths[one.path][one.method.lower()] = _operation(one, responses)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Outbound", "version": __version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "responses": dict(sorted(responses.items())),
            "headers": _HEADERS,
            "securitySchemes": _SECURITY,
        },
    }


def _operation(one: Route, responses: dict[str, Any]) -> dict[str, Any]:
    name = one.handler.__name__
    known = OPERATIONS[name]
    in_path = re.findall(r"{(\w+)}", one.path)
    made: dict[str, Any] = {
        "operationId": name,
        "tags": [known.tag],
        "summary": known.summary,
        "security": _security(one),
        "parameters": [
            {"name": name, **_PARAMETERS[name]} | ({"required": True} if name in in_path else {})
            for name in (*in_path, *known.parameters)
        ],
        "responses": _responses(known, _codes(one, known, in_path), responses),
    }
    if body := _body(one, known):
        made["requestBody"] = body
    return made


def _security(one: Route) -> list[dict[str, list[str]]]:
    if one.role is not None:
        return [{"apiKey": [one.role.word]}]
    return [{"carrierSignature": []}] if one.path.startswith("/webhooks/") else []


def _body(one: Route, known: Operation) -> dict[str, Any] | None:
    if known.body is None:
        form = {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}
        return {"content": form} if one.path.startswith("/webhooks/") else None
    examples = {name: {"value": value} for name, value in known.examples.items()}
    content = {"schema": _ref(known.body), "examples": examples}
    required = any(info.is_required() for info in known.body.model_fields.values())
    return {"required": required, "content": {MEDIA_JSON: content}}


def _codes(one: Route, known: Operation, in_path: list[str]) -> set[str]:
    codes = set(known.problems)
    if one.role is not None:
        codes |= {"unauthorized", "unavailable"} | ({"forbidden"} if one.role > 1 else set())
    if in_path:
        codes.add("not_found")
    return codes | (set(_OF_A_BODY) if known.body else set())


def _responses(known: Operation, codes: set[str], shared: dict[str, Any]) -> dict[str, Any]:
    made = {str(status): _answer(answer) for status, answer in known.answers.items()}
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in sorted(codes):
        by_status[PROBLEMS[code][0]].append(code)
    for status, some in by_status.items():
        name = ".".join([str(status), *some])
        shared.setdefault(name, _problem(status, some))
        made[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return dict(sorted(made.items()))


def _answer(answer: Answer) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.text, "headers": _headers(*answer.headers)}
    if answer.model:
        made["content"] = {MEDIA_JSON: {"schema": _ref(answer.model)}}
    elif answer.media:
        kind = "object" if answer.media == MEDIA_JSON else "string"
        made["content"] = {answer.media: {"schema": {"type": kind}}}
    return made


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    types = [TYPE + code for code in codes]
    exact = {"properties": {"type": {"enum": types}, "status": {"const": status}}}
    example = {
        "type": types[0],
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": PROBLEMS[codes[0]][1],
        "instance": "/api/outbound/runs",
        "request_id": "0d9f6c5e",
    }
    content = {"schema": {"allOf": [_ref(schemas.Problem), exact]}, "example": example}
    headers = ["Retry-After"] if set(codes) & set(_WITH_RETRY_AFTER) else []
    headers += ["WWW-Authenticate"] if status == HTTPStatus.UNAUTHORIZED else []
    return {
        "description": " ".join(f"`{code}`: {PROBLEMS[code][1]}" for code in codes),
        "headers": _headers(*headers),
        "content": {MEDIA_PROBLEM: content},
    }


def _headers(*names: str) -> dict[str, Any]:
    return {
        name: {"$ref": f"#/components/headers/{name}"} for name in sorted(("X-Request-Id", *names))
    }


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


class _Plain(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Leave out titles that only repeat the field's name."""
        return False


def _schemas() -> dict[str, Any]:
    asked = {one.body for one in OPERATIONS.values() if one.body} | {schemas.Lead}
    answers = [answer for one in OPERATIONS.values() for answer in one.answers.values()]
    told = {one.model for one in answers if one.model} | {schemas.Problem}
    models = [(model, "validation") for model in asked] + [(m, "serialization") for m in told]
    _, made = models_json_schema(
        sorted(models, key=lambda one: one[0].__name__),  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
        schema_generator=_Plain,
    )
    found: dict[str, Any] = made["$defs"]
    # The model takes anything for a lead, so that a bad one sinks no other.
    found["RunRequest"]["properties"]["leads"]["items"] = _ref(schemas.Lead)
    for known in found["AccountPatch"]["properties"].values():
        known.pop("default")  # what is left out stays as it is
    for model, example in EXAMPLES.items():
        found[model.__name__]["examples"] = [example]
    return found
