"""The account and its keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import falcon

from outbound import accounts, doorbell, idempotency, pages
from outbound.accounts import Caller, Role
from outbound.api import schemas
from outbound.api.answers import json_bytes
from outbound.api.media import read_json
from outbound.api.routing import PREFIX, Route
from outbound.errors import not_found
from outbound.node import Node


def show_account(req: falcon.Request[Any], resp: falcon.Response[Any]) -> None:
    """GET /account."""
    node: Node = req.context.node
    with node.engine.connect() as connection:
        resp.data = json_bytes(accounts.get(connection, req.context.caller.account_id))
    resp.content_type = falcon.MEDIA_JSON


def change_account(req: falcon.Request[Any], resp: falcon.Response[Any]) -> None:
    """PATCH /account: only what is named changes."""
    node, caller = req.context.node, req.context.caller
    body = schemas.parse(schemas.AccountPatch, read_json(req))
    with node.engine.begin() as connection:
        changes = body.model_dump(exclude_unset=True)
        raised = accounts.change(connection, caller.account_id, changes)
        resp.data = json_bytes(accounts.get(connection, caller.account_id))
    if raised:
        node.doorbell.ring(caller.account_id, doorbell.DIAL, 4)
    resp.content_type = falcon.MEDIA_JSON


def list_keys(req: falcon.Request[Any], resp: falcon.Response[Any]) -> None:
    """GET /keys, newest first."""
    limit, before = pages.parse_limit(req.get_param("limit")), None
    if cursor := req.get_param("cursor"):
        before = pages.decode_uuid(cursor)
    with req.context.node.engine.connect() as connection:
        found = accounts.list_keys(connection, req.context.caller.account_id, limit + 1, before)
    more = len(found) > limit
    items = found[:limit]
    cursor = pages.encode(str(items[-1]["key_id"])) if more else None
    resp.data = json_bytes({"items": items, "next_cursor": cursor})
    resp.content_type = falcon.MEDIA_JSON


def create_key(req: falcon.Request[Any], resp: falcon.Response[Any]) -> None:
    """POST /keys: the secret is in this answer, and nowhere else ever again."""
    node, caller = req.context.node, req.context.caller
    data = read_json(req)
    key = idempotency.check_key(req.get_header("Idempotency-Key"))
    body = schemas.parse(schemas.KeyRequest, data)
    with node.engine.begin() as connection:
        stored = idempotency.once(
            connection,
            caller.account_id,
            key,
            req.context.body_hash,
            lambda: _new_key(connection, caller, body.role, body.name),
        )
    idempotency_answer(resp, stored)


def _new_key(
    connection: Any, caller: Caller, role: str, name: str | None
) -> idempotency.Stored:
    key_id, secret = accounts.create_key(connection, caller.account_id, role, name)
    body = {"key_id": str(key_id), "key": secret, "role": role, "name": name}
    return idempotency.Stored(201, {}, json_bytes(body))


def idempotency_answer(resp: falcon.Response[Any], stored: idempotency.Stored) -> None:
    """Send an answer that may have been sent before."""
    resp.status = stored.status
    resp.data = stored.body
    resp.content_type = falcon.MEDIA_JSON
    for name, value in stored.headers.items():
        resp.set_header(name, value)
    if stored.replayed:
        resp.set_header("Idempotent-Replayed", "true")


def revoke_key(req: falcon.Request[Any], resp: falcon.Response[Any], key_id: str) -> None:
    """DELETE /keys/{key_id}: useless at once; twice is no error."""
    try:
        key = UUID(key_id)
    except ValueError:
        raise not_found("key") from None
    with req.context.node.engine.begin() as connection:
        if not accounts.revoke_key(connection, req.context.caller.account_id, key):
            raise not_found("key")
    resp.status = 204


ROUTES = [
    Route("GET", f"{PREFIX}/account", Role.VIEWER, show_account),
    Route("PATCH", f"{PREFIX}/account", Role.ADMIN, change_account),
    Route("GET", f"{PREFIX}/keys", Role.ADMIN, list_keys),
    Route("POST", f"{PREFIX}/keys", Role.ADMIN, create_key),
    Route("DELETE", f"{PREFIX}/keys/{{key_id}}", Role.ADMIN, revoke_key),
]
