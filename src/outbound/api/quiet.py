"""The wait of pause, cancel, stop and suppress: until nothing of it is on its way any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import falcon

from outbound import db, runs
from outbound.api.answers import send

SETTLE_SECONDS = 2.0
POLL_SECONDS = 0.05


def answer_when_quiet(
    req: falcon.Request,
    resp: falcon.Response,
    read: Callable[[], Any],
    run_id: UUID | None = None,
    call_id: int | None = None,
    phones: Sequence[str] | None = None,
) -> None:
    """Answer 200 once no such request is on its way; 202 and Retry-After if that takes too long.

    Args:
        req: who asks; without a run, a call or phones it is about the whole account.
        resp: what is answered.
        read: makes the body, after the wait.
        run_id: only requests of this run.
        call_id: only requests of this call.
        phones: only requests to one of these phones.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while _is_sending(req, {"run_id": run_id, "call_id": call_id, "phones": phones}):
        if time.monotonic() > deadline:
            resp.status = 202
            resp.set_header("Retry-After", "1")
            break
        time.sleep(POLL_SECONDS)
    send(resp, read())


def _is_sending(req: falcon.Request, about: dict[str, Any]) -> bool:
    # No connection is held between two looks.
    with db.reading(req.context.node.engine) as connection:
        return runs.is_sending(connection, req.context.caller.account_id, **about)
