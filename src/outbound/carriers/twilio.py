"""Twilio Programmable Voice, and whatever speaks its API under another base URL.

Twilio cannot create a call idempotently: a second request is a second call. So a request leaves
at most once (no retries, no redirects), and every answer that does not say for certain that
there is no call is ambiguous. What Twilio lacks, a tag of ours, travels in the callback URL: it
comes back with each callback and, a quarter of an hour after the call, in its list of events.

The SDK signs and addresses the requests. Its resource classes are not used: they hide the
headers, and give an answer without an error code its HTTP status as the code.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit
from uuid import UUID

import certifi
import structlog
import urllib3
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.request_validator import RequestValidator
from twilio.rest import Client
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from outbound.carriers.base import (
    Answer,
    Callback,
    Carrier,
    CarrierCall,
    CarrierUnavailable,
    ForgedCallback,
    PlaceRequest,
    Progress,
    UnreadableCallback,
    Verdict,
)
from outbound.config import VARIABLES, Settings
from outbound.errors import ConfigError

log = structlog.get_logger(__name__)

NAME = "twilio"

# The fragment is for Twilio, which neither sends nor signs it: up to five retries whatever went
# wrong. By default a callback that we answer with 5xx, or too slowly, is lost.
RETRY_CALLBACKS = "#rc=5&rp=all"

PROGRESS = {
    "queued": Progress.QUEUED,
    "initiated": Progress.QUEUED,
    "ringing": Progress.RINGING,
    "in-progress": Progress.IN_PROGRESS,
    "completed": Progress.ANSWERED,
    "busy": Progress.BUSY,
    "no-answer": Progress.NO_ANSWER,
    "failed": Progress.FAILED,
    "canceled": Progress.CANCELLED,
}
"""Twilio's words, those of its callbacks and those of its REST resources."""

# Our own texts: Twilio's repeat the number that was dialled.
CODES = {
    20003: (Verdict.REFUSED_US, "Authenticate (check TWILIO_AUTH_TOKEN)"),
    10004: (Verdict.REFUSED_US, "Too many calls at once for this account"),
    22005: (Verdict.REFUSED_US, "Twilio's queue of calls is full"),
    21201: (Verdict.REFUSED_US, "No number to call was sent"),
    21210: (Verdict.REFUSED_US, "The caller number is neither verified nor owned"),
    21212: (Verdict.REFUSED_US, "The caller number is not valid"),
    21211: (Verdict.REFUSED_CALLEE, "The number is not valid"),
    21214: (Verdict.REFUSED_CALLEE, "The number cannot be reached"),
    21215: (Verdict.REFUSED_CALLEE, "Calls to this country are not allowed"),
    21216: (Verdict.REFUSED_CALLEE, "Calls to this number are blocked"),
    21217: (Verdict.REFUSED_CALLEE, "The number does not appear to be valid"),
    21219: (Verdict.REFUSED_CALLEE, "A trial account may only call verified numbers"),
    20429: (Verdict.TRY_LATER, "Too many requests"),
    20500: (Verdict.AMBIGUOUS, "An error inside Twilio"),
    20503: (Verdict.AMBIGUOUS, "Twilio is overloaded"),
}
ALREADY_OVER = 21220

_SID = re.compile(r"[A-Za-z0-9-]{8,64}")
_CALLBACK_PATH = re.compile(rf"/webhooks/{NAME}/([0-9a-fA-F-]{{36}})/?$")
_WIRE_ERRORS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
_PAGE_SIZE, _MOST_PAGES = 100, 10
_LARGEST_PAGE, _MOST_PAGES_OF_ALL = 1000, 1000
_LARGEST_ANSWER = 4 * 1024 * 1024
_LONGEST_WAIT = 86_400.0
# Firewalls forget idle connections without a word, and then a request is lost without a word.
_LONGEST_IDLE = 30.0


def from_config(settings: Settings) -> Carrier:
    """Build the carrier.

    Raises:
        ConfigError: the account or its token is not set.
    """
    for attribute in ("twilio_account_sid", "twilio_auth_token"):
        if not getattr(settings, attribute):
            name, _, example = VARIABLES[attribute]
            raise ConfigError(f"{name} is not set, for example {name}={example}")
    return Twilio(settings)


