"""Reading leads from a file: CSV, JSON Lines, or JSON."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
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
        return _strict(text)
    except json.JSONDecodeError as error:
        raise CommandError(f"{name} is not JSON: line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name} is not JSON that we take: {error}") from None


def _objects(text: str, name: str) -> dict[str, Any]:
    """One object is a whole body, or a single lead; several, a line each, are leads."""
    # Only \n ends a line: JSON may hold other separators of str.splitlines() in its strings.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _is_json(lines[0][1]):
        return {"leads": [_line(line, n, name) for n, line in lines]}
    whole = _json(text, name)
    return whole if "leads" in whole else {"leads": [whole]}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _line(line: str, number: int, name: str) -> Any:
    try:
        return _strict(line)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else error
        raise CommandError(f"{name} is not JSON Lines: line {number}: {why}") from None


def _strict(text: str) -> Any:
    """Refuse what the API would refuse, and what would be gone before the API sees it."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _csv(text: str, name: str) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows.fieldnames = _header(list(rows.fieldnames or []), name)
        return [_lead(row, rows.line_num, name) for row in rows]
    except csv.Error as error:
        raise CommandError(f"{name} is not CSV: line {rows.line_num or 1}: {error}") from None


def _header(columns: list[str], name: str) -> list[str]:
    header = [column.strip() for column in columns]
    if missing := {"lead_id", "phone"} - set(header):
        other = any(mark in "".join(header) for mark in ";\t")
        hint = "; separate columns by commas" if other else ""
        raise CommandError(
            f"{name} has no column {' and '.join(sorted(missing))} in its first line{hint}"
        )
    if twice := [column for column, n in Counter(header).items() if n > 1 and column]:
        raise CommandError(f"{name} has two columns {twice[0]} in its first line")
    return header


def _lead(row: dict[str, Any], line: int, name: str) -> dict[str, Any]:
    if None in row:
        raise CommandError(f"{name}: line {line} has more cells than the header")
    lead = {"lead_id": row.pop("lead_id") or "", "phone": row.pop("phone") or ""}
    variables = {column: value for column, value in row.items() if value}
    return lead | {"variables": variables} if variables else lead
