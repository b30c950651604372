"""The console: one page, its files, and the session that the browser has instead of a key.

The files are plain modules and one style sheet, served from the package by an allow-list, with a
hash of them all in their path: they may be kept for ever, and a new release is seen at once.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import urlsplit

import falcon
import structlog
from pydantic import Field

from outbound import accounts, logs, schemas, sessions
from outbound.accounts import Caller
from outbound.api import auth
from outbound.api.answers import send
from outbound.api.media import read_json
from outbound.api.routing import Route
from outbound.errors import Refused, not_found
from outbound.node import Node

log = logs.get(__name__)

PAGE = "index.html"
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
LOCAL = ("localhost", "127.0.0.1", "::1")

_DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "worker-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    # The browser itself refuses a string of ours, or of a lead's, as markup or script.
    "require-trusted-types-for 'script'",
    "trusted-types outbound-worker",
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(_DIRECTIVES),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SignIn(schemas.Strict):
    """The body of POST session."""

    key: Annotated[str, Field(min_length=1, max_length=200)]


@cache
def _assets() -> dict[str, bytes]:
    folder = files("outbound.api") / "static"
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


@cache
def _version() -> str:
    whole = hashlib.sha256()
    for name, content in sorted(_assets().items()):
        whole.update(f"{name}\n{len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


def show_page(_: falcon.Request, resp: falcon.Response) -> None:
    """GET /: the one page; what it shows is behind the #."""
    resp.data = _assets()[PAGE].replace(b"{{version}}", _version().encode())
    resp.content_type = "text/html; charset=utf-8"
    resp.set_headers(_HEADERS | {"Cache-Control": "no-store"})


def show_asset(_: falcon.Request, resp: falcon.Response, version: str, name: str) -> None:
    """GET /static/{version}/{name}."""
    suffix = name[name.rfind(".") :]
    content = _assets().get(name)
    if content is None or suffix not in TYPES:
        raise not_found("file")
    resp.data = content
    resp.content_type = f"{TYPES[suffix]}; charset=utf-8"
    # While a release goes out, a page of one version may ask a process of the other.
    is_it = version == _version()
    keep = "public, max-age=31536000, immutable" if is_it else "no-store"
    resp.set_headers(_HEADERS | {"Cache-Control": keep})


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
    return {name: row[name] for name in plain}


def _answer(resp: falcon.Response, body: dict[str, Any]) -> None:
    resp.set_header("Cache-Control", "no-store")
    send(resp, body)


def _tell(caller: Caller, event: str) -> None:
    structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
    log.info(event, key_id=str(caller.key_id), role=caller.role)


# Not among the API's routes: what is here is the page's own, and may change with it.
ROUTES = [
    Route("GET", "/", None, show_page),
    Route("GET", "/static/{version}/{name}", None, show_asset),
    Route("POST", "/session", None, sign_in),
    Route("GET", "/session", None, show_session),
    Route("DELETE", "/session", None, sign_out),
]
