"""Leads: parse, validate, dedupe. One bad lead never sinks the others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit
from xml.sax.saxutils import escape

import phonenumbers

from outbound import e164

MAX_LEAD_ID = 128
MAX_PHONE = 64
MAX_VARIABLES = 50
MAX_VARIABLES_BYTES = 2048
MAX_TWIML = 4000
MAX_ANSWER_URL = 4000
"""Filled. A URL that the carrier refuses would look like an error about us, and stop all calls."""

_FIELDS = frozenset(("lead_id", "phone", "variables"))
# The spaces inside are stripped, not matched: two repeats that take the same characters need
# cubic time over a template of blanks.
_PLACEHOLDER = re.compile(r"\{\{([^{}]+)\}\}")
# 9.72E+11 lost its digits; 4930123456.0 gained one, and may be somebody else's valid number.
_MANGLED = re.compile(r"\d(?:[.,]\d+)?[eE]\+?\d+|^\s*'?\+?\d+[.,]0+\s*$")
# Digits of any script, and what people write between them. Letters would silently become
# digits, and an extension would silently be dropped.
_PHONE = re.compile(r"[\s\u200e\u200f\u202a-\u202e+()./\-\u2010-\u2015'\d]+")
_QUOTES = {'"': "&quot;", "'": "&apos;"}
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_write = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would build one for each lead
_MOST = 2**53  # beyond it PostgreSQL and Python write a number in different ways


@dataclass(frozen=True)
class Rejection:
    """A lead that is left out: where it stood in the body, and why."""

    index: int
    lead_id: str | None
    code: str

    @property
    def is_duplicate(self) -> bool:
        """Whether it is a later copy, rather than wrong in itself."""
        return self.code.startswith("duplicate_")


@dataclass
class Parsed:
    """The leads of one body.

    Attributes:
        accepted: (lead_id, phone in E.164, variables as JSON or None), in body order.
        rejections: the others, in body order.
    """

    accepted: list[tuple[str, str, str | None]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """How many later copies were left out."""
        return sum(one.is_duplicate for one in self.rejections)


@dataclass(frozen=True)
class _Template:
    """A template read once: filling it for each of 100,000 leads can take over a minute.

    Attributes:
        fixed: characters outside its placeholders.
        places: how often each name is to be filled in.
    """

    fixed: int
    places: Counter[str]


class BadLead(ValueError):
    """This lead cannot be accepted; the text is the code."""


def parse_leads(
    raw: Iterable[Any], *, region: str | None, twiml: str | None, answer_url: str | None = None
) -> Parsed:
    """Check every lead of a body.

    Args:
        raw: as they came, nothing checked.
        region: where national numbers belong, an ISO region or None.
        twiml: the run's template, whose placeholders each lead must fill.
        answer_url: the run's URL, to which each lead's variables are added.
    """
    parsed, lead_ids, phones = Parsed(), set(), set()
    template = _read_template(twiml) if twiml is not None else None
    for index, lead in enumerate(raw):
        try:
            lead_id, phone, variables = _check(lead, region, template, answer_url)
            _refuse_copy(lead_id in lead_ids, phone in phones)
        except BadLead as bad:
            parsed.rejections.append(Rejection(index, _id_of(lead), str(bad)))
        else:
            lead_ids.add(lead_id)
            phones.add(phone)
            parsed.accepted.append((lead_id, phone, variables))
    return parsed


def _refuse_copy(knows_id: bool, knows_phone: bool) -> None:
    if knows_id:
        raise BadLead("duplicate_lead_id")
    if knows_phone:
        raise BadLead("duplicate_phone")


def _id_of(lead: Any) -> str | None:
    given = lead.get("lead_id") if isinstance(lead, dict) else None
    return given if isinstance(given, str) and len(given) <= MAX_LEAD_ID else None


def _check(
    lead: Any, region: str | None, template: _Template | None, answer_url: str | None
) -> tuple[str, str, str | None]:
    if not isinstance(lead, dict):
        raise BadLead("invalid_lead")
    if not lead.keys() <= _FIELDS:
        raise BadLead("unknown_field")
    lead_id = lead.get("lead_id")
    if lead_id is None:
        raise BadLead("missing_lead_id")
    if not isinstance(lead_id, str) or not 1 <= len(lead_id) <= MAX_LEAD_ID:
        raise BadLead("invalid_lead_id")
    phone = parse_phone(lead.get("phone"), region)
    variables = lead.get("variables")
    stored = _check_variables(variables) if variables is not None else None
    if template is not None:
        _check_filled(template, variables or {})
    if answer_url and len(fill_answer_url(answer_url, variables or {})) > MAX_ANSWER_URL:
        raise BadLead("answer_url_too_long")
    return lead_id, phone, stored


def parse_phone(given: Any, region: str | None) -> str:
    """Make E.164 of what somebody wrote.

    Raises:
        BadLead: with the code; digits that a spreadsheet destroyed are refused, never guessed.
    """
    if given is None:
        raise BadLead("missing_phone")
    if not isinstance(given, str) or len(given) > MAX_PHONE:
        raise BadLead("invalid_phone")
    if e164.is_valid(given):
        return given
    if _MANGLED.search(given):
        raise BadLead("phone_mangled")
    if not _PHONE.fullmatch(given):
        raise BadLead("invalid_phone")
    try:
        number = phonenumbers.parse(given, region)
    except phonenumbers.NumberParseException as error:
        needs_region = error.error_type == error.INVALID_COUNTRY_CODE and "+" not in given
        raise BadLead("phone_needs_region" if needs_region else "invalid_phone") from None
    if number.extension or not phonenumbers.is_valid_number(number):
        raise BadLead("invalid_phone")
    return f"+{number.country_code}{phonenumbers.national_significant_number(number)}"


def _check_variables(variables: Any) -> str | None:
    if not isinstance(variables, dict) or len(variables) > MAX_VARIABLES:
        raise BadLead("invalid_variables")
    for name, value in variables.items():
        if not name or len(name) > MAX_LEAD_ID or not _is_plain(value):
            raise BadLead("invalid_variables")
    stored = _write(variables)
    if len(stored.encode()) > MAX_VARIABLES_BYTES:
        raise BadLead("variables_too_large")
    return stored if variables else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return abs(value) <= _MOST
    return value is None or isinstance(value, str)


def _read_template(twiml: str) -> _Template:
    names = (found.strip() for found in _PLACEHOLDER.findall(twiml))
    return _Template(len(_PLACEHOLDER.sub("", twiml)), Counter(names))


def _check_filled(template: _Template, variables: dict[str, Any]) -> None:
    length = template.fixed
    for name, places in template.places.items():
        if name not in variables:
            raise BadLead("missing_variable")
        value = _text(variables[name])
        if _NOT_XML.search(value):
            raise BadLead("invalid_variables")
        length += places * len(escape(value, _QUOTES))
    if length > MAX_TWIML:
        raise BadLead("twiml_too_long")


def fill_twiml(template: str, variables: dict[str, Any]) -> str:
    """Fill `{{name}}` with the lead's variables, escaped for XML."""
    if "{{" not in template:
        return template
    return _PLACEHOLDER.sub(
        lambda found: escape(_text(variables[found.group(1).strip()]), _QUOTES), template
    )


def fill_answer_url(url: str, variables: dict[str, Any]) -> str:
    """Add the lead's variables to the URL as query parameters, behind those that it has."""
    if not variables:
        return url
    parts = urlsplit(url)
    added = urlencode({name: _text(value) for name, value in variables.items()})
    query = f"{parts.query}&{added}" if parts.query else added
    return urlunsplit(parts._replace(query=query))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def copy_lines(leads: Iterable[tuple[str, str, str | None]]) -> Iterator[str]:
    """Write leads as lines of PostgreSQL's COPY text format, numbered in order."""
    for number, (lead_id, phone, variables) in enumerate(leads):
        stored = r"\N" if variables is None else copy_text(variables)
        yield f"{number}\t{copy_text(lead_id)}\t{phone}\t{stored}\n"


def copy_text(value: str) -> str:
    """Escape one value for COPY."""
    return value.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
