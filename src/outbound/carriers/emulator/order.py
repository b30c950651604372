"""An order for a call: the form of a create, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urldefrag, urlsplit

from .behaviours import INVALID_CALLER
from .problems import Refusal

if TYPE_CHECKING:
    from collections.abc import Collection

EVENTS: Final = ("initiated", "ringing", "answered", "completed")

_PHONE: Final = re.compile(r"\+[1-9]\d{6,14}")
_LOOKS: Final = str.maketrans("", "", " -().")
_WEB: Final = re.compile(r"https?://[\x21-\x7e]+", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,6}")
_MAX_TWIML: Final = 4000
_MAX_FIELDS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a create asked for.

    Attributes:
        to: The phone to call.
        from_: The caller id.
        url: Where the call's instructions are; never fetched by the emulator.
        method: How they would be fetched.
        status_callback: Where to report to, with its fragment.
        status_callback_method: How to report.
        events: What to report.
        timeout: How long to let it ring, in seconds.
        time_limit: How long the call may last, in seconds.
        detect_machine: Whether ``AnsweredBy`` was asked for.
    """

    to: str
    from_: str
    url: str | None = None
    method: str = "POST"
    status_callback: str | None = None
    status_callback_method: str = "POST"
    events: tuple[str, ...] = ("completed",)
    timeout: int = 60
    time_limit: int = 14_400
    detect_machine: bool = False

    @property
    def attempt_id(self) -> str | None:
        """The last segment of the status callback's path: the client's own tag."""
        if self.status_callback is None:
            return None
        return urlsplit(self.status_callback).path.rstrip("/").rpartition("/")[2] or None


def parse_form(body: bytes) -> dict[str, list[str]]:
    """Read a form-encoded body; blank fields are kept.

    Raises:
        Refusal: There are too many fields.
    """
    try:
        return parse_qs(
            body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS
        )
    except ValueError:
        raise Refusal(20001, f"more than {_MAX_FIELDS} fields") from None


def parse_order(form: dict[str, list[str]], caller_ids: Collection[str]) -> Order:
    """Check a create's form, in the order in which Twilio does.

    Args:
        form: The form's fields.
        caller_ids: The numbers a call may come from; none given, any is taken.

    Raises:
        Refusal: Something is missing or wrong.
    """
    return Order(
        to=_phone(form, "To", missing=21201, invalid=21211),
        from_=_caller(form, caller_ids),
        url=_instructions(form),
        method=_method(form, "Method"),
        status_callback=_callback(form),
        status_callback_method=_method(form, "StatusCallbackMethod"),
        events=_events(form),
        timeout=_seconds(form, "Timeout", 60, 600),
        time_limit=_seconds(form, "TimeLimit", 14_400, 86_400),
        detect_machine=bool(_first(form, "MachineDetection")),
    )


def _first(form: dict[str, list[str]], name: str) -> str:
    return form.get(name, [""])[0].strip()


def _phone(form: dict[str, list[str]], name: str, *, missing: int, invalid: int) -> str:
    text = _first(form, name)
    if not text:
        raise Refusal(missing)
    phone = text.translate(_LOOKS)
    if not _PHONE.fullmatch(phone):
        raise Refusal(invalid, text)
    return phone


def _caller(form: dict[str, list[str]], caller_ids: Collection[str]) -> str:
    caller = _phone(form, "From", missing=21213, invalid=21212)
    if caller == INVALID_CALLER:
        raise Refusal(21212, caller)
    if caller_ids and caller not in caller_ids:
        raise Refusal(21210, caller)
    return caller


def _instructions(form: dict[str, list[str]]) -> str | None:
    url, twiml = _first(form, "Url"), _first(form, "Twiml")
    if not (url or twiml):
        raise Refusal(21205, "one of Url and Twiml is required")
    if url and not is_web_address(url):
        raise Refusal(21205, url)
    if len(twiml) > _MAX_TWIML:
        raise Refusal(20001, f"Twiml is longer than {_MAX_TWIML} characters")
    return url or None


def _callback(form: dict[str, list[str]]) -> str | None:
    url = _first(form, "StatusCallback")
    if url and not is_web_address(url):
        raise Refusal(21609, url)
    return url or None


def is_web_address(url: str) -> bool:
    """Tell whether Twilio could call this: absolute, encoded, no underscore in the host."""
    if not _WEB.fullmatch(url):
        return False
    try:
        parts = urlsplit(urldefrag(url).url)
        return bool(parts.hostname) and "_" not in str(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _method(form: dict[str, list[str]], name: str) -> str:
    method = _first(form, name).upper() or "POST"
    if method not in ("GET", "POST"):
        raise Refusal(20001, f"{name} must be GET or POST")
    return method


def _events(form: dict[str, list[str]]) -> tuple[str, ...]:
    # Twilio only warns of an unknown event; some clients send all of them in one field.
    asked = {word for value in form.get("StatusCallbackEvent", []) for word in value.split()}
    return tuple(event for event in EVENTS if event in asked) or ("completed",)


def _seconds(form: dict[str, list[str]], name: str, default: int, most: int) -> int:
    text = _first(form, name)
    if not text:
        return default
    if not (_DIGITS.fullmatch(text) and 0 < int(text) <= most):
        raise Refusal(20001, f"{name} must be from 1 to {most} seconds")
    return int(text)
