"""Makes the callbacks' HTTP requests, over connections that are kept open for a moment.

A client of our own because callbacks outnumber creates four to one and share a core with them:
with aiohttp's a call of four callbacks cost half as much time again. It knows just what a webhook
needs: HTTP/1.1, no redirects, and of the answer nothing but its status.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

    from .parcel import Parcel

# Servers close idle connections after a second or two; a request must not meet that moment.
_IDLE_SECONDS: Final = 0.5
_LARGEST_HEAD: Final = 64 * 1024
_LARGEST_BODY: Final = 1024 * 1024


class CannotConnectError(Exception):
    """There was no connection, or it broke: Twilio's ``ct``."""


class NoAnswerError(Exception):
    """There was a connection and no answer in time: Twilio's ``rt``."""


@dataclass(slots=True)
class _Line:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether the other side is likely to still listen."""
        fresh = time.monotonic() - self.idle_since < _IDLE_SECONDS
        return fresh and not self.reader.at_eof() and not self.writer.is_closing()


_Place = tuple[str, str, int]


class Outbox:
    """Makes requests, and keeps the connections."""

    def __init__(self) -> None:
        self._idle: dict[_Place, list[_Line]] = {}
        self._tls = ssl.create_default_context()

    def close(self) -> None:
        """Close the connections that are kept."""
        for lines in self._idle.values():
            for line in lines:
                line.writer.close()
        self._idle.clear()

    async def send(self, parcel: Parcel) -> int:
        """Make a request once, and give the answer's status.

        Raises:
            CannotConnectError: It could not be sent, or the connection broke.
            NoAnswerError: No answer came in time.
        """
        parts = urlsplit(parcel.url)
        place = _place(parts)
        line = self._kept(place) or await self._connect(place, parcel.policy.connect_seconds)
        reusable = False
        try:
            async with asyncio.timeout(parcel.policy.read_seconds):
                line.writer.write(_request(parcel, parts))
                status, reusable = await _answer(line.reader)
            return status
        except TimeoutError:
            raise NoAnswerError from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise CannotConnectError from error
        finally:
            self._keep(place, line, reusable=reusable)

    def _kept(self, place: _Place) -> _Line | None:
        lines = self._idle.get(place, [])
        while lines:
            line = lines.pop()
            if line.usable:
                return line
            line.writer.close()
        return None

    def _keep(self, place: _Place, line: _Line, *, reusable: bool) -> None:
        if not reusable:
            line.writer.close()
            return
        line.idle_since = time.monotonic()
        self._idle.setdefault(place, []).append(line)

    async def _connect(self, place: _Place, seconds: float) -> _Line:
        scheme, host, port = place
        tls = self._tls if scheme == "https" else None
        try:
            async with asyncio.timeout(seconds):
                opened = await asyncio.open_connection(host, port, ssl=tls, limit=_LARGEST_HEAD)
        except (OSError, ValueError) as error:  # a timeout and a TLS failure are an OSError
            raise CannotConnectError from error
        return _Line(*opened)


def _place(parts: SplitResult) -> _Place:
    secure = parts.scheme == "https"
    return parts.scheme, parts.hostname or "", parts.port or (443 if secure else 80)


def _request(parcel: Parcel, parts: SplitResult) -> bytes:
    login, _, host = parts.netloc.rpartition("@")
    # Just as it stands in the URL: another spelling would break the signature.
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    headers = {**parcel.headers, "Host": host, "Content-Length": str(len(parcel.form))}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(login).encode()).decode()}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{parcel.method} {target} HTTP/1.1\r\n{lines}\r\n{parcel.form}".encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read an answer: its status, and whether its connection can be used again."""
    status = 100
    while status < 200:
        status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
    length = 0 if status in (204, 304) else int(headers.get("content-length", "-1"))
    # A body whose end is not announced is not worth waiting for.
    if not 0 <= length <= _LARGEST_BODY:
        return status, False
    await reader.readexactly(length)
    return status, headers.get("connection", "").lower() != "close" and headers[""] != "HTTP/1.0"


def _head(head: bytes) -> tuple[int, Mapping[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/"):
        raise ValueError(f"no HTTP: {first[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs if name}
    return int(rest[:3]), headers | {"": version}
