"""The web process: gunicorn, configured in code, each worker with its own node."""

from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import gunicorn.app.base
import structlog
from gunicorn import glogging
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from outbound import logs, metrics, node
from outbound.api import problems
from outbound.api.app import create_app
from outbound.carriers import base
from outbound.config import Settings

log = logs.get(__name__)

GRACEFUL_SECONDS = 20
HUNG_SECONDS = 60
# Longer than a proxy keeps its connections to us (nginx and most others: 60 s): with 5 s, a request
# that was sent while the connection was being closed was reset, and a POST is not sent again.
KEEPALIVE_SECONDS = 75


class JsonLogger(glogging.Logger):  # type: ignore[misc]
    """Gunicorn's records through our pipeline; the access line is our own (http_request)."""

    def setup(self, cfg: Any) -> None:
        """Leave the loggers as logs.set_up() made them."""
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.handlers[:] = []

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing."""

    def reopen_files(self) -> None:
        """Have no files."""

    def close_on_exec(self) -> None:
        """Have no files."""


_STATUS_OF: dict[type[Exception], int] = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.ExpectationFailed: 417,
}
_OURS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
# Seen when what is left of a refused body is drained: the answer has gone out already.
_TOO_LATE = (errors.InvalidChunkSize, errors.ChunkMissingTerminator, errors.InvalidChunkExtension)


class Worker(ThreadWorker):  # type: ignore[misc]
    """Gunicorn's, but for what is no readable request: gunicorn's answer is HTML and echoes it."""

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer a request that never reached the application with a problem."""
        del req, addr
        structlog.contextvars.clear_contextvars()  # they are of this thread's last request
        if isinstance(exc, _TOO_LATE):
            return
        status, request_id = status_of(exc), uuid4().hex
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request_failed", request_id=request_id, exc_info=exc)
        else:
            reason = type(exc).__name__
            log.warning("request_unreadable", request_id=request_id, status=status, reason=reason)
        with contextlib.suppress(OSError):
            client.sendall(_refusal(status, request_id))


def status_of(exc: Exception) -> int:
    """Say whose fault it is: 500 is ours, never what a client sent."""
    if isinstance(exc, _OURS) or not isinstance(exc, errors.ParseException):
        return 500
    return _STATUS_OF.get(type(exc), 400)


def _refusal(status: int, request_id: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = problems.write(status, problems.code_of(status), f"{phrase}.", None, request_id)
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nX-Request-Id: {request_id}\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Server(gunicorn.app.base.BaseApplication):  # type: ignore[misc]
    """Gunicorn with our settings, whatever its own files and environment say."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set every option that matters; see deploy/gunicorn.conf.py for running it otherwise."""
        for name, value in options(self._settings).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Build the application, in the worker and after its fork."""
        return build_app(self._settings)


def options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's options for these settings."""
    return {
        # Two sockets of one application: /metrics answers on its own alone.
        "bind": [f"0.0.0.0:{port}" for port in _ports(settings)],
        "workers": settings.web_workers,
        "worker_class": Worker,
        "threads": settings.web_threads,
        "timeout": HUNG_SECONDS,
        "graceful_timeout": GRACEFUL_SECONDS,
        "keepalive": KEEPALIVE_SECONDS,
        "logger_class": JsonLogger,
        "accesslog": None,
        # Nobody's X-Forwarded-* decides anything here, not even a local client's.
        "forwarded_allow_ips": "",
        # Its default path is one for all servers of a user.
        "control_socket_disable": True,
        "proc_name": "outbound-web",
        "when_ready": lambda _: log.info("web_ready", port=settings.port),
    }


def _ports(settings: Settings) -> list[int]:
    return [port for port in (settings.port, settings.metrics_port) if port]


def build_app(settings: Settings) -> Any:
    """Build the WSGI application of this process, with connections of its own."""
    logs.set_up(settings, "api")
    here = node.build(settings, "api")
    carrier = base.load(settings)
    app = create_app(here, carrier)
    metrics.start(here.engine)
    log.info("WORKER_START", carrier=carrier.name, threads=settings.web_threads)
    return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished.

    Raises:
        ConfigError: a setting is missing, or the carrier cannot be loaded.
    """
    logs.set_up(settings, "api")
    base.load(settings)  # a wrong setting ends the process here, with one line, not in each worker
    log.info("web_starting", port=settings.port, workers=settings.web_workers)
    Server(settings).run()
