"""Every snippet of the pages is pasted into one shell a page, from top to bottom."""

from __future__ import annotations

import doctest
import json
import re
import shutil
import subprocess

import pytest

from docs.pages import PAGES, ROOT, SHELL, commands, fences
from processes import BARE

MARK = "\x1e"
"""Stands in the output where a fence or, of a console fence, a command begins."""
# LINENO and the error messages of the shell are the page's, since the script has its lines.
STRICT = (
    "trap 'echo \"$0:$LINENO: exit code $?: $BASH_COMMAND\" >&2' ERR; set -Eeuo pipefail; exec 2>&1"
)
WITH_CODE = [page for page in PAGES if any(fence.is_run for fence in fences(page))]


def script(page):
    """Write the page as a shell script: the same lines, empty where there is nothing to run."""
    lines = [""] * (len(page.read_text().splitlines()) + 1)
    lines[0] = STRICT
    for fence in fences(page):
        if not fence.is_run:
            continue
        top, below = fence.first - 1, fence.first - 1 + len(fence.lines)
        if fence.language == "python":
            lines[top - 1] = f"{_begin(fence)}; python3 - <<'PYTHON'"
            lines[top:below] = fence.lines
            lines[below] = "PYTHON"
            continue
        lines[top - 1] = _begin(fence)
        lines[top:below] = fence.lines
        if fence.language == "console":
            lines[top:below] = [_typed(fence.first + n, line) for n, line in enumerate(fence.lines)]
    return "\n".join(lines) + "\n"


def _begin(fence):
    return f"{fence.before}; printf '{MARK}{fence.first}\\n'"


def _typed(number, line):
    kind, text = line.lstrip()[:2], line.lstrip()[2:]
    if kind == "$ ":
        return f"printf '{MARK}{number}\\n'; {text}"
    return text if kind == "> " else ""


def outputs(printed):
    """Take the output apart: the number of a line → what was printed from there on."""
    parts = (part.partition("\n") for part in printed.split(MARK)[1:])
    return {int(number): text for number, _, text in parts}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
@pytest.mark.timeout(300)
def test_every_snippet_of_a_page_works_when_it_is_pasted(page, clone):
    place = clone / f"{page.name}.sh"
    place.write_text(script(page))
    environment = BARE | {"PATH": _without_ours(), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", place.name],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{page.name}, as far as it came:\n{done.stdout}"
    printed = outputs(done.stdout)
    for fence in fences(page):
        if fence.is_run:
            _holds_what_is_promised(fence, printed)


def _without_ours():
    """PATH without this test's own environment: a page has to say how it is found."""
    found = BARE["PATH"].split(":")
    return ":".join(place for place in found if not shutil.which("outbound", path=place))


def _holds_what_is_promised(fence, printed):
    whole = "".join(printed.get(fence.first + n, "") for n in range(len(fence.lines)))
    for text in fence.prints:
        assert text in whole, f"{fence.where} prints no {text!r}:\n{whole}"
    if fence.language != "console":
        return
    for number, shown in _shown(fence).items():
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if shown and not doctest.OutputChecker().check_output(shown, printed[number], flags):
            raise AssertionError(f"{fence.page.name}:{number} prints\n{printed[number]}")


def _shown(fence):
    """Read the output that a console fence shows for each of its commands."""
    shown, at = {}, 0
    for number, line in enumerate(fence.lines, fence.first):
        if line.lstrip().startswith("$ "):
            at = number
            shown[at] = ""
        elif not line.lstrip().startswith("> "):
            shown[at] += line.replace("…", "...") + "\n"
    return shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_called_json_is_json(page):
    for fence in fences(page):
        if fence.language == "json":
            try:
                json.loads("\n".join(fence.lines))
            except ValueError as wrong:
                raise AssertionError(f"{fence.where}: {wrong}") from None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_fences_that_are_run_or_say_why_not(page):
    for fence in fences(page):
        if fence.language not in SHELL:
            typed = [line for line in fence.lines if re.match(r" *(\$ )?(outbound|make) ", line)]
            assert not typed, f"{fence.where} is no ```bash: {typed[0]}"
        if fence.not_run is not None:
            assert len(fence.not_run.split()) > 2, f"{fence.where} gives no reason"
            assert fence.language in (*SHELL, "python"), f"{fence.where} would not be run anyway"


def test_most_commands_are_run():
    listed = [(fence, commands(fence)) for page in PAGES for fence in fences(page)]
    run = sum(len(lines) for fence, lines in listed if fence.is_run)
    left_out = sum(len(lines) for fence, lines in listed if fence.not_run is not None)
    assert left_out < run


def test_a_command_that_fails_is_told_with_its_page_line_and_output(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```bash\necho before\nls /nowhere \\\n  -l\n```\n")
    place = tmp_path / "page.md.sh"
    place.write_text(script(page))
    done = subprocess.run(["bash", place.name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "before" in done.stdout
    assert "cannot access '/nowhere'" in done.stdout
    assert re.search(r"page\.md\.sh:[56]: exit code 2: ls /nowhere -l", done.stdout)


def test_the_pages_that_are_meant_are_there():
    assert {"README.md", "RELIABILITY.md"} <= {page.name for page in PAGES}
    assert all(page.is_relative_to(ROOT) for page in PAGES)
