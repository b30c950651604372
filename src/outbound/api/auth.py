"""Who asks: an API key, or a session of the console; looked up each time: a revoke is at once."""

from __future__ import annotations

from urllib.parse import urlsplit

import falcon
import structlog

from outbound import accounts, db, sessions
from outbound.accounts import Caller, Role
from outbound.errors import Refused

COOKIE = "outbound_session"
SECURE_COOKIE = f"__Host-{COOKIE}"
"""What the cookie is called over https: browsers then hold us to Secure, one host, every path."""
SIGNED_IN_AS = "X-Outbound-Key"
"""In this header the console's page names the key as whose it shows itself."""
_NO_KEY = "Send a valid API key: Authorization: Bearer ob_…"
_OVER = "Your session is over, or its key was revoked."
_READS = ("GET", "HEAD", "OPTIONS")


def identify(req: falcon.Request, role: Role) -> None:
    """Put the Caller into `req.context.caller`.

    Raises:
        Refused: 401 without a good key or session, or from a page that shows another key's name;
            403 with one whose role is too small, or for a write that another site's page sent
            with our user's cookie.
    """
    caller = _caller(req)
    if caller is None:
        over = req.get_header(SIGNED_IN_AS) is not None
        raise Refused("unauthorized", _OVER if over else _NO_KEY, 401)
    req.context.caller = caller
    structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
    if Role[caller.role.upper()] < role:
        raise Refused("forbidden", f"This needs a key with the role {role.word}.", 403)


def _caller(req: falcon.Request) -> Caller | None:
    given = req.get_header("Authorization")
    token = session_token(req) if given is None else None
    if token is not None:
        return _by_session(req, token)
    scheme, _, secret = (given or "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        return None
    with db.reading(req.context.node.engine) as connection:
        return accounts.authenticate(connection, secret.strip(), req.context.request_id)


def _by_session(req: falcon.Request, token: str) -> Caller | None:
    if req.method not in _READS:
        refuse_other_sites(req)
    with db.reading(req.context.node.engine) as connection:
        caller = sessions.authenticate(connection, token, req.context.request_id)
    # The cookie is of all tabs. A page that shows another account's name must not show, or stop,
    # what the key does that signed in after it.
    if caller and req.get_header(SIGNED_IN_AS) not in (None, str(caller.key_id)):
        detail = "Another key has signed in, in another tab of this browser."
        raise Refused("unauthorized", detail, 401)
    return caller


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
