"""JSON, and nothing but clean JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from outbound.errors import Refused

MAX_DEPTH = 10
MAX_VALUES = 8_000_000
"""More than 100,000 leads with 50 variables have, and what a process can hold in memory."""


def parse(body: bytes) -> Any:
    """Parse JSON strictly: UTF-8, no duplicate keys, NaN, infinities, NUL or lone surrogates.

    Raises:
        Refused: 400, with what is wrong and never the input; 413 for millions of tiny values.
    """
    _check_values(body)
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_float,
            parse_constant=_constant,
            parse_int=_int,
        )
    except UnicodeDecodeError:
        raise Refused("bad_json", "The body is not UTF-8.", 400) from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refused("bad_json", f"The body is not JSON: see {where}.", 400) from None
    _check_depth(value)
    if b"\\u" in body:  # only an escape can spell what UTF-8 itself cannot
        _check_strings(value)
    if b"\0" in body:
        raise Refused("bad_json", "The body contains a NUL.", 400)
    return value


def _check_values(body: bytes) -> None:
    # 64 MiB of `[],` would become 1.8 GB, and keep every other thread waiting for 20 s. The
    # marks inside strings count too: looking which those are would cost more than it saves.
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise Refused("too_large", f"The body may have {MAX_VALUES} values at most.", 413)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Refused("bad_json", "An object has the same key twice.", 400)
    return made


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise Refused("bad_json", "A number is too large.", 400)
    return number


def _int(digits: str) -> int:
    if len(digits) > 20:
        raise Refused("bad_json", "A number is too large.", 400)
    return int(digits)


def _constant(_: str) -> float:
    raise Refused("bad_json", "NaN and Infinity are not JSON.", 400)


def _too_deep() -> Refused:
    return Refused("bad_json", f"The body is nested more than {MAX_DEPTH} levels deep.", 400)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner for outer in level for inner in _inner(outer) if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_strings(value: Any) -> None:
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            _check_string(one)
        else:
            todo.extend(_inner(one))
            if isinstance(one, dict):
                todo.extend(one)


def _check_string(value: str) -> None:
    if "\0" in value:
        raise Refused("bad_json", "A string contains a NUL.", 400)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused("bad_json", "A string contains half a surrogate pair.", 400) from None
