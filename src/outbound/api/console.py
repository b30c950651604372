"""The console: one page, and the session that the browser has instead of a key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

import falcon
import structlog
from pydantic import Field

from outbound import accounts, logs, schemas, sessions
from outbound.accounts import Caller
from outbound.api import auth, static_files
from outbound.api.answers import send
from outbound.api.media import read_json
from outbound.api.routing import Route
from outbound.errors import Refused
from outbound.node import Node

log = logs.get(__name__)

LOCAL = ("localhost", "127.0.0.1", "::1")


class SignIn(schemas.Strict):
    """The body of POST session."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


def show_page(_: falcon.Request, resp: falcon.Response) -> None:
    """GET /: the one page; what it shows is behind the #."""
    static_files.send_page(resp, "index.html")


def sign_in(req: falcon.Request, resp: falcon.Response) -> None:
    """POST /session: an API key for a cookie that scripts cannot read."""
    body = schemas.parse(SignIn, read_json(req))
    auth.refuse_other_sites(req)
    secure = _is_secure(req)
    node: Node = req.context.node
    with node.engine.begin() as connection:
        caller = accounts.authenticate(connection, body.key.strip(), req.context.request_id)
        if caller is None:
            raise Refused("unauthorized", "This API key is not known, or was revoked.", 401)
        token = sessions.start(connection, caller)
        shown = _show(sessions.read(connection, token))
    _tell(caller, "session_started")
    name = auth.SECURE_COOKIE if secure else auth.COOKIE
    _set_cookie(resp, name, token, sessions.LIFETIME, secure=secure)
    _answer(resp, shown)


def _is_secure(req: falcon.Request) -> bool:
    """Tell whether the browser speaks https with us, by what it says itself.

    Raises:
        Refused: on plain http anywhere but on this machine. Anybody on the way could read the
            key and the cookie; and browsers drop such a cookie without a word.
    """
    public = urlsplit(req.context.node.settings.public_base_url or "")
    origin = urlsplit(req.get_header("Origin") or f"{req.scheme}://{req.netloc}")
    if origin.scheme == "https":
        return True
    if origin.hostname in LOCAL:
        return False
    where = public.geturl() if public.scheme == "https" else "an https:// address"
    detail = f"Signing in over plain http would show the key to the network: open {where} instead."
    raise Refused("forbidden", detail, 403)


def show_session(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /session: who is signed in."""
    token = auth.session_token(req)
    with req.context.node.engine.connect() as connection:
        row = sessions.read(connection, token) if token else None
    if row is None:
        raise Refused("unauthorized", "Nobody is signed in, or the session is over.", 401)
    _answer(resp, _show(row))


def sign_out(req: falcon.Request, resp: falcon.Response) -> None:
    """DELETE /session: the session is over on the server too."""
    auth.refuse_other_sites(req)
    token = auth.session_token(req)
    if token:
        with req.context.node.engine.begin() as connection:
            sessions.end(connection, token)
    for name, secure in ((auth.SECURE_COOKIE, True), (auth.COOKIE, False)):
        _set_cookie(resp, name, "", timedelta(days=-1), secure=secure)
    resp.set_header("Cache-Control", "no-store")
    resp.status = 204


def _set_cookie(
    resp: falcon.Response, name: str, value: str, lifetime: timedelta, *, secure: bool
) -> None:
    resp.set_cookie(
        name,
        value,
        expires=datetime.now(UTC) + lifetime,
        path="/",
        http_only=True,
        secure=secure,
        same_site="Strict",
    )


def _show(row: Any) -> dict[str, Any]:
    plain = ("role", "key_name", "hint", "account_name", "expires_at")
    return {"key_id": str(row["key_id"]), **{name: row[name] for name in plain}}


def _answer(resp: falcon.Response, body: dict[str, Any]) -> None:
    resp.set_header("Cache-Control", "no-store")
    send(resp, body)


def _tell(caller: Caller, event: str) -> None:
    structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
    log.info(event, key_id=str(caller.key_id), role=caller.role)


# Not among the API's routes: what is here is the page's own, and may change with it.
ROUTES = [
    Route("GET", "/", None, show_page),
    Route("POST", "/session", None, sign_in),
    Route("GET", "/session", None, show_session),
    Route("DELETE", "/session", None, sign_out),
]
