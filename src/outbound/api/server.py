"""The web process: gunicorn, configured in code, each worker with its own node."""

from __future__ import annotations

from typing import Any

import gunicorn.app.base
from gunicorn import glogging

from outbound import logs, node
from outbound.api.app import create_app
from outbound.carriers import base
from outbound.config import Settings

log = logs.get(__name__)

GRACEFUL_SECONDS = 20
HUNG_SECONDS = 60


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
        "bind": f"0.0.0.0:{settings.port}",
        "workers": settings.web_workers,
        "worker_class": "gthread",
        "threads": settings.web_threads,
        "timeout": HUNG_SECONDS,
        "graceful_timeout": GRACEFUL_SECONDS,
        "keepalive": 5,
        "logger_class": JsonLogger,
        "accesslog": None,
        # Nobody's X-Forwarded-* decides anything here, not even a local client's.
        "forwarded_allow_ips": "",
        # Its default path is one for all servers of a user.
        "control_socket_disable": True,
        "proc_name": "outbound-web",
    }


def build_app(settings: Settings) -> Any:
    """Build the WSGI application of this process, with connections of its own."""
    logs.set_up(settings, "api")
    here = node.build(settings, "api")
    carrier = base.load(settings)
    app = create_app(here, carrier)
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
