"""The pages for people, taken apart: their fences, words in code, links and headings.

A page may say about the fence below it, in comments that only its source shows:

    <!-- not run: REASON -->   the commands are looked at, and not executed
    <!-- first: COMMAND -->    what the reader has done by then, and the page does not tell
    <!-- prints: TEXT -->      TEXT is in what the fence prints
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "RELIABILITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PAGES = [page for page in PAGES if page.exists()]
SHELL = ("bash", "sh", "console")

_FENCE = re.compile(r"^ *```+ *(\w*)$")
_COMMENT = re.compile(r"^ *<!-- (not run|first|prints): *(.*?) *-->$")


@dataclass(frozen=True)
class Fence:
    """One fenced block; `first` is the number of its first line, below the fence."""

    page: Path
    first: int
    language: str
    lines: tuple[str, ...]
    not_run: str | None
    before: str
    prints: tuple[str, ...]

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.first}"

    @property
    def is_run(self) -> bool:
        return self.not_run is None and self.language in (*SHELL, "python")


def fences(page: Path) -> list[Fence]:
    """Read the fences of a page, each with the comments right above it."""
    found: list[Fence] = []
    said: list[tuple[str, str]] = []
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if comment := _COMMENT.match(line):
            said.append((comment[1], comment[2]))
        elif fence := _FENCE.match(line):
            inside = []
            for _, within in lines:
                if _FENCE.match(within):
                    break
                inside.append(within)
            about = {kind: text for kind, text in said if kind != "prints"}
            found.append(
                Fence(
                    page,
                    number + 1,
                    fence[1],
                    tuple(inside),
                    about.get("not run"),
                    about.get("first", ":"),
                    tuple(text for kind, text in said if kind == "prints"),
                )
            )
            said = []
        elif line.strip():
            assert not said, f"{page.name}:{number}: a comment about a fence, and no fence below it"
    return found


def prose(page: Path) -> str:
    """Read a page without its fences."""
    return re.sub(r"^( *```).*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """Read what stands between backticks; a line's end within is a blank."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    """Name the places of a page that a link can lead to, as GitHub does."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(fence: Fence) -> list[str]:
    """Read the command lines of a fence, each continued one as one line."""
    lines = fence.lines
    if fence.language == "console":
        lines = tuple(line.lstrip()[2:] for line in lines if line.lstrip().startswith(("$ ", "> ")))
    return "\n".join(lines).replace("\\\n", " ").splitlines()
