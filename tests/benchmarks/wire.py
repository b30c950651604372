"""HTTP as cheap as it can be, so that the one who asks does not compete with the one asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit


@dataclass
class Replies:
    """How long each request took, in seconds, and how many had another status than wanted."""

    seconds: list[float] = field(default_factory=list)
    unwanted: int = 0


class Line:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> int:
        """Send one request and read its answer; returns the status."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        head, _, body = self._read_head().partition(b"\r\n\r\n")
        left = _length(head) - len(body)
        while left > 0:
            left -= len(self._more())
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12])

    def timed(self, request: bytes, wanted: int) -> float:
        """Send one request; returns the seconds to its answer, whose status must be the wanted."""
        started = time.monotonic()
        status = self.ask(request)
        assert status == wanted, f"{status}, not {wanted}"
        return time.monotonic() - started

    def _read_head(self) -> bytes:
        read = b""
        while b"\r\n\r\n" not in read:
            read += self._more()
        return read

    def _more(self) -> bytes:
        assert self._socket
        if not (read := self._socket.recv(65536)):
            raise ConnectionError("the server closed the connection within an answer")
        return read

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def request(method: str, url: str, body: bytes = b"", **headers: str) -> bytes:
    """Write a request down; underscores in the headers' names are dashes."""
    parts = urlsplit(url)
    lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def send_all(url: str, requests: Sequence[bytes], connections: int, wanted: int) -> Replies:
    """Send every request once, over so many connections at once."""
    replies, numbers, lock = Replies(), count(), threading.Lock()

    def work() -> None:
        line = Line(url)
        while (number := next(numbers)) < len(requests):
            started = time.monotonic()
            status = line.ask(requests[number])
            with lock:
                replies.seconds.append(time.monotonic() - started)
                replies.unwanted += status != wanted
        line.close()

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies
