"""Is it alive, and can it do its work? No key needed, nothing secret told."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from typing import Any

import falcon
from sqlalchemy import text

from outbound import migrations
from outbound.api.routing import Route
from outbound.node import Node

SECONDS = 1.0
_pool = ThreadPoolExecutor(4, thread_name_prefix="health")


def live(_: falcon.Request, resp: falcon.Response) -> None:
    """Answer 200 while the process serves."""
    resp.media = {"status": "ok"}


def ready(req: falcon.Request, resp: falcon.Response) -> None:
    """Answer 200 if runs can be taken; Redis away only degrades that."""
    node: Node = req.context.node
    database, redis_ = _pool.submit(_database, node), _pool.submit(node.doorbell.is_reachable)
    reachable, migrated = _within(database, (False, False))
    answer = {
        "database": "ok" if reachable else "down",
        "redis": "ok" if _within(redis_, default=False) else "degraded",
        "migrations": "ok" if migrated else ("pending" if reachable else "unknown"),
    }
    resp.media = answer
    resp.status = 200 if reachable and migrated else 503


def _database(node: Node) -> tuple[bool, bool]:
    with node.engine.connect() as connection:
        connection.execute(text("SELECT set_config('statement_timeout', '1000', true)"))
        return True, migrations.is_current(connection)


def _within(future: Future[Any], default: Any) -> Any:
    try:
        return future.result(SECONDS)
    except TookTooLong:
        future.cancel()
    except Exception:  # noqa: BLE001 - whatever it is, the answer is "down"
        return default
    return default


ROUTES = [
    Route("GET", "/health/live", None, live),
    Route("GET", "/health/ready", None, ready),
]
