"""A status callback as it goes over the wire: its form, its signature, its headers."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote_plus

from twilio.request_validator import RequestValidator

from .calls import TERMINAL
from .clock import rfc2822
from .retry import RetryPolicy

if TYPE_CHECKING:
    from .calls import Call

# Real Twilio sends these too, mostly without a value; a receiver that drops blank fields before
# it checks the signature fails here as it would there.
_BLANK: Final = dict.fromkeys(
    [
        f"{who}{what}"
        for who in ("Called", "Caller", "From", "To")
        for what in ("City", "Country", "State", "Zip")
    ],
    "",
)


_BLANK_ENCODED: Final = "".join(f"&{name}=" for name in _BLANK)

# The same few phones, dates and numbers come again and again; the names need no quoting.
_quote = lru_cache(maxsize=8192)(quote_plus)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One request to make, again and again until it is taken.

    Attributes:
        method: GET or POST.
        url: The address, without a fragment; for a GET with the form as its query.
        form: The encoded body; empty for a GET.
        headers: With the signature and the token that a callback's retries share.
        policy: When to try again.
    """

    method: str
    url: str
    form: str
    headers: dict[str, str]
    policy: RetryPolicy


def callback_form(call: Call, account_sid: str, *, status: str, sequence: int) -> dict[str, str]:
    """Fill in the form that tells of a call's coming into a status, just now."""
    order = call.order
    form = {
        "AccountSid": account_sid,
        "ApiVersion": "2010-04-01",
        "CallSid": call.sid,
        "CallStatus": status,
        "CallbackSource": "call-progress-events",
        "Called": order.to,
        "Caller": order.from_,
        "Direction": "outbound-api",
        "From": order.from_,
        "SequenceNumber": str(sequence),
        "Timestamp": rfc2822(call.since),
        "To": order.to,
    }
    if status in ("in-progress", "completed") and order.detect_machine:
        form["AnsweredBy"] = call.plan.behaviour.answered_by or "human"
    return form | _ending(call, status) | _BLANK


def _ending(call: Call, status: str) -> dict[str, str]:
    if status not in TERMINAL:
        return {}
    seconds = call.seconds_talked
    return {
        "CallDuration": str(seconds),
        # Minutes, begun ones counting: Twilio's billing unit.
        "Duration": str(-(-seconds // 60)),
        "SipResponseCode": str(_sip_code(call, status)),
    }


def _sip_code(call: Call, status: str) -> int:
    if status in ("canceled", "no-answer"):
        return 487
    return call.plan.behaviour.sip_code


def _encode(form: dict[str, str]) -> str:
    # The blank half is always the same, and there are thousands of these a second.
    told = (f"{name}={_quote(form[name])}" for name in form if name not in _BLANK)
    return "&".join(told) + _BLANK_ENCODED


class Packer:
    """Makes signed parcels.

    Args:
        account_sid: Whose calls they tell of.
        auth_token: The key of the signatures.
    """

    def __init__(self, account_sid: str, auth_token: str) -> None:
        self._account_sid = account_sid
        self._validator = RequestValidator(auth_token)
        self._forger = RequestValidator(auth_token[::-1] + "x")

    def pack(self, call: Call) -> Parcel:
        """Pack the callback about a call's present status."""
        return self._pack(call, call.status, self._validator)

    def forge(self, call: Call) -> Parcel:
        """Pack a lie about a call, signed with another key."""
        lie = "failed" if call.status == "completed" else "completed"
        return self._pack(call, lie, self._forger)

    def _pack(self, call: Call, status: str, signer: RequestValidator) -> Parcel:
        order = call.order
        address = order.status_callback or ""
        form = callback_form(
            call, self._account_sid, status=status, sequence=call.next_sequence - 1
        )
        url, _, fragment = address.partition("#")
        body = _encode(form)
        if order.status_callback_method == "GET":
            url, body, form = f"{url}{'&' if '?' in url else '?'}{body}", "", {}
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "X-Twilio-Signature": signer.compute_signature(url, form),
            "I-Twilio-Idempotency-Token": str(uuid.uuid4()),
        }
        policy = RetryPolicy.from_fragment(fragment)
        return Parcel(order.status_callback_method, url, body, headers, policy)
