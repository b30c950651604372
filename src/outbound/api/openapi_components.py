"""What operations share and name: problems, headers, parameters, ways to be known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from outbound import pages
from outbound.states import CallState, Outcome, RunStatus

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
    "unavailable": (503, "The database is away, or we are busy; wait for Retry-After."),
}
OF_A_BODY = (
    "bad_json",
    "bad_request",
    "length_required",
    "too_large",
    "unsupported_media_type",
    "invalid",
)
WITH_RETRY_AFTER = ("in_progress", "rate_limited", "unavailable")

HEADERS: dict[str, dict[str, Any]] = {
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
PARAMETERS: dict[str, dict[str, Any]] = {
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

SECURITY = {
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
