"""docs/cli.md lists the commands as they are."""

from docs.cli_page import page
from docs.pages import ROOT


def test_the_page_is_that_of_the_commands():
    wanted = "write it anew: python tests/docs/cli_page.py > docs/cli.md"
    assert (ROOT / "docs/cli.md").read_text() == page(), wanted
