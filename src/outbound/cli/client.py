"""A client of our own API, for the commands that work on runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial, wraps
from typing import Any, NamedTuple

import click
import requests
from requests.auth import AuthBase

from outbound import config
from outbound.cli.errors import CommandError
from outbound.cli.output import harmless

CONNECT_SECONDS, READ_SECONDS = 5, 120
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_ONE_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")


def an_id(value: str) -> str:
    """Take an id as one segment of a path: an empty one, or `..`, would ask for something else.

    Raises:
        BadParameter: it is no id of ours; nothing has been sent.
    """
    if not _ONE_SEGMENT.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not an id.")
    return value


class Away(CommandError):
    """The API cannot be reached or is not able to answer now; asking again may help."""


class Answer(dict[str, Any]):
    """A JSON object of the API's; one that lacks what we look for is another server's."""

    def __init__(self, url: str, members: dict[str, Any]) -> None:
        super().__init__(members)
        self.url = url

    def __missing__(self, name: str) -> Any:
        raise not_ours(self.url, f"its answer has no {name!r}")


def not_ours(url: str, why: str) -> CommandError:
    """Tell that something else answers at this URL."""
    return CommandError(f"{url} is no Outbound server: {why}")


class Changed(NamedTuple):
    """What a conditional GET brought.

    Attributes:
        body: None if nothing has changed.
        etag: of what the server has now.
        at: the server's clock as it answered.
    """

    body: Any
    etag: str
    at: datetime


class _Bearer(AuthBase):
    """The key, as an object: `requests` would put ~/.netrc over a plain header."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


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
        self._http.auth = _Bearer(_visible("the API key", key))

    def send(
        self, method: str, path: str, *, read_seconds: float = READ_SECONDS, **known: Any
    ) -> requests.Response:
        """Send one request.

        Raises:
            Away: no answer, or one that says to ask again later.
            CommandError: the API refused; the text is the problem's detail and first faults.
        """
        timeout = (min(CONNECT_SECONDS, read_seconds), read_seconds)
        try:
            # A redirected POST would become a GET, and seem to have worked.
            answer = self._http.request(
                method, self._base + path, timeout=timeout, allow_redirects=False, **known
            )
        except (requests.ConnectionError, requests.Timeout):
            raise Away(f"{self._base} does not answer; is `outbound web` running?") from None
        except requests.exceptions.ChunkedEncodingError:
            # Also for an answer with a length that ends early: the server died while it wrote.
            raise Away(f"{self._base} broke off its answer; ask again") from None
        except (requests.RequestException, ValueError) as error:
            raise CommandError(f"cannot send this: {error}") from None
        if answer.is_redirect:
            raise CommandError(f"{self._base} has moved to {answer.headers['Location']}")
        if answer.status_code >= 400:
            raise (Away if answer.status_code >= 500 else CommandError)(_problem(answer))
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """GET JSON; parameters that are None are left out."""
        wanted = {name: value for name, value in query.items() if value is not None}
        return _json(self.send("GET", path, params=wanted))

    def get_changed(self, path: str, etag: str, read_seconds: float) -> Changed:
        """GET JSON, if it is no longer what this ETag stands for."""
        headers = {"If-None-Match": etag} if etag else {}
        answer = self.send("GET", path, read_seconds=read_seconds, headers=headers)
        at = _date(answer)
        if answer.status_code == 304:
            return Changed(None, etag, at)
        return Changed(_json(answer), answer.headers.get("ETag", ""), at)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """POST JSON."""
        sent = {name: _visible(name, value) for name, value in headers.items()}
        return _json(self.send("POST", path, json=body or {}, headers=sent))

    def delete(self, path: str) -> None:
        """DELETE, answered without a body."""
        answer = self.send("DELETE", path)
        if answer.status_code != 204:
            raise not_ours(answer.url, f"it answered {answer.status_code} to a DELETE")


def _visible(name: str, value: str) -> str:
    if not _VISIBLE.fullmatch(value):
        raise CommandError(f"{name} must be visible ASCII characters")
    return value


def _json(answer: requests.Response) -> Answer:
    try:
        body = answer.json(object_hook=partial(Answer, answer.url))
    except ValueError:
        body = None
    if not isinstance(body, Answer):
        raise not_ours(answer.url, "its answer is no JSON object")
    if not _are_objects(body.get("items", [])):
        raise not_ours(answer.url, "its items are no list of objects")
    return body


def _are_objects(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(one, dict) for one in items)


def _date(answer: requests.Response) -> datetime:
    try:
        at = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _problem(answer: requests.Response) -> str:
    try:
        body = answer.json()
        faults = [f"{one['pointer']}: {one['detail']}" for one in body.get("errors", [])[:3]]
        detail = body["detail"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.url} answered {answer.status_code}, and not as an Outbound server would"
    run = f" (run {body['run_id']})" if "run_id" in body else ""
    later = answer.headers.get("Retry-After")
    wait = f" (again in {later} s)" if later else ""
    return harmless(" ".join([f"{detail}{run}{wait}", *faults]))


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options --url and --key, and the Client as its first argument."""

    @click.option("--url", help="Of the API; default OUTBOUND_URL, or this machine.")
    @click.option("--key", help="The API key; default OUTBOUND_API_KEY.")
    @wraps(command)
    def run(*args: Any, url: str | None, key: str | None, **known: Any) -> None:
        command(Client(url, key), *args, **known)

    return run
