"""What lies outside: the URL that the carrier calls, and the carrier itself."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests

from outbound.carriers import base
from outbound.cli.checks import Finding, judge
from outbound.config import Settings

SECONDS = 5
MOST_CLOCK_SECONDS = 3
"""One more than for the database: the carrier tells whole seconds."""


def public_url(settings: Settings) -> Iterator[Finding]:
    """Look whether the carrier can reach us, as far as that can be told from here."""
    url = str(settings.public_base_url)
    yield judge(
        "public url",
        f"{url} is {'https on a public host' if _is_public(url) else 'not https on a public host'}",
        "set PUBLIC_BASE_URL to the https URL that the carrier reaches and signs",
        fine=_is_public(url),
        otherwise="warn",
    )
    yield _answer(url)


def _is_public(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    with suppress(ValueError):
        return parts.scheme == "https" and ipaddress.ip_address(host).is_global
    return parts.scheme == "https" and host != "localhost" and "." in host


def _answer(url: str) -> Finding:
    try:
        answer = requests.get(f"{url}/health/live", timeout=SECONDS, allow_redirects=False)
    except requests.exceptions.SSLError:
        mend = "serve a valid certificate with its whole chain there: the carrier wants one, too"
        return Finding("web", "fail", f"{url} is no https that can be trusted", mend)
    except requests.RequestException as error:
        mend = (
            "start `outbound web`, open the way to it; ignore this if only this host is kept from"
            " the public URL"
        )
        return Finding("web", "fail", f"{url} does not answer: {type(error).__name__}", mend)
    return judge(
        "web",
        f"{url} is {'Outbound' if _is_ours(answer) else _somebody_else(answer)}",
        "let PUBLIC_BASE_URL name `outbound web`, with its path and without a redirect",
        fine=_is_ours(answer),
    )


def _is_ours(answer: requests.Response) -> bool:
    with suppress(ValueError):
        return answer.status_code == 200 and answer.json() == {"status": "ok"}
    return False


def _somebody_else(answer: requests.Response) -> str:
    to = f" to {answer.headers['Location']}" if answer.is_redirect else ""
    return f"no Outbound server: /health/live answers {answer.status_code}{to}"


def carrier(settings: Settings) -> Iterator[Finding]:
    """Ask the carrier for a call that does not exist: it refuses credentials before that.

    Raises:
        CarrierUnavailable: it does not answer, or not us.
        ConfigError: a setting of its is missing.
    """
    if settings.carrier == "twilio":
        # First, since a clock far off is why a certificate is refused.
        yield from _clock(settings.twilio_api_base_url)
    bounded = replace(settings, carrier_timeout=min(settings.carrier_timeout, SECONDS))
    asked = base.load(bounded)
    asked.look_up("CA" + "0" * 32)
    yield Finding("carrier", "ok", f"{asked.name} takes our credentials")


def _clock(url: str) -> Iterator[Finding]:
    # A carrier that does not answer, or tells no time, is found by the request after this.
    with suppress(requests.RequestException, KeyError, ValueError):
        asked_at = time.time()
        answer = requests.head(url, timeout=SECONDS, allow_redirects=False)
        # Whole seconds, cut: the middle of the second, against the middle of the request.
        theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5
        off = abs(theirs - (asked_at + time.time()) / 2)
        yield judge(
            "carrier's clock",
            f"{off:.0f} s off the carrier's",
            "run NTP on this host and on the database's: look-ups find calls by their time",
            fine=off < MOST_CLOCK_SECONDS,
            otherwise="warn",
        )
