"""Leads: the calls that somebody asks for."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from xml.sax.saxutils import escape


def fill_twiml(template: str, variables: dict[str, Any]) -> str:
    """Fill `{{name}}`."""
    for name, value in variables.items():
        template = template.replace("{{" + name + "}}", escape(str(value)))
    return template


def fill_answer_url(url: str, variables: dict[str, Any]) -> str:
    """Add the variables as query parameters."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(variables)}" if variables else url
