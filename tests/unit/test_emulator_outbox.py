"""What the callbacks' HTTP client makes of the answers that web servers give."""

import asyncio
from contextlib import suppress

import pytest

from outbound.carriers.emulator.outbox import CannotConnectError, NoAnswerError, Outbox
from outbound.carriers.emulator.parcel import Parcel
from outbound.carriers.emulator.retry import RetryPolicy


class Server:
    """Gives one answer to each request and counts the connections."""

    def __init__(self, answer, *, close=False, silent=False):
        self.answer, self.close, self.silent = answer, close, silent
        self.connections = 0
        self.requests = []
        self.writers = []

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        while not reader.at_eof():
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                return
            length = int(head.lower().partition("content-length:")[2].split("\r\n")[0])
            self.requests.append((head, await reader.readexactly(length)))
            if not self.silent:
                writer.write(self.answer)
            if self.close:
                writer.close()
                return


def parcel_to(port, path="/cb?a=%20b", login="", form="CallSid=CA1"):
    headers = {"X-Twilio-Signature": "abc="}
    policy = RetryPolicy(connect_seconds=1.0, read_seconds=0.2)
    return Parcel("POST", f"http://{login}127.0.0.1:{port}{path}", form, headers, policy)


async def close(outbox, listener, server):
    outbox.close()
    listener.close()
    for writer in server.writers:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    await listener.wait_closed()


def send(server, times=1, **parcel):
    async def run():
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        outbox = Outbox()
        try:
            port = listener.sockets[0].getsockname()[1]
            return [await outbox.send(parcel_to(port, **parcel)) for _ in range(times)]
        finally:
            await close(outbox, listener, server)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "status", "connections"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", 200, 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK", 200, 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK", 200, 2),
        (b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 500, 2),
        (b"HTTP/1.1 404 Not Found\r\n\r\nnot here", 404, 2),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, 1),
    ],
)
def test_the_status_is_read_and_a_connection_is_kept_if_it_can_be(answer, status, connections):
    server = Server(answer)
    assert send(server, times=2) == [status, status]
    assert server.connections == connections


def test_the_request_is_just_what_was_signed():
    server = Server(b"HTTP/1.1 204 No Content\r\n\r\n")
    send(server, path="/cb/%7Eatt?a=%20b&c=", form="CallSid=CA1&ToCity=")
    ((head, body),) = server.requests
    assert head.startswith("POST /cb/%7Eatt?a=%20b&c= HTTP/1.1\r\n")
    assert "X-Twilio-Signature: abc=\r\n" in head
    assert body == b"CallSid=CA1&ToCity="


def test_a_login_in_the_url_becomes_basic_auth():
    server = Server(b"HTTP/1.1 204 No Content\r\n\r\n")
    send(server, login="us%65r:pass@")
    assert "Authorization: Basic dXNlcjpwYXNz\r\n" in server.requests[0][0]
    assert "Host: 127.0.0.1:" in server.requests[0][0]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"\x16\x03\x01 nonsense\r\n\r\n", b"x" * 100_000]
)
def test_a_connection_that_breaks_or_talks_nonsense_is_a_failed_connection(answer):
    with pytest.raises(CannotConnectError):
        send(Server(answer, close=True))


def test_an_answer_that_does_not_come_is_told_apart_from_a_failed_connection():
    with pytest.raises(NoAnswerError):
        send(Server(b"", silent=True))


def test_a_kept_connection_that_the_server_closed_is_not_used_again():
    async def run():
        server = Server(b"HTTP/1.1 204 No Content\r\n\r\n")
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        outbox = Outbox()
        parcel = parcel_to(listener.sockets[0].getsockname()[1])
        first = await outbox.send(parcel)
        ((line,),) = outbox._idle.values()
        server.writers[0].close()
        assert await asyncio.wait_for(line.reader.read(), 5) == b""
        second = await outbox.send(parcel)
        await close(outbox, listener, server)
        return first, second, server.connections

    assert asyncio.run(run()) == (204, 204, 2)
