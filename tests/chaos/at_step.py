"""Starts one of our real processes, and lets it send itself a signal at one exact point.

    python tests/chaos/at_step.py --at outbound.claims:claim --when before-commit -- worker

Production code knows nothing of this. The code object of a named function is replaced by one
that looks for an order before and after it runs the original: that works wherever the function
was imported to, on every thread and in the web server's forked workers, and costs one failing
open() a pass. `before-commit` and `after-commit` are the first COMMIT while the function is on
the thread's stack.

An order is a file, named by OUTBOUND_AT_STEP. Who passes its point takes the file away and
fires, so it fires once, whatever forks and threads there are; the test may write the next one.
Right before the signal a line is added to the file's `.fired`: a step that never fired shows.

Most of a start is imports. With `--nest` this process does them once, and then forks a process
of ours for each line of its input; see Nest in lane.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import types
from collections import Counter
from pathlib import Path
from typing import Any

ORDER = "OUTBOUND_AT_STEP"
WHENS = ("before", "before-commit", "after-commit", "after")
_COMMIT = "sqlalchemy.engine.default:DefaultDialect.do_commit"

_originals: dict[str, types.FunctionType] = {}
_on_stack = threading.local()
_passes: Counter[str] = Counter()


def write_order(
    path: Path,
    at: str,
    when: str,
    *,
    nth: int = 1,
    name: str = "KILL",
    about: str | None = None,
    parent: bool = False,
) -> None:
    """Order the process that `path` belongs to to signal itself there, once.

    `about` picks the passes with an argument of that name (one sweep of many); with `parent`
    its parent gets the signal first.
    """
    order = {"at": at, "when": when, "nth": nth, "signal": name, "about": about, "parent": parent}
    # Told apart from an equal order before it, since its passes are counted anew.
    text = json.dumps(order | {"written": time.time_ns()})
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)


def fired(path: Path) -> list[dict[str, Any]]:
    """Read what fired so far of the orders at `path`."""
    try:
        return [json.loads(line) for line in path.with_suffix(".fired").read_text().splitlines()]
    except FileNotFoundError:
        return []


def watch(at: str) -> None:
    """Have every pass of this function look for an order."""
    if at in _originals:
        return
    module, _, name = at.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    code = found.__code__
    if code.co_freevars:
        raise SystemExit(f"{at} has a closure, which its code cannot be replaced with")
    original = types.FunctionType(code, found.__globals__, found.__name__, found.__defaults__)
    original.__kwdefaults__ = found.__kwdefaults__
    _originals[at] = original
    space: dict[str, Any] = {}
    # It runs among the names of its own module, so it brings along whatever it needs.
    exec(  # noqa: S102
        f"def {found.__name__}(*args, **named):\n"
        f"    import sys\n"
        f"    return sys.modules['at_step'].through({at!r}, args, named)\n",
        space,
    )
    found.__code__ = space[found.__name__].__code__


def through(at: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Run the original of a watched function, and fire before or after it if so ordered."""
    stack = _on_stack.__dict__.setdefault("stack", [])
    passing = [*stack, (at, args)] if at == _COMMIT else [(at, args)]
    suffix = "-commit" if at == _COMMIT else ""
    for point, given in passing:
        _fire_if_ordered(point, f"before{suffix}", given)
    stack.append((at, args))
    try:
        result = _originals[at](*args, **named)
    finally:
        stack.pop()
    for point, given in passing:
        _fire_if_ordered(point, f"after{suffix}", given)
    return result


def _fire_if_ordered(at: str, when: str, args: tuple[Any, ...]) -> None:
    path = os.environ[ORDER]
    try:
        with open(path) as file:  # noqa: PTH123 - each pass comes here
            text = file.read()
    except FileNotFoundError:
        return
    order = json.loads(text)
    if (order["at"], order["when"]) != (at, when):
        return
    if order["about"] and order["about"] not in [getattr(arg, "name", None) for arg in args]:
        return
    _passes[text] += 1
    if _passes[text] < order["nth"]:
        return
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return  # another thread or process took it
    _note(path, order)
    number = signal.Signals[f"SIG{order['signal']}"]
    if order["parent"]:
        os.kill(os.getppid(), number)
    # To this very thread: a SIGSTOP to the process may stop another thread first, and this one
    # some 50 ms after its point.
    signal.pthread_kill(threading.get_ident(), number)


def _note(path: str, order: dict[str, Any]) -> None:
    line = json.dumps(order | {"pid": os.getpid(), "time": time.time()}) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    file = os.open(Path(path).with_suffix(".fired"), flags, 0o600)
    os.write(file, line.encode())
    os.fsync(file)
    os.close(file)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", help="module:function; without it, every function of the table")
    parser.add_argument("--when", choices=WHENS, default="before")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--signal", choices=("KILL", "STOP"), default="KILL")
    parser.add_argument("--about", help="only with an argument of that name, such as a sweep")
    parser.add_argument("--nest", action="store_true", help="fork what stdin asks for")
    parser.add_argument("command", nargs="*", help="after --, as for `outbound`")
    return parser.parse_args()


def _main() -> None:
    asked = _arguments()
    sys.modules["at_step"] = sys.modules["__main__"]
    watch(_COMMIT)
    if asked.nest:
        _nest()
        return
    path = os.environ.setdefault(ORDER, str(Path(tempfile.mkdtemp()) / "order"))
    if asked.at:
        watch(asked.at)
        options = {"nth": asked.nth, "name": asked.signal, "about": asked.about}
        write_order(Path(path), asked.at, asked.when, **options)
    else:
        _watch_the_table()
    _run(asked.command)


def _watch_the_table() -> None:
    from steps import PAUSES, STEPS

    for at in sorted({one.at for one in (*STEPS, *PAUSES) if one.at}):
        watch(at)


def _run(command: list[str]) -> None:
    from outbound.cli import main

    main(command)


def _nest() -> None:
    import outbound.api.server
    import outbound.worker  # noqa: F401 - what a start would import

    _watch_the_table()
    # The children are nobody's to wait for; whoever asked for one watches it by its pidfd.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _hatch(asked)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _hatch(asked: dict[str, Any]) -> None:
    code: Any = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ |= asked["environment"]
        output = os.open(asked["output"], os.O_WRONLY)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _run(asked["command"])
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - nobody above it but the nest's own loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _main()
