"""Twilio's REST routes for calls."""

from __future__ import annotations

import asyncio
import base64
import hmac
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from . import wire
from .faults import ACCEPTING
from .listing import Listing
from .order import Order, is_web_address, parse_form, parse_order
from .problems import Refusal
from .resources import API, call_resource, event_resources

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.web import Request, StreamResponse

    from .book import Book
    from .calls import Call
    from .faults import Faults
    from .life import Life
    from .settings import EmulatorSettings

    Handler = Callable[[Request], Awaitable[StreamResponse]]

_REFUSALS: Final = {
    "refuse_429": 20429,
    "refuse_500": 20500,
    "refuse_503": 20503,
    "answer_401": 20003,
}


class Rest:
    """Answers as Twilio does, or as Twilio does on a bad day.

    Args:
        settings: The account and its key.
        book: The calls.
        life: Begins and ends them.
        faults: What goes wrong on purpose.
    """

    def __init__(self, settings: EmulatorSettings, book: Book, life: Life, faults: Faults) -> None:
        self._settings = settings
        self._account = settings.account_sid
        self._phones = settings.phone_book()
        self._book = book
        self._life = life
        self._faults = faults
        login = f"{settings.account_sid}:{settings.auth_token}".encode()
        self._login = base64.b64encode(login)

    def routes(self) -> list[web.RouteDef]:
        """List the routes."""
        calls, call = f"{API}/{{account}}/Calls", f"{API}/{{account}}/Calls/{{sid}}"
        return [
            web.post(f"{calls}.json", self._guarded(self._create)),
            web.get(f"{calls}.json", self._guarded(self._list), allow_head=False),
            web.get(f"{call}/Events.json", self._guarded(self._events), allow_head=False),
            web.get(f"{call}.json", self._guarded(self._fetch), allow_head=False),
            web.post(f"{call}.json", self._guarded(self._update)),
            web.route("*", "/2010-04-01{rest:.*}", self._guarded(self._nothing)),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> StreamResponse:
            try:
                self._check_login(request)
                return await handler(request)
            except Refusal as refusal:
                return self._problem(refusal)
            except OSError as error:
                # The ledger cannot be written: what was asked for has not happened.
                return self._problem(Refusal(20500, f"ledger: {error}"))

        return guarded

    def _check_login(self, request: Request) -> None:
        scheme, _, login = request.headers.get("Authorization", "").partition(" ")
        given = login.strip().encode(errors="replace")
        if scheme.lower() != "basic" or not hmac.compare_digest(given, self._login):
            raise Refusal(20003)
        if request.match_info.get("account", self._account) != self._account:
            raise Refusal(20003)

    def _problem(self, refusal: Refusal) -> web.Response:
        answer = web.json_response(refusal.body(), status=refusal.status)
        if refusal.code == 20429:
            answer.headers["Retry-After"] = f"{self._faults.seconds('retry_after_seconds'):g}"
        if refusal.code == 20003:
            answer.headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
        return answer

    # Creates

    async def _create(self, request: Request) -> StreamResponse:
        try:
            order = self._order(await request.read())
            return await self._take(request, order)
        except Refusal as refusal:
            self._book.refused[str(refusal.code)] += 1
            raise

    def _order(self, body: bytes) -> Order:
        order = parse_order(parse_form(body), self._settings.caller_ids)
        code = self._phones.refusal(order.to)
        if code is not None:
            raise Refusal(code, order.to)
        return order

    async def _take(self, request: Request, order: Order) -> StreamResponse:
        fault = self._faults.pick_create()
        if fault in _REFUSALS:
            raise Refusal(_REFUSALS[fault])
        if fault == "hang_without_accepting":
            self._book.refused["hung"] += 1
            return await self._hang(request)
        hits = [fault] if fault in ACCEPTING else []
        await self._pause("accept_delay_seconds", hits)
        # Drawn before, so that the ledger's one line about the acceptance can name it.
        delay = self._faults.delay("create_delay_seconds")
        call = self._book.accept(order, time.time(), hits + ["create_delay_seconds"] * bool(delay))
        self._life.begin(call)
        if delay:
            await asyncio.sleep(delay)
        return await self._answer(request, call, fault)

    async def _pause(self, name: str, hits: list[str]) -> None:
        seconds = self._faults.delay(name)
        if seconds:
            hits.append(name)
            await asyncio.sleep(seconds)

    async def _answer(self, request: Request, call: Call, fault: str | None) -> StreamResponse:
        if fault == "accept_then_timeout":
            return await self._hang(request)
        if fault == "accept_then_reset":
            return wire.reset(request)
        if fault == "accept_then_500":
            return self._problem(Refusal(20500))
        if fault == "accept_then_rubbish":
            return wire.rubbish()
        return self._shown(call, 201)

    async def _hang(self, request: Request) -> StreamResponse:
        await asyncio.sleep(self._faults.seconds("timeout_seconds"))
        return wire.close(request)

    # Look-ups

    async def _list(self, request: Request) -> StreamResponse:
        self._maybe_fail()
        listing = Listing.from_query(request.query)
        newest = self._newest()
        if self._faults.hits_now("lookup_empty"):
            newest = 0.0
        return web.json_response(listing.answer(self._book, self._account, newest=newest))

    async def _fetch(self, request: Request) -> StreamResponse:
        return self._shown(self._looked_up(request), 200)

    async def _events(self, request: Request) -> StreamResponse:
        events = event_resources(self._looked_up(request), self._account)
        uri = request.path
        return web.json_response(
            {
                "events": events,
                "page": 0,
                "page_size": 50,
                "start": 0,
                "end": max(len(events) - 1, 0),
                "uri": uri,
                "first_page_uri": uri,
                "previous_page_uri": None,
                "next_page_uri": None,
            }
        )

    def _looked_up(self, request: Request) -> Call:
        self._maybe_fail()
        call = self._found(request)
        if self._faults.hits_now("lookup_404") or call.accepted_at > self._newest(call):
            raise Refusal(20404, request.path)
        return call

    def _maybe_fail(self) -> None:
        if self._faults.hits_now("lookup_500"):
            raise Refusal(20500)

    def _newest(self, call: Call | None = None) -> float:
        """Tell up to when a call must have been accepted to be found now."""
        lag = self._faults.seconds("lookup_lag_seconds")
        newest = time.time() - lag if lag else float("inf")
        latest = call or (self._book.calls[-1] if self._book.calls else None)
        if latest is not None and latest.accepted_at > newest:
            self._faults.hits["lookup_lag_seconds"] += 1
        return newest

    def _found(self, request: Request) -> Call:
        call = self._book.find(request.match_info["sid"])
        if call is None:
            raise Refusal(20404, request.path)
        return call

    # Updates

    async def _update(self, request: Request) -> StreamResponse:
        form = parse_form(await request.read())
        call = self._found(request)
        status = form.get("Status", [""])[0]
        url = form.get("Url", [""])[0]
        if status not in ("", "canceled", "completed"):
            raise Refusal(20001, "Status must be canceled or completed")
        if url and not is_web_address(url):
            raise Refusal(21205, url)
        if call.ended:
            raise Refusal(21220, "it has ended")
        # As at Twilio, `canceled` leaves a call alone that is in progress already.
        if status == "completed" or (status == "canceled" and call.status != "in-progress"):
            self._life.hang_up(call)
        return self._shown(call, 200)

    async def _nothing(self, request: Request) -> StreamResponse:
        raise Refusal(20404, request.path)

    def _shown(self, call: Call, status: int) -> web.Response:
        resource: dict[str, Any] = call_resource(call, self._account)
        return web.json_response(resource, status=status)
