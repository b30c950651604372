"""The account: limits, stop and start, keys, suppressions, and what its operators did."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import falcon

from outbound import (
    accounts,
    actions,
    doorbell,
    idempotency,
    pages,
    schemas,
    stopping,
    suppressions,
    urls,
)
from outbound.accounts import Role
from outbound.api.answers import json_bytes, send, send_stored
from outbound.api.media import read_json
from outbound.api.quiet import answer_when_quiet
from outbound.api.routing import PREFIX, Route
from outbound.errors import Fault, invalid, not_found
from outbound.idempotency import Stored
from outbound.node import Node


def show_account(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /account."""
    send(resp, _read_account(req))


def _read_account(req: falcon.Request) -> dict[str, Any]:
    node: Node = req.context.node
    with node.engine.connect() as connection:
        return accounts.get(connection, req.context.caller.account_id)


def change_account(req: falcon.Request, resp: falcon.Response) -> None:
    """PATCH /account: only what is named changes."""
    node, caller = req.context.node, req.context.caller
    body = schemas.parse(schemas.AccountPatch, read_json(req))
    changes = body.model_dump(exclude_unset=True)
    _check_url(node, changes.get("default_answer_url"))
    with node.engine.begin() as connection:
        raised = accounts.change(connection, caller.account_id, changes)
        hand, details = actions.by(node, caller), {"changed": changes}
        actions.record(connection, hand, caller.account_id, "account_changed", details=details)
        send(resp, accounts.get(connection, caller.account_id))
    if raised:
        node.doorbell.ring(caller.account_id, doorbell.DIAL, 4)


def _check_url(node: Node, url: str | None) -> None:
    if url and (code := urls.check(url, allow_private=node.settings.private_answer_urls)):
        detail = "default_answer_url must be http(s) on a public host."
        raise invalid([Fault("#/default_answer_url", code, detail)])


def stop_account(req: falcon.Request, resp: falcon.Response) -> None:
    """POST /account/stop."""
    body = schemas.parse(schemas.CancelRequest, read_json(req))
    caller = req.context.caller
    stopping.stop(req.context.node, caller.account_id, caller, hang_up=body.hang_up)
    answer_when_quiet(req, resp, partial(_read_account, req))


def start_account(req: falcon.Request, resp: falcon.Response) -> None:
    """POST /account/start."""
    schemas.parse(schemas.EmptyRequest, read_json(req))
    caller = req.context.caller
    stopping.start(req.context.node, caller.account_id, caller)
    send(resp, _read_account(req))


