"""What the dashboards ask for, taken apart for the tests that hold it against what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DEPLOY = Path(__file__).parents[1] / "deploy"
METRICS = _DEPLOY / "dashboards" / "outbound-metrics.json"
LOGS = _DEPLOY / "dashboards" / "outbound-logs.json"

_NAME = re.compile(r"\boutbound_\w+")
_EVENT = re.compile(r'\bevent=~?"([^"]+)"')
_FIELDS = (
    re.compile(r"\| (\w+)\s*(?:=~|!=|=|>|<)"),
    re.compile(r"\bunwrap (\w+)"),
    re.compile(r"\{\{\.(\w+)\}\}"),
)
_BY = re.compile(r"\bby \(([^)]+)\)")


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return list(json.loads(dashboard.read_text())["panels"])


def expressions(dashboard: Path) -> Iterator[str]:
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield target["expr"]


def names_in(promql: str) -> set[str]:
    return set(_NAME.findall(promql))


def events_in(logql: str) -> set[str]:
    return {event for found in _EVENT.findall(logql) for event in found.split("|")}


def fields_in(logql: str) -> set[str]:
    """The fields of a line that a query reads."""
    found = {name for pattern in _FIELDS for name in pattern.findall(logql)}
    found |= {name.strip() for names in _BY.findall(logql) for name in names.split(",")}
    return found - {"__error__"}
