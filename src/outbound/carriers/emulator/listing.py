"""Lists of calls: filters and pages, newest first, stable while calls come in."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from .clock import from_iso
from .problems import Refusal
from .resources import API, call_resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .book import Book
    from .calls import Call

_DEFAULT_PAGE: Final = 50
_MOST_A_PAGE: Final = 1000
_TIMES: Final = ("StartTime", "StartTime<", "StartTime>", "EndTime", "EndTime<", "EndTime>")
_FILTERS: Final = ("To", "From", "Status", "ParentCallSid", *_TIMES)
_NUMBER: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a list was asked for.

    Attributes:
        filters: The filters by Twilio's names.
        page: Which page, from 0.
        page_size: How many calls a page.
        token: Where the page starts: after the call that it names.
    """

    filters: Mapping[str, str]
    page: int
    page_size: int
    token: str

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Listing:
        """Read a query.

        Raises:
            Refusal: A number or a time in it is none.
        """
        filters = {name: query[name] for name in _FILTERS if query.get(name)}
        for name in _TIMES:
            if name in filters:
                _moment(name, filters[name])
        return cls(
            filters=filters,
            page=_number(query, "Page", 0),
            page_size=min(max(_number(query, "PageSize", _DEFAULT_PAGE), 1), _MOST_A_PAGE),
            token=query.get("PageToken", ""),
        )

    def answer(self, book: Book, account_sid: str, *, newest: float) -> dict[str, Any]:
        """Give the page.

        Args:
            book: The calls.
            account_sid: Whose they are.
            newest: Calls accepted after this time are not found.
        """
        found = list(islice(self._matches(book, newest), self.page_size + 1))
        shown = found[: self.page_size]
        start = self.page * self.page_size
        return {
            "calls": [call_resource(call, account_sid) for call in shown],
            "page": self.page,
            "page_size": self.page_size,
            "start": start,
            "end": start + max(len(shown) - 1, 0),
            "uri": self._uri(account_sid, self.page, self.token),
            "first_page_uri": self._uri(account_sid, 0, ""),
            "previous_page_uri": self._uri(account_sid, self.page - 1, "") if self.page else None,
            "next_page_uri": self._uri(account_sid, self.page + 1, f"PA{shown[-1].sid}")
            if len(found) > len(shown)
            else None,
        }

    def _uri(self, account_sid: str, page: int, token: str) -> str:
        query: dict[str, str | int] = {**self.filters, "PageSize": self.page_size, "Page": page}
        if token:
            query["PageToken"] = token
        return f"{API}/{account_sid}/Calls.json?{urlencode(query)}"

    def _matches(self, book: Book, newest: float) -> Iterator[Call]:
        source = book.to(self.filters["To"]) if "To" in self.filters else book.calls
        matches = (
            call
            for call in _backwards(source, self._end(book, source))
            if call.accepted_at <= newest and self._match(call)
        )
        # A bare page number, without a token, counts from the newest call of this moment.
        return islice(matches, 0 if self.token else self.page * self.page_size, None)

    def _end(self, book: Book, source: Sequence[Call]) -> int:
        last = book.find(self.token.removeprefix("PA")) if self.token else None
        if last is None:
            return len(source)
        return bisect.bisect_left(source, last.number, key=lambda call: call.number)

    def _match(self, call: Call) -> bool:
        wanted = self.filters
        if "ParentCallSid" in wanted:
            return False
        if wanted.get("From", call.order.from_) != call.order.from_:
            return False
        if wanted.get("Status", call.rest_status) != call.rest_status:
            return False
        times = {"StartTime": call.started_at, "EndTime": call.ended_at}
        return all(
            _in_time(times[name.rstrip("<>")], name, wanted[name])
            for name in _TIMES
            if name in wanted
        )


def _backwards(source: Sequence[Call], end: int) -> Iterator[Call]:
    return (source[index] for index in range(end - 1, -1, -1))


def _in_time(at: float | None, name: str, text: str) -> bool:
    # As at Twilio: a call that has not started yet has no start time to be found by.
    if at is None:
        return False
    limit = _moment(name, text)
    if name.endswith("<"):
        return at <= limit
    if name.endswith(">"):
        return at >= limit
    return limit <= at < limit + 86_400


def _moment(name: str, text: str) -> float:
    try:
        return from_iso(text)
    except ValueError:
        raise Refusal(20001, f"{name} must be a date or an ISO 8601 time") from None


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise Refusal(20001, f"{name} must be a number")
    return int(text)
