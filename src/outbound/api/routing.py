"""One table of routes: who may ask what. Tests enumerate it, so no route can be forgotten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import falcon

from outbound.accounts import Role
from outbound.api import auth

PREFIX = "/api/outbound"


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        role: the least that a key needs; None for a route that takes no key.
        handler: called as `handler(req, resp, **path parameters)`; finds the Node in
            `req.context.node` and the Caller in `req.context.caller`.
        look_up: for a route with a role that is asked all the time: finds out who asks and reads
            what the handler shows in one round trip, and leaves it in `req.context.asked`.
    """

    method: str
    path: str
    role: Role | None
    handler: Callable[..., None]
    look_up: auth.LookUp = auth.who_asks


def add_routes(app: falcon.App[Any, Any], routes: Iterable[Route]) -> None:
    """Add the routes, each path as one resource."""
    by_path: dict[str, list[Route]] = defaultdict(list)
    for route in routes:
        by_path[route.path].append(route)
    for path, group in by_path.items():
        app.add_route(path, _resource(group))


def _resource(group: list[Route]) -> object:
    methods = {f"on_{route.method.lower()}": _responder(route) for route in group}
    if "on_get" in methods:
        methods["on_head"] = methods["on_get"]
    return type("Resource", (), methods)()


def _responder(route: Route) -> Callable[..., None]:
    def respond(_: object, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        if route.role is not None:
            auth.identify(req, route.role, route.look_up, params)
        route.handler(req, resp, **params)

    return respond
