"""The account and its keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import falcon

from outbound import accounts, doorbell, idempotency, pages, schemas, urls
from outbound.accounts import Role
from outbound.api.answers import json_bytes, send, send_stored
from outbound.api.media import read_json
from outbound.api.routing import PREFIX, Route
from outbound.errors import Fault, invalid, not_found
from outbound.idempotency import Stored
from outbound.node import Node


def show_account(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /account."""
    node: Node = req.context.node
    with node.engine.connect() as connection:
        send(resp, accounts.get(connection, req.context.caller.account_id))


def change_account(req: falcon.Request, resp: falcon.Response) -> None:
    """PATCH /account: only what is named changes."""
    node, caller = req.context.node, req.context.caller
    body = schemas.parse(schemas.AccountPatch, read_json(req))
    changes = body.model_dump(exclude_unset=True)
    _check_url(node, changes.get("default_answer_url"))
    with node.engine.begin() as connection:
        raised = accounts.change(connection, caller.account_id, changes)
        send(resp, accounts.get(connection, caller.account_id))
    if raised:
        node.doorbell.ring(caller.account_id, doorbell.DIAL, 4)


def _check_url(node: Node, url: str | None) -> None:
    if url and (code := urls.check(url, allow_private=node.settings.private_answer_urls)):
        detail = "default_answer_url must be http(s) on a public host."
        raise invalid([Fault("#/default_answer_url", code, detail)])


def list_keys(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /keys, newest first."""
    limit = pages.parse_limit(req.get_param("limit"))
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
    caller = req.context.caller
    data = read_json(req)
    key = idempotency.check_key(req.get_header("Idempotency-Key"))
    body = schemas.parse(schemas.KeyRequest, data)
    made: dict[str, Any] = {}

    def make() -> Stored:
        key_id, secret = accounts.create_key(connection, caller.account_id, body.role, body.name)
        made.update(key_id=str(key_id), key=secret, role=body.role, name=body.name)
        return Stored(201, {}, json_bytes(made | {"key": None}))

    with req.context.node.engine.begin() as connection:
        stored = idempotency.once(connection, caller.account_id, key, req.context.body_hash, make)
    send_stored(resp, replace(stored, body=json_bytes(made)) if made else stored)


def revoke_key(req: falcon.Request, resp: falcon.Response, key_id: str) -> None:
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
