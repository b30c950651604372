"""What happens around every request: its id, its context, its one canonical log line."""

from __future__ import annotations

import re
import time
from uuid import uuid4

import falcon
import structlog

from outbound import logs, metrics, recording
from outbound.carriers.base import Carrier
from outbound.node import Node

log = logs.get(__name__)

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def _is_sane(request_id: str) -> bool:
    # It goes into every line of the log as it is, so it must be no phone and no key.
    return bool(_SANE_ID.fullmatch(request_id)) and logs.mask(request_id) == request_id


class Around:
    """Gives each request the node, an id, and a line in the log."""

    def __init__(self, node: Node, carrier: Carrier) -> None:
        self._node = node
        self._carrier = carrier
        self._together = recording.Together(node)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name the request, and forget whatever this thread knew of the last one."""
        given = req.get_header("X-Request-Id") or ""
        request_id = given if _is_sane(given) else uuid4().hex
        req.context.request_id = request_id
        req.context.node = self._node
        req.context.carrier = self._carrier
        req.context.together = self._together
        req.context.started = time.monotonic()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        if req.path.startswith("/webhooks/"):
            structlog.contextvars.bind_contextvars(consumer_source="webhook")
        resp.set_header("X-Request-Id", request_id)

    def process_response(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        """Write the canonical line; health checks and scrapes at debug: they come every second."""
        del resource, req_succeeded
        seconds = time.monotonic() - req.context.started
        metrics.http_answered(req.path, resp.status_code, seconds)
        write = log.debug if req.path.startswith(("/health/", "/metrics")) else log.info
        write(
            "http_request",
            method=req.method,
            route=req.uri_template,
            status=resp.status_code,
            duration_ms=round(seconds * 1000, 1),
        )
