"""Reading leads from a file: CSV, JSON Lines, or JSON."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from outbound.cli.errors import CommandError

STANDARD_INPUT = "-"


def read_body(name: str) -> dict[str, Any]:
    """Read a file into a request body: a whole one, or one with just the leads.

    CSV needs a header with `lead_id` and `phone`; its other columns become variables.

    Raises:
        CommandError: the file cannot be read, with the line where it can be said.
    """
    text = _decode(_bytes(name))
    start = text.lstrip()[:1]
    if not start:
        raise CommandError(f"{name} is empty")
    if start == "[":
        return {"leads": _json(text, name)}
    if start == "{":
        return _objects(text, name)
    return {"leads": _csv(text, name)}


def _bytes(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from None


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CommandError(f"line {line} is not UTF-8; save the file as UTF-8") from None


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandError(f"{name} is not JSON: line {error.lineno}: {error.msg}") from None


def _objects(text: str, name: str) -> dict[str, Any]:
    """One object is a whole body, or a single lead; several, a line each, are leads."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        return {"leads": [_line(line, n, name) for n, line in lines]}
    return whole if "leads" in whole else {"leads": [whole]}


def _line(line: str, number: int, name: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise CommandError(f"{name} is not JSON Lines: line {number}: {error.msg}") from None


def _csv(text: str, name: str) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    header = [column.strip() for column in rows.fieldnames or []]
    if missing := {"lead_id", "phone"} - set(header):
        raise CommandError(
            f"{name} has no column {' and '.join(sorted(missing))} in its first line"
        )
    rows.fieldnames = header
    try:
        return [_lead(row, rows.line_num, name) for row in rows]
    except csv.Error as error:
        raise CommandError(f"{name} is not CSV: line {rows.line_num}: {error}") from None


def _lead(row: dict[str, Any], line: int, name: str) -> dict[str, Any]:
    if None in row:
        raise CommandError(f"{name}: line {line} has more cells than the header")
    lead = {"lead_id": row.pop("lead_id") or "", "phone": row.pop("phone") or ""}
    variables = {column: value for column, value in row.items() if value}
    return lead | {"variables": variables} if variables else lead
