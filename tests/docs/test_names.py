"""What the pages name exists: commands, options, targets, files, variables, links."""

from __future__ import annotations

import re

import click
import pytest

from docs.pages import PAGES, ROOT, SHELL, anchors, commands, fences, prose, spans
from outbound.carriers.emulator import __main__ as emulator
from outbound.cli import cli
from outbound.config import VARIABLES

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

TO_BE_WRITTEN = {ROOT / "docs/api.md"}
"""Pages that may be linked to before they are there."""
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FILES = [
    str(path.relative_to(ROOT))
    for top in (ROOT / name for name in ("src", "tests", "docs", "deploy"))
    for path in top.rglob("*")
] + [path.name for path in ROOT.iterdir()]


def said(page):
    """Read all code of a page: spans and command lines, each with where it stands."""
    found = [(page.name, span) for span in spans(page)]
    for fence in fences(page):
        if fence.language in SHELL:
            found += [(fence.where, line) for line in commands(fence)]
    return found


def called(text, program):
    """Read the words that follow a program's name in a line of shell."""
    pattern = rf"(?:^|[\s(;&|/]){program} ([^|;&)#]+)"
    return [match.split() for match in re.findall(pattern, text)]


def options_of(command):
    if command.name == "emulator":  # reads its own
        return set(re.findall(r"--?[a-z-]+", emulator._parser().format_help()))
    parameters = command.get_params(click.Context(command))
    return {"-h", "--help"} | {name for one in parameters for name in one.opts}


def check_command(where, words):
    command = cli
    while words and isinstance(command, click.Group) and re.match(r"[a-z]", words[0]):
        name, *words = words
        command = command.get_command(click.Context(command), name)
        assert command, f"{where}: no command outbound … {name}"
    for word in words:
        if option := re.match(r"--?[a-z][a-z-]*", word):
            assert option[0] in options_of(command), f"{where}: {command.name} has no {option[0]}"


@each_page
def test_every_command_and_option_that_is_named_exists(page):
    for where, text in said(page):
        for words in called(text, "outbound"):
            check_command(where, words)


@each_page
def test_every_target_of_make_that_is_named_exists(page):
    for where, text in said(page):
        for words in called(text, "make"):
            for word in words:
                assert "=" in word or word in TARGETS, f"{where}: make {word}"


@each_page
def test_every_file_that_is_named_is_there(page):
    for where, text in said(page):
        for name in re.findall(r"(?<![\w./-])(?:deploy|tests|docs|src)/[\w./-]*\w", text):
            assert (ROOT / name).exists(), f"{where}: {name}"
        if re.fullmatch(r"[\w/]+\.(py|md|toml)", text):
            assert any(f"/{file}".endswith(f"/{text}") for file in FILES), f"{where}: {text}"


@each_page
def test_every_variable_that_is_named_is_ours(page):
    ours = {name for name, _, _ in VARIABLES.values()} | read_by_the_tests()
    named = set(re.findall(r"\b(?:OUTBOUND|TWILIO)_[A-Z_]+\b|\b[A-Z]+_URL\b", page.read_text()))
    assert named <= ours


def read_by_the_tests():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    return {
        name
        for text in texts
        for name in re.findall(r"environ(?:\.get\(|\[)\"(OUTBOUND_[A-Z_]+)\"", text)
    }


@each_page
def test_every_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", prose(page)):
        if "://" in target:
            continue
        linked = (page.parent / target).resolve() if target else page
        if linked in TO_BE_WRITTEN and not linked.exists():
            continue
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}#{anchor}"
