"""A running system for the pages, and the list of what was not run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, fences
from processes import Up


@pytest.fixture(scope="session")
def clone() -> Iterator[Path]:
    """The project's directory as a reader has it after `make install` and `outbound up`."""
    # Not tmp_path: root's PostgreSQL runs as nobody, who must reach it.
    with tempfile.TemporaryDirectory(prefix="outbound-docs-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        for path in ROOT.iterdir():
            if path.name not in (".git", ".venv", ".outbound"):
                (directory / path.name).symlink_to(path)
        (directory / ".venv").symlink_to(sys.prefix)
        up = Up(directory / ".outbound").wait()
        yield directory
        up.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = [fence for page in PAGES for fence in fences(page) if fence.not_run is not None]
    terminalreporter.write_line(f"{len(left_out)} snippets of the pages are looked at and not run:")
    for fence in left_out:
        terminalreporter.write_line(f"  {fence.where}: {fence.not_run}")