class Twilio:
    """The carrier; see the module's text.

    Args:
        settings: with the account's SID and token.
    """

    name = NAME

    def __init__(self, settings: Settings) -> None:
        account, token = settings.twilio_account_sid or "", settings.twilio_auth_token or ""
        # Not an empty mapping, which would mean os.environ: TWILIO_EDGE would rewrite the host.
        client = Client(
            account, token, http_client=_Wire(settings), environment={"TWILIO_EDGE": ""}
        )
        client.api.base_url = settings.twilio_api_base_url
        self._api = client.api.v2010
        self._calls = f"/Accounts/{quote(account, safe='')}/Calls"
        self._validator = RequestValidator(token)

    def place(self, request: PlaceRequest) -> Answer:
        """Ask Twilio to call: one POST, bounded as a whole."""
        form = {
            "To": request.to,
            "From": request.caller_id,
            "Url": request.answer_url,
            "Twiml": request.twiml,
            "StatusCallback": request.callback_url + RETRY_CALLBACKS,
            "StatusCallbackMethod": "POST",
            "StatusCallbackEvent": ["ringing", "answered", "completed"],
            "Timeout": request.ring_timeout,
            "TimeLimit": request.max_call_duration,
        }
        try:
            response = self._api.request("POST", f"{self._calls}.json", data=form)
        except ConnectTimeoutError:  # the base of "refused" and "no such host", too
            return Answer(Verdict.NEVER_SENT, error="No connection to Twilio")
        except ReadTimeoutError:
            return Answer(Verdict.AMBIGUOUS, error="No whole answer in time")
        except _WIRE_ERRORS:
            return Answer(Verdict.AMBIGUOUS, error="The connection broke before the whole answer")
        return _read_answer(_Reply.of(response))

    def look_up(self, carrier_call_id: str) -> CarrierCall | None:
        """Read one call."""
        reply = self._ask("GET", f"/{_checked(carrier_call_id)}.json")
        if reply.status == 404:
            return None
        return _read_call(reply.body_or_raise())

    def find(self, *, to: str, caller_id: str, since: datetime) -> list[CarrierCall]:
        """List calls by To and From only: a date filter hides those still queued."""
        query = {"To": to, "From": caller_id, "PageSize": str(_PAGE_SIZE)}
        return list(self._calls_since(since, query, _MOST_PAGES))

    def calls_from(self, caller_id: str, since: datetime) -> Iterator[CarrierCall]:
        """Walk all calls from a number, a thousand a request."""
        query = {"From": caller_id, "PageSize": str(_LARGEST_PAGE)}
        return self._calls_since(since, query, _MOST_PAGES_OF_ALL)

    def _calls_since(
        self, since: datetime, query: dict[str, str], most: int
    ) -> Iterator[CarrierCall]:
        for page in self._pages(".json", "calls", query, most):
            calls = [_read_call(record) for record in page]
            recent = [call for call in calls if not call.created_at or call.created_at >= since]
            yield from recent
            if calls and not recent:  # the newest come first
                return

    def attempt_of(self, carrier_call_id: str) -> UUID | None:
        """Read the attempt id from the callback URLs among the call's events."""
        query = {"PageSize": str(_PAGE_SIZE)}
        for page in self._pages(f"/{_checked(carrier_call_id)}/Events.json", "events", query):
            for event in page:
                attempt_id = _attempt_in(event.get("request"))
                if attempt_id:
                    return attempt_id
        return None

    def hang_up(self, carrier_call_id: str) -> None:
        """End a call."""
        path = f"/{_checked(carrier_call_id)}.json"
        reply = self._ask("POST", path, data={"Status": "completed"})
        if reply.code == ALREADY_OVER or reply.status == 404:
            log.debug("hang_up_not_needed", carrier=NAME, carrier_call_id=carrier_call_id)
        elif not reply.ok:
            reply.fail()

    def read_callback(self, *, url: str, headers: Mapping[str, str], body: bytes) -> Callback:
        """Verify and read a status callback."""
        fields = self._verified(url, headers.get("x-twilio-signature", ""), body)
        call_id, status = fields.first("CallSid"), fields.first("CallStatus")
        if not _SID.fullmatch(call_id):
            raise UnreadableCallback("the callback has no readable CallSid")
        if status not in PROGRESS:
            raise UnreadableCallback("the callback has no known CallStatus")
        progress, sip = PROGRESS[status], _whole(fields.first("SipResponseCode"))
        failed = progress.is_final and progress is not Progress.ANSWERED
        return Callback(
            carrier_call_id=call_id,
            progress=progress,
            duration=_whole(fields.first("CallDuration")),
            error=f"SIP {sip}" if failed and sip is not None else None,
        )

    def _verified(self, url: str, signature: str, body: bytes) -> _Fields:
        try:
            # Blank values are signed as well, so they must not be dropped.
            fields = _Fields(parse_qs(body.decode(), keep_blank_values=True))
            genuine = self._validator.validate(url, fields, signature)
        except Exception as error:  # whatever a stranger's bytes upset is a stranger's
            raise ForgedCallback("the callback's signature cannot be checked") from error
        if not genuine:
            raise ForgedCallback("the callback's signature is missing or wrong")
        return fields

    def _ask(self, method: str, path: str, **content: Any) -> _Reply:
        try:
            return _Reply.of(self._api.request(method, self._calls + path, **content))
        except _WIRE_ERRORS as error:
            raise CarrierUnavailable(f"Twilio: {type(error).__name__}") from error

    def _pages(
        self, path: str, key: str, query: dict[str, str], most: int = _MOST_PAGES
    ) -> Iterator[list[dict[str, Any]]]:
        """Walk a list; raises if it has no end, since half a list may mislead."""
        for _ in range(most):
            reply = self._ask("GET", path, params=query)
            # Only a call may have no events; a wrong base URL must not pass for "no calls".
            if reply.status == 404 and key == "events":
                return
            body = reply.body_or_raise()
            records, following = body.get(key), body.get("next_page_uri")
            if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
                raise CarrierUnavailable(f"Twilio: a list without {key}")
            yield records
            if not following:
                return
            # Only the query of their link: it must not lead the token to another host.
            query = dict(parse_qsl(urlsplit(str(following)).query))
        raise CarrierUnavailable(f"Twilio: more than {most} pages of {key}")


