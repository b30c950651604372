"""The WSGI application: one table of routes, and what surrounds it."""

from __future__ import annotations

from typing import Any

import falcon

from outbound.api import (
    account_routes,
    console,
    docs_page,
    health,
    metrics_routes,
    openapi,
    problems,
    run_routes,
    static_files,
    system_routes,
    webhooks,
)
from outbound.api.middleware import Around
from outbound.api.routing import Route, add_routes
from outbound.carriers.base import Carrier
from outbound.node import Node

ROUTES: list[Route] = [
    *run_routes.ROUTES,
    *account_routes.ROUTES,
    *system_routes.ROUTES,
    *webhooks.ROUTES,
    *health.ROUTES,
]
ROUTES.append(openapi.route(ROUTES))
UNDESCRIBED: list[Route] = [
    *console.ROUTES,
    *docs_page.ROUTES,
    *static_files.ROUTES,
    *metrics_routes.ROUTES,
]
"""Not the API's: pages for a browser, and numbers for a scraper on a port of its own."""


def create_app(node: Node, carrier: Carrier) -> falcon.App[Any, Any]:
    """Build the application of one web worker process."""
    app: falcon.App[Any, Any] = falcon.App(middleware=[Around(node, carrier)])
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_form_urlencoded = False
    problems.install(app)
    add_routes(app, [*ROUTES, *UNDESCRIBED])
    return app
