"""The carrier's callbacks: verify, load, move, store the event, commit, answer."""

from __future__ import annotations

from uuid import UUID

import falcon

from outbound import logs, recording
from outbound.api.media import read_body
from outbound.api.routing import Route
from outbound.carriers.base import Callback, Carrier, ForgedCallback, UnreadableCallback
from outbound.errors import Refused, not_found
from outbound.node import Node
from outbound.states import Evidence, Kind

log = logs.get(__name__)

MAX_BODY = 64 * 1024


def receive(req: falcon.Request, resp: falcon.Response, carrier_name: str, attempt_id: str) -> None:
    """Take one callback. 204 once it is committed, also for a replay or an older word."""
    carrier: Carrier = req.context.carrier
    if carrier_name != carrier.name:
        raise not_found("carrier")
    callback = _verify(req, carrier)
    try:
        attempt = UUID(attempt_id)
    except ValueError:
        raise not_found("attempt") from None
    if callback is not None:
        _record(req, attempt, callback)
    resp.status = 204


def _verify(req: falcon.Request, carrier: Carrier) -> Callback | None:
    # The signature comes before everything: a 403 never tells whether the attempt exists.
    node: Node = req.context.node
    headers = {name.lower(): value for name, value in req.headers.items()}
    url = f"{node.settings.public_base_url}{_raw_target(req)}"
    try:
        return carrier.read_callback(url=url, headers=headers, body=read_body(req, MAX_BODY))
    except ForgedCallback as error:
        log.warning("webhook_refused", reason=str(error))
        raise Refused("forbidden", "The signature is missing or wrong.", 403) from None
    except UnreadableCallback as error:
        # Signed by the carrier, yet not for us to understand: asking for it again is no use.
        log.warning("webhook_not_understood", reason=str(error))
        return None


def _raw_target(req: falcon.Request) -> str:
    raw = req.env.get("RAW_URI") or req.env.get("REQUEST_URI")
    return str(raw) if raw and str(raw).startswith("/") else req.relative_uri


def _record(req: falcon.Request, attempt: UUID, callback: Callback) -> None:
    evidence = Evidence(
        attempt,
        Kind.WORD,
        "callback",
        carrier_call_id=callback.carrier_call_id,
        progress=callback.progress,
        duration=callback.duration,
        error=callback.error,
        request_id=req.context.request_id,
    )
    together: recording.Together = req.context.together
    settled = together.record(evidence)
    if attempt in settled.missing:
        raise not_found("attempt")
    log.info(
        "callback_received",
        attempt_id=str(attempt),
        carrier_call_id=callback.carrier_call_id,
        progress=str(callback.progress),
        changed=attempt in settled.moved,
    )


ROUTES = [Route("POST", "/webhooks/{carrier_name}/{attempt_id}", None, receive)]
