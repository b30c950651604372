"""The picture of the layers in docs/architecture.md is that of the imports."""

from __future__ import annotations

import re
from collections import Counter

import grimp
import pytest

from docs.pages import ROOT, fences

PAGE = ROOT / "docs/architecture.md"


@pytest.fixture(scope="module")
def rows():
    """From top to bottom; each row's boxes with their modules."""
    (picture,) = [fence for fence in fences(PAGE) if fence.language == "text"]
    found = [{}]
    for line in picture.lines:
        if line.startswith("─"):
            found.append({})
        else:
            box, modules = re.split(r"\s{2,}", line, maxsplit=1)
            found[-1][box] = modules.split(" · ")
    return found


@pytest.fixture(scope="module")
def imports():
    """Pairs of our modules, one importing the other; packages count as one."""
    graph = grimp.build_graph("outbound")
    return {
        (name.split(".")[1], imported.split(".")[1])
        for name in graph.modules - {"outbound"}
        for imported in graph.find_modules_directly_imported_by(name) - {"outbound"}
        if name.split(".")[1] != imported.split(".")[1]
    }


def test_every_module_is_in_the_picture_once(rows):
    drawn = Counter(module for row in rows for modules in row.values() for module in modules)
    source = ROOT / "src/outbound"
    there = {path.stem for path in source.glob("*.py")} - {"__init__"}
    there |= {path.parent.name for path in source.glob("*/__init__.py")}
    assert drawn == Counter(there)


def test_every_import_goes_down_or_stays_in_its_box(rows, imports):
    place = {
        module: (depth, box)
        for depth, row in enumerate(rows)
        for box, modules in row.items()
        for module in modules
    }
    against = [
        f"{name} → {imported}"
        for name, imported in imports
        if place[name] != place[imported] and place[name][0] >= place[imported][0]
    ]
    assert not against


def test_every_box_has_its_paragraph_and_no_other_is_described(rows):
    boxes = [box for row in rows for box in row]
    assert re.findall(r"^\*\*([a-z ]+)\*\*:", PAGE.read_text(), re.MULTILINE) == boxes