@dataclass(frozen=True)
class _Reply:
    """An answer of Twilio's, read as far as it can be.

    Attributes:
        body: the JSON object, None if it is none.
        code: Twilio's error code, None if the answer has none.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any] | None
    code: int | None

    @classmethod
    def of(cls, response: Response) -> _Reply:
        try:
            body = json.loads(response.text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            body = None
        code = (body or {}).get("code")
        # Five digits: a gateway's own error may well be JSON with its HTTP status as `code`.
        is_twilios = type(code) is int and response.status_code >= 400 and code >= 10_000
        return cls(response.status_code, response.headers, body, code if is_twilios else None)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def body_or_raise(self) -> dict[str, Any]:
        if not self.ok or self.body is None:
            self.fail()
        return self.body

    def fail(self) -> NoReturn:
        raise CarrierUnavailable(f"Twilio: {self.error}")

    @property
    def error(self) -> str:
        if self.code is None:
            return f"HTTP {self.status} without a readable body"
        see = f"https://www.twilio.com/docs/api/errors/{self.code}"
        return f"{self.code}: {CODES[self.code][1] if self.code in CODES else see}"


def _read_answer(reply: _Reply) -> Answer:
    if reply.ok:
        sid = (reply.body or {}).get("sid")
        if isinstance(sid, str) and _SID.fullmatch(sid):
            return Answer(Verdict.ACCEPTED, carrier_call_id=sid)
        return Answer(Verdict.AMBIGUOUS, error=f"HTTP {reply.status} without a call id")
    verdict = _verdict(reply)
    wait = _retry_after(reply.headers) if verdict is Verdict.TRY_LATER else None
    return Answer(verdict, error=reply.error, retry_after=wait)


def _verdict(reply: _Reply) -> Verdict:
    if reply.code in CODES:
        return CODES[reply.code][0]
    if reply.status == 429:
        return Verdict.TRY_LATER
    if reply.status in (401, 403):
        return Verdict.REFUSED_US
    if reply.code is not None and reply.status < 500:
        return Verdict.REFUSED_US
    return Verdict.AMBIGUOUS


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "").strip()
    seconds, moment = _whole(value), _moment(value)
    if seconds is not None:
        return min(float(seconds), _LONGEST_WAIT)
    if moment is not None:
        return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), _LONGEST_WAIT)
    return None


def _read_call(record: dict[str, Any]) -> CarrierCall:
    sid, status = str(record.get("sid")), str(record.get("status"))
    if not _SID.fullmatch(sid) or status not in PROGRESS:
        raise CarrierUnavailable("Twilio: a call without a readable sid and status")
    return CarrierCall(
        carrier_call_id=sid,
        progress=PROGRESS[status],
        to=str(record.get("to")),
        caller_id=str(record.get("from")),
        created_at=_moment(record.get("date_created")),
        placed_by_api=record.get("direction") == "outbound-api",
        duration=_whole(record.get("duration")),
    )


def _attempt_in(request: object) -> UUID | None:
    url = request.get("url") if isinstance(request, dict) else None
    try:
        match = _CALLBACK_PATH.search(urlsplit(str(url)).path)
        return UUID(match[1]) if match else None
    except ValueError:
        return None


def _checked(call_id: str) -> str:
    # It becomes part of a path, and may have come from somewhere else than Twilio.
    if not _SID.fullmatch(call_id):
        raise CarrierUnavailable("Twilio: this is no call id of theirs")
    return call_id


def _whole(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _moment(value: object) -> datetime | None:
    try:
        moment = parsedate_to_datetime(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Fields(dict[str, list[str]]):
    """A form. `getall` is how the SDK's validator asks first for a field that is there twice."""

    getall = dict.__getitem__

    def first(self, name: str) -> str:
        return self.get(name, [""])[0]


