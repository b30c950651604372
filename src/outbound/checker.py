"""The process that checks one big body for `apart`, and ends.

It imports as little as it can: starting is a part of each large run's time. Its answer goes out in
pieces, so that reading none of them keeps the other threads over there waiting.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from outbound import checking
from outbound.checking import Terms
from outbound.children import end_with
from outbound.errors import Refused
from outbound.leads import Parsed

NICENESS = 5
PIECE = 1000


def main() -> None:
    """Check one body."""
    end_with(int(sys.argv[1]), signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # as with a service's stop: the request goes on
    with contextlib.suppress(OSError):  # a service may be forbidden to
        os.nice(NICENESS)  # other requests first
    for part in _answers(*pickle.load(sys.stdin.buffer)):  # noqa: S301 - our own parent's
        pickle.dump(part, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


def _answers(body: bytes, terms: Terms) -> Iterator[Any]:
    try:
        checked = checking.check(body, terms)
    except Refused as refused:
        yield refused
    except Exception as error:  # noqa: BLE001 - told to our parent, which raises it
        yield _where(error)
    else:
        yield replace(checked, leads=Parsed())
        yield from _in_pieces(checked.leads.accepted)
        yield from _in_pieces(checked.leads.rejections)


def _where(error: BaseException) -> str:
    # Never its text, which may hold people's data.
    at = error.__traceback__
    while at and at.tb_next:
        at = at.tb_next
    line = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else "?"
    return f"{type(error).__name__} at {line}"


def _in_pieces(found: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(found), PIECE):
        yield found[first : first + PIECE]
    yield []


if __name__ == "__main__":
    main()
