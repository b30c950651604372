"""How the whole of it is: leader, processes, breaker, repairs."""

from __future__ import annotations

import falcon

from outbound import system
from outbound.accounts import Role
from outbound.api.answers import send
from outbound.api.routing import PREFIX, Route
from outbound.node import Node


def show_system(req: falcon.Request, resp: falcon.Response) -> None:
    """GET /system."""
    node: Node = req.context.node
    with node.engine.connect() as connection:
        body = system.read(connection, req.context.caller.account_id)
    resp.set_header("Cache-Control", "no-cache")
    send(resp, {"redis": "ok" if node.doorbell.is_reachable() else "degraded", **body})


ROUTES = [Route("GET", f"{PREFIX}/system", Role.VIEWER, show_system)]