class _Wire(HttpClient):  # type: ignore[misc]  # the SDK is untyped
    """Sends what the SDK composed: once, within the timeout, and without logging the numbers.

    The SDK's own client can bound neither the whole answer nor its size, and takes proxies and
    passwords from the environment.

    Args:
        settings: how long, and how many at once.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(log, is_async=False, timeout=settings.carrier_timeout)
        # A quarter, since every address of the host is tried in turn: a host with many that are
        # all dead takes longer than the whole, but then nothing was sent.
        self._limit = urllib3.Timeout(
            total=settings.carrier_timeout, connect=settings.carrier_timeout / 4
        )
        self._pool = urllib3.PoolManager(
            maxsize=settings.senders + settings.worker_threads,
            ca_certs=certifi.where(),
        )
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def request(self, method: str, uri: str, **parts: Any) -> Response:
        """Send one request and read its answer; raises what urllib3 raises."""
        params, form = parts["params"], parts["data"]
        response = self._pool.urlopen(
            method,
            f"{uri}?{urlencode(params)}" if params else uri,
            body=urlencode(form, doseq=True) if form else None,
            headers=parts["headers"] | urllib3.make_headers(basic_auth=":".join(parts["auth"])),
            timeout=self._limit,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        text = response.read(_LARGEST_ANSWER + 1)
        if len(text) > _LARGEST_ANSWER:
            response.close()
            raise urllib3.exceptions.ProtocolError("the answer is too large")
        return Response(response.status, text.decode(errors="replace"), response.headers)


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline.

    A socket's timeout is for one read: a server that drips a byte a second would hold its
    sender for ever.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        # By now this is what connecting and sending have left of the whole.
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long as a whole")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock))


class _Connection(HTTPConnection):
    """A connection that knows whether a request may have left, and is not reused when stale."""

    response_class = _TimedResponse
    _used_at = 0.0

    def connect(self) -> None:
        """Connect; whatever fails here, a certificate too, fails before any byte of a request."""
        begun = time.monotonic()
        try:
            super().connect()
        except Exception as error:
            raise NewConnectionError(self, f"no connection: {type(error).__name__}") from error
        # Resolving the name has no timeout: better not to send at all than late.
        if isinstance(self.timeout, float) and time.monotonic() - begun > 2 * self.timeout:
            raise ConnectTimeoutError(self, "connecting took too long as a whole")
        self._used_at = time.monotonic()

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # urllib3's own
        """Read the answer's head."""
        response = super().getresponse()
        self._used_at = time.monotonic()
        return response

    @property
    def is_connected(self) -> bool:
        """Tell whether the next request may use it."""
        return super().is_connected and time.monotonic() - self._used_at < _LONGEST_IDLE


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
