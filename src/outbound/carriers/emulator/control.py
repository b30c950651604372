"""The emulator's own routes: the ledger, the counts and the faults. They need no login."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from .errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.web import Request, StreamResponse

    from .book import Book
    from .callbacks import Courier
    from .faults import Faults

_ROWS_AT_ONCE: Final = 500


class Control:
    """Shows what happened, and changes what goes wrong.

    Args:
        book: The calls.
        courier: The callbacks.
        faults: What goes wrong on purpose.
    """

    def __init__(self, book: Book, courier: Courier, faults: Faults) -> None:
        self._book = book
        self._courier = courier
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """List the routes."""
        return [
            web.get("/_emulator/ledger", self._ledger),
            web.get("/_emulator/summary", self._summary),
            web.get("/_emulator/faults", self._show_faults),
            web.put("/_emulator/faults", self._replace_faults),
        ]

    async def _ledger(self, request: Request) -> StreamResponse:
        form = request.query.get("format", "json")
        if form not in ("json", "ndjson"):
            return _wrong("format must be json or ndjson")
        lines = form == "ndjson"
        kind = "application/x-ndjson" if lines else "application/json"
        answer = web.StreamResponse(headers={"Content-Type": kind})
        await answer.prepare(request)
        # In pieces, as a long ledger must not keep the calls waiting.
        for piece in self._pieces(lines=lines):
            await answer.write(piece.encode())
        await answer.write_eof()
        return answer

    def _pieces(self, *, lines: bool) -> Iterator[str]:
        opening, between, closing = ("", "\n", "\n") if lines else ("[", ",", "]")
        calls = self._book.calls
        # Calls that come in meanwhile belong to the next answer.
        total = len(calls)
        yield opening
        for start in range(0, total, _ROWS_AT_ONCE):
            chunk = calls[start : min(start + _ROWS_AT_ONCE, total)]
            rows = between.join(json.dumps(call.summary()) for call in chunk)
            yield f"{between}{rows}" if start else rows
        yield closing if total or not lines else ""

    async def _summary(self, _request: Request) -> StreamResponse:
        return web.json_response(
            self._book.summary()
            | {"callbacks": self._courier.summary(), "faults": dict(self._faults.hits)}
        )

    async def _show_faults(self, _request: Request) -> StreamResponse:
        return web.json_response(self._faults.settings)

    async def _replace_faults(self, request: Request) -> StreamResponse:
        try:
            wanted: Any = json.loads(await request.read())
        except ValueError:
            return _wrong("faults: the body is no JSON")
        try:
            self._faults.replace(wanted)
        except EmulatorError as error:
            return _wrong(str(error))
        return web.json_response(self._faults.settings)


def _wrong(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
