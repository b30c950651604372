"""TCP proxies between the processes and what they talk to, with faults that really happen.

All proxies share one event loop on a thread of its own. Every fault counts its hits, so that a
scenario can tell that it did not only mean to hurt.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""How psycopg2 sends a COMMIT."""


class Network:
    """The loop that all proxies run on."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True).start()

    def proxy(self, *targets: int) -> Proxy:
        """Open a proxy to the first of these ports on this machine that takes a connection."""
        proxy = Proxy(list(targets), self.call)
        self.call(proxy.open())
        return proxy

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class Proxy:
    """One port in front of one or several others.

    Attributes:
        targets: ports behind it; connections go to them in turn, past those that refuse.
        latency: seconds that each piece of data waits, either way.
        black_hole: connections are taken and data is swallowed, either way.
        refuse: new connections are reset at once.
        drop_replies: what the server answers is thrown away, and the connection with it.
        commits: what happens to the next COMMITs: `before` (it never reaches the server) or
            `after` (the server carries it out, its answer gets lost).
        hits: how often each of these really happened.
    """

    def __init__(self, targets: list[int], call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.targets = targets
        self.port = 0
        self.latency = 0.0
        self.black_hole = self.refuse = self.drop_replies = False
        self.commits: deque[str] = deque()
        self.hits: Counter[str] = Counter()
        self._call = call
        self._turn = itertools.count()
        self._pipes: set[_Pipe] = set()

    async def open(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]

    def cut(self) -> int:
        """Reset every connection; returns how many there were."""

        async def abort_all() -> int:
            cut = len(self._pipes)
            for pipe in list(self._pipes):
                pipe.abort()
            return cut

        cut = int(self._call(abort_all()))
        self.hits["cut"] += cut
        return cut

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            self.hits["refuse"] += 1
            _reset(writer)
            return
        up = await self._connect()
        if up is None:
            _reset(writer)
            return
        pipe = _Pipe(self, (reader, writer), up)
        self._pipes.add(pipe)
        try:
            await pipe.run()
        finally:
            self._pipes.discard(pipe)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn)
        for n in range(len(self.targets)):
            port = self.targets[(first + n) % len(self.targets)]
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


class _Pipe:
    """One connection through a proxy."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self._answer_is_lost = False

    def abort(self) -> None:
        _reset(self._client[1])
        _reset(self._server[1])

    async def run(self) -> None:
        up = asyncio.create_task(self._pump(self._client[0], self._server[1], self._asked))
        down = asyncio.create_task(self._pump(self._server[0], self._client[1], self._answered))
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        # Half-closed connections are nobody's custom here: the other half gets what was read.
        await asyncio.wait([up, down], timeout=0.2)
        for task in (up, down):
            task.cancel()
        for writer in (self._client[1], self._server[1]):
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        may_pass: Callable[[bytes], bool],
    ) -> None:
        proxy = self._proxy
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if proxy.latency:
                    proxy.hits["latency"] += 1
                    await asyncio.sleep(proxy.latency)
                if proxy.black_hole:
                    proxy.hits["black_hole"] += 1
                elif may_pass(data):
                    writer.write(data)
                    await writer.drain()
                else:
                    return

    def _asked(self, data: bytes) -> bool:
        if COMMIT in data and self._proxy.commits:
            when = self._proxy.commits.popleft()
            self._proxy.hits[f"commit {when}"] += 1
            if when == "before":
                self.abort()
                return False
            self._answer_is_lost = True
        return True

    def _answered(self, _: bytes) -> bool:
        if self._answer_is_lost or self._proxy.drop_replies:
            self._proxy.hits["drop_replies"] += 1
            self.abort()
            return False
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
