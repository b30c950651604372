"""The pages' files: our own, and Swagger UI's out of an installed package.

Ours are plain modules and style sheets. All are served by an allow-list, with a hash of them all
in their path: they may be kept for ever, and a new release is seen at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import falcon

from outbound.api.routing import Route
from outbound.errors import not_found

TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

# A plugin of MkDocs, of which nothing runs here: it has the files as Swagger UI publishes them,
# and drags in the least. Other packages bring a web framework, an editor, or no OpenAPI 3.1.
_SWAGGER_UI = "mkdocs_swagger_ui_tag"
_SWAGGER_UI_FILES = ("javascripts/swagger-ui-bundle.js", "stylesheets/swagger-ui.css")

POLICY = (
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


@cache
def ours() -> dict[str, bytes]:
    """Read the files that are written here, by name."""
    folder = files("outbound.api") / "static"
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}


@cache
def served() -> dict[str, bytes]:
    """Read whatever a page may load, by name."""
    folder = files(_SWAGGER_UI) / "swagger-ui"
    theirs = [folder.joinpath(path) for path in _SWAGGER_UI_FILES]
    every = ours() | {one.name: one.read_bytes() for one in theirs}
    return {name: content for name, content in every.items() if _suffix(name) in TYPES}


@cache
def _version() -> str:
    whole = hashlib.sha256()
    for name, content in sorted(served().items()):
        whole.update(f"{name}\n{len(content)}\n".encode() + content)
    return whole.hexdigest()[:16]


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _headers(policy: Iterable[str], keep: str) -> dict[str, str]:
    return {
        "Cache-Control": keep,
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def send_page(resp: falcon.Response, name: str, policy: Iterable[str] = POLICY) -> None:
    """Answer with one of our pages; its files are named with their version."""
    resp.data = ours()[name].replace(b"{{version}}", _version().encode())
    resp.content_type = "text/html; charset=utf-8"
    resp.set_headers(_headers(policy, "no-store"))


def show_asset(_: falcon.Request, resp: falcon.Response, version: str, name: str) -> None:
    """GET /static/{version}/{name}."""
    content = served().get(name)
    if content is None:
        raise not_found("file")
    resp.data = content
    resp.content_type = f"{TYPES[_suffix(name)]}; charset=utf-8"
    # While a release goes out, a page of one version may ask a process of the other.
    is_it = version == _version()
    keep = "public, max-age=31536000, immutable" if is_it else "no-store"
    resp.set_headers(_headers(POLICY, keep))


ROUTES = [Route("GET", "/static/{version}/{name}", None, show_asset)]
