"""GET /api/docs: the API's description for people, drawn by Swagger UI in the browser.

It takes no key, as the description takes none. Requests can be tried from it, with a key that is
typed in and kept by the page alone: never with the console's session, since a page that one came
to read should not dial with a session that one forgot.
"""

from __future__ import annotations

import falcon

from outbound.api import static_files
from outbound.api.routing import Route

_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",  # its icons are within its style sheet
    "connect-src 'self'",
    "form-action 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    # No trusted types: Swagger UI writes markup, of the description alone and cleaned, as strings.
)


def show_docs(_: falcon.Request, resp: falcon.Response) -> None:
    """GET /api/docs."""
    static_files.send_page(resp, "docs.html", _POLICY)


ROUTES = [Route("GET", "/api/docs", None, show_docs)]
