"""Every error as `application/problem+json` (RFC 9457). Never the input, never a traceback."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import falcon
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbound import db, logs
from outbound.errors import Refused, Unavailable

log = logs.get(__name__)

TYPE = "urn:outbound:problem:"
MOST_ERRORS = 100

_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    411: "length_required",
    413: "too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    417: "expectation_failed",
    422: "invalid",
    429: "rate_limited",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}


def install(app: falcon.App[Any, Any]) -> None:
    """Answer every error of this app as a problem."""
    app.add_error_handler(Exception, _on_bug)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(DBAPIError, _on_database)
    app.add_error_handler(PoolTimeout, _on_database)
    app.add_error_handler(Unavailable, _on_unavailable)
    app.add_error_handler(Refused, _on_refused)


def code_of(status: int) -> str:
    """Name the problem of an answer that says no more than its status."""
    return _CODES.get(status, "error")


def write(
    status: int, code: str, detail: str, instance: str | None, request_id: str | None, **more: Any
) -> bytes:
    """Write a problem's body; `more` are its further members, such as `errors`."""
    body = {
        "type": TYPE + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "request_id": request_id,
        **more,
    }
    return json.dumps(body).encode()


def _answer(
    req: falcon.Request,
    resp: falcon.Response,
    status: int,
    code: str,
    detail: str,
    **more: Any,
) -> None:
    resp.status = status
    resp.content_type = "application/problem+json"
    request_id = getattr(req.context, "request_id", None)
    resp.data = write(status, code, detail, req.path, request_id, **more)
    if status == HTTPStatus.UNAUTHORIZED:
        resp.set_header("WWW-Authenticate", "Bearer")


def _on_refused(
    req: falcon.Request, resp: falcon.Response, error: Refused, _: dict[str, Any]
) -> None:
    more = dict(error.extra)
    if error.faults:
        more["errors"] = [
            {"pointer": one.pointer, "code": one.code, "detail": one.detail}
            for one in error.faults[:MOST_ERRORS]
        ]
        more.setdefault("errors_total", len(error.faults))
    if error.retry_after is not None:
        resp.set_header("Retry-After", str(error.retry_after))
    _answer(req, resp, error.status, error.code, error.detail, **more)


def _on_unavailable(
    req: falcon.Request, resp: falcon.Response, error: Unavailable, _: dict[str, Any]
) -> None:
    resp.set_header("Retry-After", str(error.retry_after))
    _answer(req, resp, 503, "unavailable", error.detail)


def _on_database(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]
) -> None:
    if not db.is_away(error):
        _on_bug(req, resp, error, params)
        return
    log.warning("database_away", error=type(error).__name__)
    away = Unavailable("The database does not answer; nothing is known to have changed.")
    _on_unavailable(req, resp, away, params)


def _on_http_error(
    req: falcon.Request,
    resp: falcon.Response,
    error: falcon.HTTPError,
    _: dict[str, Any],
) -> None:
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.description or f"{phrase}."
    _answer(req, resp, error.status_code, code_of(error.status_code), detail)


def _on_bug(
    req: falcon.Request, resp: falcon.Response, error: Exception, _: dict[str, Any]
) -> None:
    log.error("request_failed", exc_info=error)
    _answer(req, resp, 500, "internal_error", "Something is wrong on our side; it is logged.")
