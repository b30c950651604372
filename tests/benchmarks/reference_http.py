"""Nothing but the requests: our carrier's client from so many threads, and callbacks answered.

python -m benchmarks.reference_http CARRIER_URL ACCOUNT_SID AUTH_TOKEN CALLS THREADS
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from benchmarks.ours import phones
from benchmarks.references import serve
from outbound.carriers.base import PlaceRequest, Verdict
from outbound.carriers.twilio import Twilio
from outbound.config import Settings
from processes import free_port


class Sink:
    """Answers every callback with 204, and knows how many calls are over."""

    def __init__(self, calls: int) -> None:
        self.port = free_port()
        self._left = calls
        self.done = threading.Event()
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait(10)

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)
        ready.set()
        await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length))
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                if b"CallStatus=completed" in body:
                    self._left -= 1
                    if not self._left:
                        self.done.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def main(carrier_url: str, sid: str, token: str, calls: str, threads: str) -> None:
    carrier = Twilio(
        Settings(twilio_account_sid=sid, twilio_auth_token=token, twilio_api_base_url=carrier_url)
    )
    sink = Sink(int(calls))

    def place(phone: str) -> Verdict:
        attempt = uuid4()
        request = PlaceRequest(
            attempt_id=attempt,
            to=phone,
            caller_id="+97231234567",
            callback_url=f"http://127.0.0.1:{sink.port}/webhooks/twilio/{attempt}",
            ring_timeout=30,
            max_call_duration=3600,
            twiml="<Response/>",
        )
        return carrier.place(request).verdict

    def work() -> dict[str, float]:
        started = time.monotonic()
        with ThreadPoolExecutor(int(threads)) as pool:
            verdicts = list(pool.map(place, phones(int(calls), 500_000)))
        assert set(verdicts) == {Verdict.ACCEPTED}, set(verdicts)
        sink.done.wait(60)
        return {"seconds": time.monotonic() - started}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
