"""Calls and their events as Twilio's REST resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .clock import rfc2822, rfc2822_or_none
from .parcel import callback_form

if TYPE_CHECKING:
    from .calls import Call, Delivery

API: str = "/2010-04-01/Accounts"


def call_resource(call: Call, account_sid: str) -> dict[str, Any]:
    """Describe a call."""
    uri = f"{API}/{account_sid}/Calls/{call.sid}"
    order = call.order
    return {
        "sid": call.sid,
        "account_sid": account_sid,
        "api_version": "2010-04-01",
        "direction": "outbound-api",
        "to": order.to,
        "to_formatted": order.to,
        "from": order.from_,
        "from_formatted": order.from_,
        "status": call.rest_status,
        "date_created": rfc2822(call.accepted_at),
        "date_updated": rfc2822(call.since),
        "start_time": rfc2822_or_none(call.started_at),
        "end_time": rfc2822_or_none(call.ended_at),
        "duration": str(call.seconds_talked) if call.ended else None,
        "answered_by": _answered_by(call),
        "price": None,
        "price_unit": "USD",
        "queue_time": "0",
        "parent_call_sid": None,
        "phone_number_sid": None,
        "annotation": None,
        "forwarded_from": None,
        "group_sid": None,
        "caller_name": None,
        "trunk_sid": None,
        "uri": f"{uri}.json",
        "subresource_uris": {"events": f"{uri}/Events.json"},
    }


def _answered_by(call: Call) -> str | None:
    if call.answered_at is None or not call.order.detect_machine:
        return None
    return call.plan.behaviour.answered_by or "human"


def event_resources(call: Call, account_sid: str) -> list[dict[str, Any]]:
    """List the requests made to the client because of a call, oldest first.

    The first names the address of the call's instructions, if it has one, though the emulator
    never fetches it. Each callback that is over with follows, one that was lost on purpose too.
    As long as there is none, the status callback's address stands alone: it tells whose call
    this is, whatever became of the callbacks. A request that was not made has ``null`` for a
    ``response_code``.
    """
    order = call.order
    events = []
    if order.url:
        events.append(_event(order.method, order.url, {}, _response(None, "not fetched")))
    if order.status_callback:
        method, url = order.status_callback_method, order.status_callback.partition("#")[0]
        for delivery in call.deliveries:
            form = _told(call, delivery, account_sid)
            events.append(_event(method, url, form, _outcome(delivery)))
        if not call.deliveries:
            events.append(_event(method, url, {}, _response(None, "not sent yet")))
    return events


def _told(call: Call, delivery: Delivery, account_sid: str) -> dict[str, str]:
    form = callback_form(call, account_sid, status=delivery.status, sequence=delivery.sequence)
    return form | {"Timestamp": rfc2822(delivery.at)}


def _outcome(delivery: Delivery) -> dict[str, Any]:
    body = _response(delivery.http_status, delivery.result)
    return body | {"request_duration": delivery.took_ms, "date_created": rfc2822(delivery.at)}


def _response(code: int | None, result: str) -> dict[str, Any]:
    return {"response_code": code, "request_duration": 0, "emulator_result": result}


def _event(method: str, url: str, form: dict[str, str], response: dict[str, Any]) -> dict[str, Any]:
    request = {"method": method, "url": url, "parameters": form}
    return {"request": request, "response": response}
