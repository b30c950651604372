"""Having a big body checked by a process of its own, while this one goes on answering.

100,000 leads take seconds of Python. In a thread they would hold up every other request, since
one thread at a time runs Python. A process for each body, started by `exec` and never by a fork of
ours: there is none to keep, to watch or to start again, and its memory goes with it.

We send it the terms and the body, and it sends back what it made of them (checker.py).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, cast

from outbound import logs
from outbound.checking import Checked, Terms
from outbound.errors import Refused, Unavailable

log = logs.get(__name__)

BIG = 512 * 1024
"""Bytes, some 5,000 leads: below it a thread is done sooner than a process has started."""
AT_ONCE, WAITING = 2, 2
"""Big bodies that one web process takes in, and that wait for it: a quarter of its threads."""
WAIT_SECONDS, CHECK_SECONDS = 20, 60

_places = threading.BoundedSemaphore(AT_ONCE)
_line = threading.BoundedSemaphore(AT_ONCE + WAITING)


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Have one of the few places for big bodies, until this one is stored.

    Raises:
        Unavailable: all are taken, and stay so for as long as we may wait.
    """
    with _held(_line, 0), _held(_places, WAIT_SECONDS):
        yield


@contextlib.contextmanager
def _held(places: threading.BoundedSemaphore, seconds: float) -> Iterator[None]:
    if not places.acquire(timeout=seconds):
        detail = "Other large runs are being taken in; nothing was stored."
        raise Unavailable(detail, retry_after=10)
    try:
        yield
    finally:
        places.release()


def check(body: bytes, terms: Terms) -> Checked:
    """Do as checking.check(), elsewhere.

    Raises:
        Refused: as there.
        Unavailable: that process ended before it was done.
    """
    try:
        with _child() as child:
            return _ask(child, body, terms)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        log.warning("check_process_ended", error=type(error).__name__)
        detail = "The process that checked the leads has ended; nothing was stored."
        raise Unavailable(detail, retry_after=5) from error


@contextlib.contextmanager
def _child() -> Iterator[subprocess.Popen[bytes]]:
    child = _start()
    limit = threading.Timer(CHECK_SECONDS, child.kill)
    limit.start()
    try:
        yield child
    finally:
        limit.cancel()
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # what it never read cannot be written now
                cast(IO[bytes], pipe).close()


def _start() -> subprocess.Popen[bytes]:
    # No preexec_fn: Python code between fork and exec can hang where other threads run.
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "outbound.checker", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the server, which finishes this request first
    )


def _ask(child: subprocess.Popen[bytes], body: bytes, terms: Terms) -> Checked:
    given, told = cast(IO[bytes], child.stdin), cast(IO[bytes], child.stdout)
    pickle.dump((body, terms), given, pickle.HIGHEST_PROTOCOL)
    given.close()
    answer = pickle.load(told)  # noqa: S301 - our own program's
    if isinstance(answer, Checked):
        answer.leads.accepted.extend(_pieces(told))
        answer.leads.rejections.extend(_pieces(told))
        return answer
    if isinstance(answer, Refused):
        raise answer
    raise AssertionError(f"checking failed: {answer}")


def _pieces(stream: IO[bytes]) -> Iterator[Any]:
    while piece := pickle.load(stream):  # noqa: S301 - our own program's
        yield from piece
