"""Claim → place → record. The only module that calls `carrier.place`.

It knows no Dramatiq and no provider. Only `actors` imports it: nothing but a worker dials.
"""

from __future__ import annotations

import time
from uuid import UUID

import structlog

from outbound import claims, clock, db, logs, metrics, policy, runs
from outbound.carriers.base import Answer, Carrier, PlaceRequest, Verdict
from outbound.claims import Claim, ClaimedCall
from outbound.leads import fill_answer_url, fill_twiml
from outbound.node import Node
from outbound.recorder import Answered, Recorder
from outbound.senders import Senders
from outbound.timer import Timer
from outbound.turns import Turns

log = logs.get(__name__)

TURN = 100
"""Calls that an account may claim before others have their turn; two for each sender if that is
more, since a turn costs as much as ten calls. Its last claim may be of more, for one that is cut
short costs as much as a whole one: what is too much is taken off its next turn."""

WAIT_FOR_SENDER = 2.0
WAIT_FOR_ROOM = 0.5


class Dialer:
    """One process's means of dialling: senders, recorder, timer, and the carrier."""

    def __init__(self, node: Node, carrier: Carrier) -> None:
        self._node = node
        self._carrier = carrier
        self._senders = Senders(node.settings.senders, self._place)
        self._turns = Turns()
        self._too_many: dict[UUID, int] = {}
        self._recorder = Recorder(node, carrier.name)
        self._timer = Timer(node.doorbell.ring)

    def dial(self, account_id: UUID) -> int:
        """Dial what the account's limits allow now; returns how many calls were claimed."""
        if not self._turns.take(account_id):
            return 0
        goes_on = False  # after an error the leader rings, not at once and again and again
        try:
            total, goes_on = self._dial(account_id)
            return total
        finally:
            if self._turns.leave(account_id) or goes_on:
                self._node.doorbell.ring(account_id)

    def _dial(self, account_id: UUID) -> tuple[int, bool]:
        """Claim until nothing is due, or a turn is over: then there may be more."""
        runs.end_queued(self._node, account_id)
        total, scan = 0, 0
        turn = max(TURN, 2 * self._senders.size) - self._too_many.pop(account_id, 0)
        while total < turn:
            reserved = self._senders.reserve(WAIT_FOR_SENDER)
            if not reserved:
                break
            # With the senders in hand, so that nobody else fills the room meanwhile.
            if not self._recorder.wait_for_room(WAIT_FOR_ROOM):
                self._senders.give_back(reserved)
                return total, False  # the leader rings
            claim = self._claim(account_id, reserved, scan)
            total += len(claim.calls)
            if claim.ended:
                runs.advance(self._node, {claim.ended})
            scan = claims.SET_ASIDE if claim.aside else 0
            if not claim.calls and not claim.aside:
                self._wait_for_time(account_id, claim)
                return total, False
        if total > turn:
            self._too_many[account_id] = total - turn
        return total, True

    def _claim(self, account_id: UUID, reserved: int, scan: int) -> Claim:
        used = 0
        try:
            claim = claims.claim(self._node, self._carrier.name, account_id, reserved, scan)
            self._senders.send(claim.calls)
            used = len(claim.calls)
            return claim
        finally:
            self._senders.give_back(reserved - used)

    def _wait_for_time(self, account_id: UUID, claim: Claim) -> None:
        # What time alone holds back and falls due soon is this process's to wake; all else
        # is rung by whoever frees a slot, or by the leader.
        if claim.seen_at is None:
            return
        with db.reading(self._node.engine) as connection:
            seconds = claims.seconds_until_due(connection, account_id, claim.seen_at)
        if seconds is not None and 0 < seconds <= policy.RETRY_SOON:
            self._timer.ring_in(account_id, seconds)

    def _place(self, call: ClaimedCall) -> None:
        structlog.contextvars.clear_contextvars()
        while (wait := call.send_at - clock.boot_seconds()) > 0:
            time.sleep(wait)
        # The last look at the clock before the request. A pause between here and the socket
        # cannot be closed; such a late request belongs to this committed attempt all the same.
        needed = self._node.settings.carrier_timeout + self._node.settings.record_margin
        if call.lease_ends - clock.boot_seconds() < needed:
            metrics.LEASES_LOST.labels("unsent").inc()
            self._recorder.put(Answered(call, None, "lease too short to send"))
            return
        started = time.monotonic()
        answer = self._ask(call)
        metrics.carrier_answered(answer.verdict, time.monotonic() - started)
        self._recorder.put(Answered(call, answer))

    def _ask(self, call: ClaimedCall) -> Answer:
        try:
            request = self._request(call)
        except Exception as error:
            log.exception("request_not_built", attempt_id=str(call.attempt_id))
            return Answer(Verdict.NEVER_SENT, error=f"request not built: {type(error).__name__}")
        try:
            return self._carrier.place(request)
        except Exception as error:
            log.exception("carrier_raised", attempt_id=str(call.attempt_id))
            return Answer(Verdict.AMBIGUOUS, error=f"carrier raised {type(error).__name__}")

    def _request(self, call: ClaimedCall) -> PlaceRequest:
        base = self._node.settings.public_base_url
        return PlaceRequest(
            attempt_id=call.attempt_id,
            to=call.phone,
            caller_id=call.caller_id,
            callback_url=f"{base}/webhooks/{self._carrier.name}/{call.attempt_id}",
            ring_timeout=call.ring_timeout,
            max_call_duration=call.max_call_duration,
            twiml=fill_twiml(call.twiml, call.variables) if call.twiml else None,
            answer_url=fill_answer_url(call.answer_url, call.variables)
            if call.answer_url
            else None,
        )

    def close(self, seconds: float) -> bool:
        """Claim nothing more, let requests under way end, write their answers.

        Returns:
            False if something was left; its lease then runs out and a sweep calls it unknown.
        """
        deadline = time.monotonic() + seconds
        self._senders.stop()
        self._timer.close()
        sent = self._senders.close(seconds)
        return self._recorder.close(max(0.1, deadline - time.monotonic())) and sent
