"""The ledger: an append-only file of JSON lines that survives a ``kill -9`` of the emulator.

A line is handed to the operating system with one ``os.write`` before anybody is told of what it
says. That outlives the process, not the machine: there is no ``fsync``, on purpose, as a
rehearsal needs the speed and loses no machine.

A line that was torn (by a kill within a write, or a full disk) stays where it is, ended by a
newline; it is skipped at the next start and counted. Nobody was ever told of it.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from .errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Ledger:
    """One process's hold of a ledger file.

    Args:
        path: The file; created, with its folder, if missing.

    Attributes:
        torn: How many unreadable lines ``replay`` skipped.

    Raises:
        EmulatorError: It cannot be opened, or another emulator holds it.
    """

    def __init__(self, path: Path) -> None:
        self.torn = 0
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmulatorError(f"ledger {path}: {error.strerror}") from error
        self._lock()
        self._mid_line = self._ends_mid_line()

    def append(self, row: Row) -> None:
        """Write one line, whole, or raise.

        Raises:
            OSError: The line is not (wholly) written: it does not count.
        """
        line = _encode(row).encode() + b"\n"
        if self._mid_line:
            line = b"\n" + line
        # Until the write is known to be whole, the next one must not continue its line.
        self._mid_line = True
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written to {self._path}")
        self._mid_line = False

    def replay(self) -> Iterator[Row]:
        """Read what was written so far, oldest first; unreadable lines are skipped."""
        with self._path.open("rb") as lines:
            for line in lines:
                row = _parse(line)
                if row is not None:
                    yield row
                elif line.strip():
                    self.torn += 1

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _lock(self) -> None:
        # Two emulators on one file would each miss the other's calls.
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise EmulatorError(f"ledger {self._path}: another emulator is using it") from None

    def _ends_mid_line(self) -> bool:
        size = os.fstat(self._file).st_size
        return size > 0 and os.pread(self._file, 1, size - 1) != b"\n"


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    # A torn line can happen to be valid JSON without being an object.
    return row if isinstance(row, dict) else None
