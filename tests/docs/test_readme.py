"""The README is short, and its figures are those of RELIABILITY.md."""

import re

from docs.pages import ROOT

README = (ROOT / "README.md").read_text()


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) < 120


def test_its_figures_stand_in_the_page_that_tells_how_they_were_made():
    table = README.partition("## The promise")[2].partition("\n\n`make chaos`")[0]
    figures = re.findall(r"\d[\d,.]*\d s?|\d[\d,.]*", table)
    measured = (ROOT / "RELIABILITY.md").read_text()
    assert len(figures) > 5
    assert [figure for figure in figures if figure.strip() not in measured] == []
