"""The API's description, OpenAPI 3.1: made of the route table and of the models.

What is said twice here, one of them a lie some day, is not said: paths, methods and roles are
the routes', bodies are judged by the very models that describe them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from typing import Any

import falcon
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from outbound import __version__, schemas
from outbound.api.answers import json_bytes
from outbound.api.openapi_answers import Problem
from outbound.api.openapi_components import (
    HEADERS,
    MEDIA_JSON,
    MEDIA_PROBLEM,
    OF_A_BODY,
    PARAMETERS,
    PROBLEMS,
    SECURITY,
    WITH_RETRY_AFTER,
)
from outbound.api.openapi_examples import EXAMPLES
from outbound.api.openapi_operations import OPERATIONS, Answer, Operation
from outbound.api.problems import TYPE
from outbound.api.routing import Route

PATH = "/api/openapi.json"

_ABOUT = """\
Places batches of phone calls, each lead exactly as often as meant.

Answers may gain fields; none is ever renamed or taken away. Ids are opaque strings. Every error
is `application/problem+json` with a stable `type`. Besides what each operation lists, any request
may be answered with 405 `method_not_allowed`; one that no server could read with 400
`bad_request`, 414 `uri_too_long`, 417 `expectation_failed` or 431 `headers_too_large`; and a bug
of ours with 500 `internal_error`. A HEAD is answered as the GET is."""


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
            "headers": HEADERS,
            "securitySchemes": SECURITY,
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
            {"name": name, **PARAMETERS[name]} | ({"required": True} if name in in_path else {})
            for name in (*in_path, *known.parameters)
        ],
        "responses": _responses(known, _codes(one, known, in_path), responses),
    }
    if one.role is not None:
        made["description"] = f"Needs the role `{one.role.word}`."  # pages show no scopes
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
    return codes | (set(OF_A_BODY) if known.body else set())


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
    content = {"schema": {"allOf": [_ref(Problem), exact]}, "example": example}
    headers = ["Retry-After"] if set(codes) & set(WITH_RETRY_AFTER) else []
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
    told = {one.model for one in answers if one.model} | {Problem}
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
