"""Who asks: `Authorization: Bearer ob_…`, looked up at every request: a revoke is at once."""

from __future__ import annotations

import falcon
import structlog

from outbound import accounts
from outbound.accounts import Role
from outbound.errors import Refused


def identify(req: falcon.Request, role: Role) -> None:
    """Put the Caller into `req.context.caller`.

    Raises:
        Refused: 401 without a good key, 403 with one whose role is too small.
    """
    scheme, _, secret = (req.get_header("Authorization") or "").partition(" ")
    caller = None
    if scheme.lower() == "bearer" and secret:
        with req.context.node.engine.connect() as connection:
            caller = accounts.authenticate(connection, secret.strip(), req.context.request_id)
    if caller is None:
        raise Refused("unauthorized", "Send a valid API key: Authorization: Bearer ob_…", 401)
    req.context.caller = caller
    structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
    if Role[caller.role.upper()] < role:
        raise Refused("forbidden", f"This needs a key with the role {role.word}.", 403)
