"""Answers of the API, held against its own description."""

from __future__ import annotations

import copy
import re
from typing import Any

import falcon.testing
from jsonschema import Draft202012Validator

from outbound.api.openapi_components import MEDIA_PROBLEM
from outbound.api.problems import TYPE

Seen = tuple[str, int, str | None]
"""An operation, a status, and the code if it was a problem."""


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The same without room for what it does not mention.

    Clients must expect fields that are new to them; a test that lets them pass misses a field
    that nobody described.
    """
    made = copy.deepcopy(document)
    for schema in made["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return made


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    # The references in it are into the document.
    root = {**schema, "components": document["components"]}
    return Draft202012Validator(root, format_checker=Draft202012Validator.FORMAT_CHECKER)


def response_of(document: dict[str, Any], operation: dict[str, Any], status: int) -> Any:
    found = operation["responses"].get(str(status))
    if found and "$ref" in found:
        return document["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return found


def documented(document: dict[str, Any]) -> set[Seen]:
    """Whatever the document says may be answered."""
    found: set[Seen] = set()
    for operations in document["paths"].values():
        for operation in operations.values():
            for status in map(int, operation["responses"]):
                content = response_of(document, operation, status).get("content", {})
                codes = [None]
                if MEDIA_PROBLEM in content:
                    types = content[MEDIA_PROBLEM]["schema"]["allOf"][1]["properties"]["type"]
                    codes = [one.removeprefix(TYPE) for one in types["enum"]]
                found |= {(operation["operationId"], status, code) for code in codes}
    return found


class Recorder(falcon.testing.TestClient):
    """A client that takes no answer that the document does not describe."""

    def __init__(self, app: Any, document: dict[str, Any], seen: set[Seen]) -> None:
        super().__init__(app)
        self.document = closed(document)
        self.seen = seen
        # Those without a parameter first: /runs/reconcile is no run's id.
        paths = sorted(document["paths"], key=lambda path: path.count("{"))
        self._templates = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), path) for path in paths
        ]

    def simulate_request(self, method: str = "GET", path: str = "/", **known: Any) -> Any:
        answer = super().simulate_request(method, path, **known)
        self.check(method, path.partition("?")[0], answer)
        return answer

    def check(self, method: str, path: str, answer: Any) -> None:
        template = next(name for pattern, name in self._templates if pattern.fullmatch(path))
        operation = self.document["paths"][template][method.lower()]
        name = f"{method} {path} → {answer.status_code} {answer.text[:500]}"
        response = response_of(self.document, operation, answer.status_code)
        assert response, f"not described: {name}"
        for header in response["headers"]:
            schema = self.document["components"]["headers"][header]
            value = answer.headers.get(header.lower())
            assert value is not None or not schema.get("required"), f"no {header}: {name}"
        if "content" not in response:
            assert answer.content == b"", name
        else:
            self._check_body(answer, response["content"], name)
        code = answer.json["type"].removeprefix(TYPE) if _is_problem(answer) else None
        self.seen.add((operation["operationId"], answer.status_code, code))

    def _check_body(self, answer: Any, content: dict[str, Any], name: str) -> None:
        kind = answer.headers["content-type"]
        assert kind in content, f"{kind}: {name}"
        body = answer.json if "json" in kind else answer.text
        wrong = [
            error.message
            for error in validator(self.document, content[kind]["schema"]).iter_errors(body)
        ]
        assert not wrong, f"{wrong}: {name}"


def _is_problem(answer: Any) -> bool:
    return answer.headers.get("content-type") == MEDIA_PROBLEM
