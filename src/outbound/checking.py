"""What a run's body must be before anything of it is stored; without a database.

Nothing in here is slow to import: a big body is checked in a process of its own (apart.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from outbound import schemas, strict_json, urls
from outbound.errors import Fault, invalid
from outbound.leads import Parsed, parse_leads, parse_phone


@dataclass(frozen=True)
class Terms:
    """What the account and the settings say about a run.

    Attributes:
        region: where national numbers belong, None if they are not taken.
        caller_ids: the account's own, the first of them where a run names none.
        answer_url, twiml: for a run that has neither.
        private_answer_urls: whether a URL may point into a private network.
    """

    region: str | None
    caller_ids: list[str]
    answer_url: str | None
    twiml: str | None
    private_answer_urls: bool


@dataclass
class Checked:
    """A body that can be stored.

    Attributes:
        columns: of the run, as far as the body and the terms tell them.
        leads: accepted and rejected.
        refuses_duplicates: whether one lead that appears twice is to refuse the run.
        allows_twin: whether the same body may be stored twice.
    """

    columns: dict[str, Any]
    leads: Parsed
    refuses_duplicates: bool
    allows_twin: bool


def check(body: bytes, terms: Terms) -> Checked:
    """Check a request's body, and make of it what is stored.

    Raises:
        Refused: it is no JSON, or says something about the run that cannot be.
    """
    request = schemas.parse(schemas.RunRequest, strict_json.parse(body))
    columns = _columns(request, terms)
    leads = parse_leads(
        request.leads,
        region=terms.region,
        twiml=columns["twiml"],
        answer_url=columns["answer_url"],
    )
    return Checked(
        columns,
        leads,
        refuses_duplicates=request.on_duplicate == "reject",
        allows_twin=request.allow_duplicate,
    )


def _columns(request: schemas.RunRequest, terms: Terms) -> dict[str, Any]:
    now, faults = datetime.now(UTC), list[Fault]()
    start_at, expires_at = _times(request, now, faults)
    script = _script(request, terms, faults)
    caller_id = _caller_id(request, terms, faults)
    if faults:
        raise invalid(faults)
    return {
        "name": request.name,
        "status": "scheduled" if start_at else "pending",
        "concurrency": request.concurrency,
        "calls_per_second": request.calls_per_second,
        "caller_id": caller_id,
        **script,
        "ring_timeout": request.ring_timeout,
        "max_call_duration": request.max_call_duration,
        "max_attempts": request.retry.max_attempts,
        "retry_delay": request.retry.delay,
        "retry_on": request.retry.on,
        "on_unknown": request.on_unknown.action,
        "on_unknown_after": request.on_unknown.after,
        "start_at": start_at,
        "expires_at": expires_at,
        "metadata": request.metadata,
    }


def _times(
    request: schemas.RunRequest, now: datetime, faults: list[Fault]
) -> tuple[datetime | None, datetime | None]:
    start_at = _in_utc("start_at", request.start_at, faults)
    expires_at = _in_utc("expires_at", request.expires_at, faults)
    if expires_at and expires_at <= max(now, start_at or now):
        detail = "expires_at must be after now and after start_at."
        faults.append(Fault("#/expires_at", "too_early", detail))
    return start_at if start_at and start_at > now else None, expires_at


def _in_utc(name: str, at: datetime | None, faults: list[Fault]) -> datetime | None:
    # 9999-12-31T23:59-01:00 is year 10000 in UTC: PostgreSQL stores it, Python cannot read it
    # back, and then neither the run nor any list that contains it could be shown.
    try:
        return at.astimezone(UTC) if at else None
    except OverflowError:
        faults.append(Fault(f"#/{name}", "invalid_time", "Must lie in the years 1 to 9999 in UTC."))
        return None


def _script(
    request: schemas.RunRequest, terms: Terms, faults: list[Fault]
) -> dict[str, str | None]:
    url, twiml = request.answer_url, request.twiml
    if url and twiml:
        faults.append(Fault("#/twiml", "one_of", "Send answer_url or twiml, not both."))
    if not url and not twiml:
        url, twiml = terms.answer_url, terms.twiml
        if not url and not twiml:
            detail = "Send answer_url or twiml; the account has no default."
            faults.append(Fault("#/answer_url", "missing", detail))
    if url and (code := urls.check(url, allow_private=terms.private_answer_urls)):
        detail = "answer_url must be http(s) on a public host."
        faults.append(Fault("#/answer_url", code, detail))
    return {"answer_url": url, "twiml": twiml}


def _caller_id(request: schemas.RunRequest, terms: Terms, faults: list[Fault]) -> str | None:
    if not terms.caller_ids:
        detail = "The account has no caller ids yet; an admin adds them with PATCH account."
        faults.append(Fault("#/caller_id", "no_caller_id", detail))
        return None
    if request.caller_id is None:
        return terms.caller_ids[0]
    try:
        number = parse_phone(request.caller_id, terms.region)
    except ValueError:
        number = ""
    if number not in terms.caller_ids:
        detail = "caller_id must be one of the account's caller ids."
        faults.append(Fault("#/caller_id", "caller_id_not_allowed", detail))
    return number
