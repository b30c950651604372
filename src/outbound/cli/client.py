"""A client of our own API, for the commands that work on runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
import requests

from outbound import config
from outbound.cli.errors import CommandError

CONNECT_SECONDS, READ_SECONDS = 5, 120


class Client:
    """The API at one address, with one key."""

    def __init__(self, url: str | None, key: str | None) -> None:
        settings = config.read()
        key = key or settings.api_key
        if not key:
            raise CommandError("no API key: set OUTBOUND_API_KEY or give --key")
        base = url or settings.api_url or f"http://127.0.0.1:{settings.port}"
        self._base = f"{base.rstrip('/')}/api/outbound"
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {key}"

    def send(self, method: str, path: str, **known: Any) -> requests.Response:
        """Send one request.

        Raises:
            CommandError: the API refused; the text is the problem's detail and first faults.
        """
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        answer = self._http.request(method, self._base + path, timeout=timeout, **known)
        if answer.status_code >= 400:
            raise CommandError(_problem(answer))
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """GET JSON; parameters that are None are left out."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return self.send("GET", path, params=wanted).json()

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST JSON."""
        return self.send("POST", path, json=body or {}, headers=headers).json()


def _problem(answer: requests.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return f"the API answered {answer.status_code}, and no problem+json"
    faults = [f"{one['pointer']}: {one['detail']}" for one in body.get("errors", [])[:3]]
    more = f" (run {body['run_id']})" if "run_id" in body else ""
    return " ".join([body.get("detail", str(answer.status_code)) + more, *faults])


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --url and --key, and the Client as its first argument."""

    @click.option("--url", help="Of the API; default OUTBOUND_URL, or this machine.")
    @click.option("--key", help="The API key; default OUTBOUND_API_KEY.")
    @wraps(command)
    def run(*args: Any, url: str | None, key: str | None, **known: Any) -> None:
        command(Client(url, key), *args, **known)

    return run
