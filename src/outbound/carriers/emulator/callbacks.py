"""Status callbacks: sent in order but not waited for, and tried again as Twilio does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .calls import Delivery
from .outbox import CannotConnectError, NoAnswerError, Outbox
from .parcel import Packer, Parcel

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from .book import Book
    from .calls import Call
    from .faults import Faults
    from .settings import EmulatorSettings


@dataclass(slots=True)
class _Outing:
    """A callback on its way."""

    call: Call
    parcel: Parcel
    delivery: Delivery


class Courier:
    """Delivers callbacks.

    Args:
        book: Where to note what became of them.
        faults: What goes wrong on purpose.
        settings: The account, the key and the retries.

    Attributes:
        forged: Forged callbacks: ``sent``, and ``accepted`` by the receiver, which is its bug.
    """

    def __init__(self, book: Book, faults: Faults, settings: EmulatorSettings) -> None:
        self.forged: Counter[str] = Counter()
        self._book = book
        self._faults = faults
        self._packer = Packer(settings.account_sid, settings.auth_token)
        self._sender = _Sender(settings)
        self._held: dict[str, _Outing] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> int:
        """How many callbacks are neither delivered nor given up."""
        return len(self._tasks) + len(self._held)

    def summary(self) -> dict[str, int]:
        """Count the callbacks."""
        results = {name: self._book.callbacks[name] for name in ("sent", "ok", "lost", "failed")}
        return results | {
            "retries": self._book.callbacks["retries"],
            "in_flight": self.in_flight,
            "forged": self.forged["sent"],
            "forged_accepted": self.forged["accepted"],
        }

    async def close(self) -> None:
        """Drop what is on its way: a stopped emulator tells nobody anything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sender.close()

    def report(self, call: Call) -> None:
        """Tell of a call's present status, if that was asked for."""
        if not call.reports:
            return
        delivery = Delivery(sequence=call.next_sequence - 1, status=call.status, at=call.since)
        if not call.plan.behaviour.calls_back:
            self._book.note(call, delivery)
        elif self._faults.hits_now("callbacks_lost"):
            delivery.faults = ("callbacks_lost",)
            self._book.note(call, delivery)
            self._release(call, None)
        else:
            self._dispatch(_Outing(call, self._packer.pack(call), delivery))

    def _dispatch(self, outing: _Outing) -> None:
        call = outing.call
        if self._faults.hits_now("callbacks_forged"):
            outing.delivery.faults += ("callbacks_forged",)
            self._spawn(self._send_forged(self._packer.forge(call)))
        if self._may_hold(call) and self._faults.hits_now("callbacks_reordered"):
            outing.delivery.faults += ("callbacks_reordered",)
            self._held[call.sid] = outing
        else:
            self._release(call, self._send_out(outing))

    def _may_hold(self, call: Call) -> bool:
        # Only one at a time, and only if a later one is certain to come and to release it.
        return not call.ended and "completed" in call.order.events and call.sid not in self._held

    def _release(self, call: Call, after: asyncio.Task[None] | None) -> None:
        outing = self._held.pop(call.sid, None)
        if outing is not None:
            self._send_out(outing, after)

    def _send_out(
        self, outing: _Outing, after: asyncio.Task[None] | None = None
    ) -> asyncio.Task[None]:
        wait = 0.0
        if self._faults.hits_now("callbacks_delayed"):
            outing.delivery.faults += ("callbacks_delayed",)
            wait = self._faults.seconds("callback_delay_seconds")
        twice = self._faults.hits_now("callbacks_doubled")
        if twice:
            outing.delivery.faults += ("callbacks_doubled",)
        at_once = 1
        if self._faults.hits_now("callbacks_tenfold"):
            outing.delivery.faults += ("callbacks_tenfold",)
            at_once = 10
        return self._spawn(self._deliver(outing, after, wait, twice=twice, at_once=at_once))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        # The loop itself keeps only a weak reference.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _deliver(
        self,
        outing: _Outing,
        after: asyncio.Task[None] | None,
        wait: float,
        *,
        twice: bool,
        at_once: int,
    ) -> None:
        if after is not None:
            await asyncio.wait([after])
        if wait:
            await asyncio.sleep(wait)
        copies = [_again(outing.delivery) for _ in range(at_once - 1)]
        await self._send(outing, [outing.delivery, *copies])
        if twice:
            await self._send(outing, [_again(outing.delivery)])

    async def _send(self, outing: _Outing, deliveries: list[Delivery]) -> None:
        sends = (self._sender.send(outing.parcel, delivery) for delivery in deliveries)
        await asyncio.gather(*sends)
        for delivery in deliveries:
            self._book.note(outing.call, delivery)

    async def _send_forged(self, parcel: Parcel) -> None:
        delivery = Delivery(sequence=0, status="", at=0.0)
        await self._sender.send(parcel, delivery)
        self.forged["sent"] += 1
        self.forged["accepted"] += delivery.result == "ok"


def _again(delivery: Delivery) -> Delivery:
    return Delivery(sequence=delivery.sequence, status=delivery.status, at=delivery.at)


class _Sender:
    """Makes the requests, a bounded number at once, each as often as its policy says."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._retry_delay = settings.callback_retry_delay
        self._total_seconds = settings.callback_total_seconds
        # Waiting here keeps the order, and does not count against the time limits.
        self._slots = asyncio.Semaphore(settings.callback_connections)
        self._outbox = Outbox()

    def close(self) -> None:
        self._outbox.close()

    async def send(self, parcel: Parcel, delivery: Delivery) -> None:
        """Try until it is taken or the policy is at its end; fill in the delivery."""
        began = time.monotonic()
        for retry in range(parcel.policy.retries + 1):
            verdict = await self._try(parcel, delivery)
            delay = self._retry_delay * 2**retry
            spent = time.monotonic() - began
            delivery.took_ms = round(spent * 1000)
            delivery.result = "ok" if verdict == "ok" else "failed"
            if verdict not in parcel.policy.after or spent + delay > self._total_seconds:
                return
            if retry < parcel.policy.retries:
                await asyncio.sleep(delay)

    async def _try(self, parcel: Parcel, delivery: Delivery) -> str:
        async with self._slots:
            delivery.tries += 1
            delivery.http_status = None
            try:
                delivery.http_status = await self._outbox.send(parcel)
            except CannotConnectError:
                return "ct"
            except NoAnswerError:
                return "rt"
        return _verdict(delivery.http_status)


def _verdict(http_status: int) -> str:
    if 200 <= http_status < 300:
        return "ok"
    return f"{http_status // 100}xx"
