"""Runs and their calls: create, watch, pause, resume, cancel, resolve, reconcile."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from uuid import UUID

import falcon
from sqlalchemy import Connection, Engine, RowMapping

from outbound import calls, cancelling, db, idempotency, intake, progress, runs, schemas, unknowns
from outbound.accounts import Role
from outbound.api.answers import send, send_stored
from outbound.api.media import read_json, read_json_bytes
from outbound.api.quiet import answer_when_quiet
from outbound.api.routing import PREFIX, Route
from outbound.errors import Fault, invalid, not_found
from outbound.node import Node
from outbound.reconciler import on_demand
from outbound.states import Decision, Outcome

Request = falcon.Request
Response = falcon.Response


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _run_id(text: str) -> UUID:
    if (run_id := _uuid(text)) is None:
        raise not_found("run")
    return run_id


def _param(req: Request, name: str) -> str | None:
    """Read a parameter of the query; a form sends an empty one for a filter that is not set."""
    value = req.get_param(name) or None
    if value and "\0" in value:  # PostgreSQL has no text that contains one
        fault = Fault(f"#/query/{name}", "invalid_character", "A NUL is in it.")
        raise invalid([fault], "The query is not valid.")
    return value


def _snapshot(req: Request) -> AbstractContextManager[Connection]:
    """Open a connection whose statements all see one moment: a call and its attempts agree."""
    engine: Engine = req.context.node.engine
    return engine.execution_options(isolation_level="REPEATABLE READ").connect()


def create_run(req: Request, resp: Response) -> None:
    """POST /runs."""
    body = read_json_bytes(req)
    key = idempotency.check_key(req.get_header("Idempotency-Key"))
    stored = intake.create(req.context.node, req.context.caller, body, req.context.body_hash, key)
    send_stored(resp, stored)


def list_runs(req: Request, resp: Response) -> None:
    """GET /runs, newest first."""
    node: Node = req.context.node
    with db.reading(node.engine) as connection:
        found = progress.runs(
            connection,
            req.context.caller.account_id,
            _param(req, "status"),
            _param(req, "limit"),
            _param(req, "cursor"),
            _param(req, "q"),
        )
    _send_unless_known(req, resp, found, progress.etag_of_page(found))


def _run_and_asker(
    connection: Connection, who: str, digest: bytes, *, run_id: str
) -> RowMapping | None:
    return progress.run_and_asker(connection, who, digest, _uuid(run_id))


def show_run(req: Request, resp: Response, run_id: str) -> None:
    """GET /runs/{run_id}; 304 if nothing but the ETA changed."""
    del run_id  # read already, with who asks
    body = progress.show(req.context.asked)
    _send_unless_known(req, resp, body, progress.etag(body))


def _send_unless_known(req: Request, resp: Response, body: dict[str, Any], etag: str) -> None:
    resp.set_header("ETag", etag)
    resp.set_header("Cache-Control", "no-cache")
    if _knows(req, etag):
        resp.status = 304
        return
    send(resp, body)


def _knows(req: Request, etag: str) -> bool:
    # Compared weakly (RFC 9110): a proxy that compresses marks our ETag with W/.
    given = (req.get_header("If-None-Match") or "").split(",")
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in given)


def _read_run(req: Request, run_id: UUID) -> dict[str, Any]:
    node: Node = req.context.node
    with db.reading(node.engine) as connection:
        return progress.run(connection, req.context.caller.account_id, run_id)


def pause_run(req: Request, resp: Response, run_id: str) -> None:
    """POST /runs/{run_id}/pause."""
    schemas.parse(schemas.EmptyRequest, read_json(req))
    caller, run = req.context.caller, _run_id(run_id)
    runs.pause(req.context.node, caller.account_id, run, caller)
    answer_when_quiet(req, resp, partial(_read_run, req, run), run_id=run)


def cancel_run(req: Request, resp: Response, run_id: str) -> None:
    """POST /runs/{run_id}/cancel."""
    body = schemas.parse(schemas.CancelRequest, read_json(req))
    caller, run = req.context.caller, _run_id(run_id)
    runs.cancel(req.context.node, caller.account_id, run, caller, hang_up=body.hang_up)
    answer_when_quiet(req, resp, partial(_read_run, req, run), run_id=run)


def resume_run(req: Request, resp: Response, run_id: str) -> None:
    """POST /runs/{run_id}/resume."""
    schemas.parse(schemas.EmptyRequest, read_json(req))
    caller, run = req.context.caller, _run_id(run_id)
    runs.resume(req.context.node, caller.account_id, run, caller)
    send(resp, _read_run(req, run))


def list_calls(req: Request, resp: Response, run_id: str) -> None:
    """GET /runs/{run_id}/calls."""
    with _snapshot(req) as connection:
        found = calls.page(
            connection,
            req.context.caller.account_id,
            _run_id(run_id),
            _param(req, "state"),
            _param(req, "outcome"),
            _param(req, "limit"),
            _param(req, "cursor"),
            _param(req, "q"),
        )
    _send_unless_known(req, resp, found, progress.etag(found))


def show_call(req: Request, resp: Response, run_id: str, call_id: str) -> None:
    """GET /runs/{run_id}/calls/{call_id}."""
    send(resp, _read_call(req, _run_id(run_id), call_id))


def _read_call(req: Request, run_id: UUID, call_id: str) -> dict[str, Any]:
    with _snapshot(req) as connection:
        return calls.one(connection, req.context.caller.account_id, run_id, call_id)


def export_calls(req: Request, resp: Response, run_id: str) -> None:
    """GET /runs/{run_id}/calls.csv."""
    run = _run_id(run_id)
    resp.stream = calls.csv(req.context.node.engine, req.context.caller.account_id, run)
    resp.content_type = "text/csv; charset=utf-8"
    resp.set_header("Content-Disposition", f'attachment; filename="run-{run}-calls.csv"')


def list_rejections(req: Request, resp: Response, run_id: str) -> None:
    """GET /runs/{run_id}/rejections, in body order."""
    with req.context.node.engine.connect() as connection:
        found = calls.rejections(
            connection,
            req.context.caller.account_id,
            _run_id(run_id),
            _param(req, "limit"),
            _param(req, "cursor"),
        )
    send(resp, found)


def cancel_call(req: Request, resp: Response, run_id: str, call_id: str) -> None:
    """POST /runs/{run_id}/calls/{call_id}/cancel."""
    body = schemas.parse(schemas.CancelRequest, read_json(req))
    caller, run, call = req.context.caller, _run_id(run_id), calls.parse_id(call_id)
    cancelling.cancel(req.context.node, caller.account_id, run, call, caller, hang_up=body.hang_up)
    answer_when_quiet(req, resp, partial(_read_call, req, run, call_id), call_id=call)


def resolve_call(req: Request, resp: Response, run_id: str, call_id: str) -> None:
    """POST /runs/{run_id}/calls/{call_id}/resolve."""
    body = schemas.parse(schemas.ResolveRequest, read_json(req))
    caller, run = req.context.caller, _run_id(run_id)
    unknowns.resolve(
        req.context.node,
        caller.account_id,
        run,
        calls.parse_id(call_id),
        Decision(body.decision),
        outcome=Outcome(body.outcome) if body.outcome else None,
        note=body.note,
        force=body.force,
        who=caller,
    )
    send(resp, _read_call(req, run, call_id))


def resolve_run(req: Request, resp: Response, run_id: str) -> None:
    """POST /runs/{run_id}/resolve: all its unknowns older than 15 minutes."""
    body = schemas.parse(schemas.ResolveRequest, read_json(req))
    caller = req.context.caller
    resolved = unknowns.resolve_all(
        req.context.node,
        caller.account_id,
        _run_id(run_id),
        Decision(body.decision),
        outcome=Outcome(body.outcome) if body.outcome else None,
        note=body.note,
        force=body.force,
        who=caller,
    )
    send(resp, {"resolved": resolved})


def reconcile(req: Request, resp: Response) -> None:
    """POST /runs/reconcile."""
    schemas.parse(schemas.EmptyRequest, read_json(req))
    send(resp, on_demand.reconcile(req.context.node, req.context.caller.account_id))


_RUNS, _RUN = f"{PREFIX}/runs", f"{PREFIX}/runs/{{run_id}}"

ROUTES = [
    Route("POST", _RUNS, Role.OPERATOR, create_run),
    Route("GET", _RUNS, Role.VIEWER, list_runs),
    Route("POST", f"{_RUNS}/reconcile", Role.OPERATOR, reconcile),
    Route("GET", _RUN, Role.VIEWER, show_run, _run_and_asker),
    Route("POST", f"{_RUN}/pause", Role.OPERATOR, pause_run),
    Route("POST", f"{_RUN}/resume", Role.OPERATOR, resume_run),
    Route("POST", f"{_RUN}/cancel", Role.OPERATOR, cancel_run),
    Route("POST", f"{_RUN}/resolve", Role.OPERATOR, resolve_run),
    Route("GET", f"{_RUN}/rejections", Role.VIEWER, list_rejections),
    Route("GET", f"{_RUN}/calls.csv", Role.VIEWER, export_calls),
    Route("GET", f"{_RUN}/calls", Role.VIEWER, list_calls),
    Route("GET", f"{_RUN}/calls/{{call_id}}", Role.VIEWER, show_call),
    Route("POST", f"{_RUN}/calls/{{call_id}}/cancel", Role.OPERATOR, cancel_call),
    Route("POST", f"{_RUN}/calls/{{call_id}}/resolve", Role.OPERATOR, resolve_call),
]