def list_keys(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /keys, newest first."""
    limit = pages.parse_limit(req.get_param("limit") or None)  # a form sends an empty one
    before = pages.decode_uuid(req.get_param("cursor"))
    with req.context.node.engine.connect() as connection:
        found = accounts.list_keys(connection, req.context.caller.account_id, limit + 1, before)
    more = len(found) > limit
    items = found[:limit]
    cursor = pages.encode(items[-1]["key_id"]) if more else None
    send(resp, {"items": items, "next_cursor": cursor})


def create_key(req: falcon.Request, resp: falcon.Response) -> None:
    """POST /keys: the secret is in this answer, and nowhere else ever again.

    A replay of it therefore has `"key": null`: to answer the secret twice we would have to
    store it.
    """
    node, caller = req.context.node, req.context.caller
    data = read_json(req)
    key = idempotency.check_key(req.get_header("Idempotency-Key"))
    body = schemas.parse(schemas.KeyRequest, data)
    made: dict[str, Any] = {}
    # Not the body's alone: an operator's POST /runs with this key and body would be answered
    # with what an admin made here.
    fingerprint = hashlib.sha256(b"POST /keys\n" + req.context.body_hash).digest()

    def make() -> Stored:
        key_id, secret = accounts.create_key(connection, caller.account_id, body.role, body.name)
        hand, details = actions.by(node, caller), {"key_id": key_id, "role": body.role}
        actions.record(connection, hand, caller.account_id, "key_created", details=details)
        made.update(key_id=str(key_id), key=secret, role=body.role, name=body.name)
        return Stored(201, {}, json_bytes(made | {"key": None}))

    with node.engine.begin() as connection:
        stored = idempotency.once(connection, caller.account_id, key, fingerprint, make)
    send_stored(resp, replace(stored, body=json_bytes(made)) if made else stored)


def revoke_key(req: falcon.Request, resp: falcon.Response, key_id: str) -> None:
    """DELETE /keys/{key_id}: useless at once; twice is no error."""
    try:
        key = UUID(key_id)
    except ValueError:
        raise not_found("key") from None
    node, caller = req.context.node, req.context.caller
    with node.engine.begin() as connection:
        if not accounts.revoke_key(connection, caller.account_id, key):
            raise not_found("key")
        hand, details = actions.by(node, caller), {"key_id": key}
        actions.record(connection, hand, caller.account_id, "key_revoked", details=details)
    resp.status = 204


def list_suppressions(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /suppressions, newest first."""
    phone, limit, cursor = (req.get_param(name) or None for name in ("phone", "limit", "cursor"))
    with req.context.node.engine.connect() as connection:
        account_id = req.context.caller.account_id
        send(resp, suppressions.page(connection, account_id, phone, limit, cursor))


def add_suppressions(req: falcon.Request, resp: falcon.Response) -> None:
    """POST /suppressions.

    No Idempotency-Key: twice is the same, and a stored answer would not wait for what is on its
    way.
    """
    body = schemas.parse(schemas.SuppressRequest, read_json(req))
    caller = req.context.caller
    added = suppressions.add(req.context.node, caller.account_id, body.phones, body.reason, caller)
    answer_when_quiet(req, resp, partial(_tell_added, req, added), phones=added.phones)


def _tell_added(req: falcon.Request, added: suppressions.Added) -> dict[str, Any]:
    with req.context.node.engine.connect() as connection:
        account_id = req.context.caller.account_id
        in_flight = suppressions.in_flight(connection, account_id, added.phones)
    return {
        "suppressed": len(added.phones),
        "added": added.new,
        "rejected": len(added.rejections),
        "rejections": [{"index": index, "code": code} for index, code in added.rejections],
        "in_flight": in_flight,
    }


def remove_suppression(req: falcon.Request, resp: falcon.Response, suppressed: str) -> None:
    """DELETE /suppressions/{suppressed}: a phone."""
    caller = req.context.caller
    suppressions.remove(req.context.node, caller.account_id, suppressed, caller)
    resp.status = 204


def list_actions(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /actions, newest first."""
    limit, cursor = (req.get_param(name) or None for name in ("limit", "cursor"))
    with req.context.node.engine.connect() as connection:
        send(resp, actions.page(connection, req.context.caller.account_id, limit, cursor))


ROUTES = [
    Route("GET", f"{PREFIX}/account", Role.VIEWER, show_account),
    Route("PATCH", f"{PREFIX}/account", Role.ADMIN, change_account),
    Route("POST", f"{PREFIX}/account/stop", Role.OPERATOR, stop_account),
    Route("POST", f"{PREFIX}/account/start", Role.OPERATOR, start_account),
    Route("GET", f"{PREFIX}/keys", Role.ADMIN, list_keys),
    Route("POST", f"{PREFIX}/keys", Role.ADMIN, create_key),
    Route("DELETE", f"{PREFIX}/keys/{{key_id}}", Role.ADMIN, revoke_key),
    Route("GET", f"{PREFIX}/suppressions", Role.VIEWER, list_suppressions),
    Route("POST", f"{PREFIX}/suppressions", Role.OPERATOR, add_suppressions),
    Route("DELETE", f"{PREFIX}/suppressions/{{suppressed}}", Role.OPERATOR, remove_suppression),
    Route("GET", f"{PREFIX}/actions", Role.VIEWER, list_actions),
]
