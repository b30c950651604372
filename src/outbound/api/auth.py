"""Who asks: an API key, or a session of the console; looked up each time: a revoke is at once."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import falcon
import structlog
from sqlalchemy import Connection, RowMapping

from outbound import accounts, db, sessions
from outbound.accounts import Caller, Role
from outbound.errors import Refused
from outbound.prepared import prepared

COOKIE = "outbound_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""What the cookie is called over https: browsers then hold us to Secure, one host, every path."""
SIGNED_IN_AS = "X-Outbound-Key"
"""In this header the console's page names the key as whose it shows itself."""
_NO_KEY = "Send a valid API key: Authorization: Bearer ob_…"
_OVER = "Your session is over, or its key was revoked."
_READS = ("GET", "HEAD", "OPTIONS")

LookUp = Callable[..., RowMapping | None]
"""Finds who asks, given a connection, accounts.WHO or sessions.WHO, the digest by which that
finds them, and the path's parameters; None for nobody."""
_ALONE = {who: prepared(who) for who in (accounts.WHO, sessions.WHO)}


def who_asks(connection: Connection, who: str, digest: bytes, **_: str) -> RowMapping | None:
    """Find who asks, and no more."""
    return connection.execute(_ALONE[who], {"hash": digest}).mappings().first()


def identify(req: falcon.Request, role: Role, look_up: LookUp, params: dict[str, str]) -> None:
    """Put the Caller into `req.context.caller`, and what was read for them into `asked`.

    Raises:
        Refused: 401 without a good key or session, or from a page that shows another key's name;
            403 with one whose role is too small, or for a write that another site's page sent
            with our user's cookie.
    """
    row = req.context.asked = _look_up(req, look_up, params)
    if row is None:
        over = req.get_header(SIGNED_IN_AS) is not None
        raise Refused("unauthorized", _OVER if over else _NO_KEY, 401)
    caller = Caller(row["key_account"], row["key_id"], row["role"], req.context.request_id)
    req.context.caller = caller
    structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
    if Role[caller.role.upper()] < role:
        raise Refused("forbidden", f"This needs a key with the role {role.word}.", 403)


def _look_up(req: falcon.Request, look_up: LookUp, params: dict[str, str]) -> RowMapping | None:
    given = req.get_header("Authorization")
    token = session_token(req) if given is None else None
    if token is None:
        scheme, _, secret = (given or "").partition(" ")
        digest = accounts.digest(secret.strip()) if scheme.lower() == "bearer" else None
    else:
        if req.method not in _READS:
            refuse_other_sites(req)
        digest = sessions.digest(token)
    if digest is None:
        return None
    with db.reading(req.context.node.engine) as connection:
        who = accounts.WHO if token is None else sessions.WHO
        row = look_up(connection, who, digest, **params)
    # The cookie is of all tabs. A page that shows another account's name must not show, or stop,
    # what the key does that signed in after it.
    if row and token and req.get_header(SIGNED_IN_AS) not in (None, str(row["key_id"])):
        detail = "Another key has signed in, in another tab of this browser."
        raise Refused("unauthorized", detail, 401)
    return row


def session_token(req: falcon.Request) -> str | None:
    """Read the session's token, None without a cookie of ours."""
    for name in (SECURE_COOKIE, COOKIE):
        if found := req.get_cookie_values(name):
            return found[0]
    return None


def refuse_other_sites(req: falcon.Request) -> None:
    """Refuse what is not sent by a page of ours.

    SameSite=Strict alone does not do: another program on the same site, such as one on another
    port, is "same site" to it.

    Raises:
        Refused: 403.
    """
    fetch_site = req.get_header("Sec-Fetch-Site")
    if fetch_site is not None:
        if fetch_site == "same-origin":
            return
    # Browsers leave Sec-Fetch-* out on plain http, and then say the Origin of every write.
    elif _is_ours(req, req.get_header("Origin")):
        return
    raise Refused("forbidden", "This request does not come from a page of this console.", 403)


def _is_ours(req: falcon.Request, origin: str | None) -> bool:
    if not origin:
        return False
    public = urlsplit(req.context.node.settings.public_base_url or "")
    # A proxy that ends TLS leaves us http: the host must be the same, the scheme may differ.
    return origin == f"{public.scheme}://{public.netloc}" or urlsplit(origin).netloc == req.netloc
