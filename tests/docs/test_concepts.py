"""docs/concepts.md says what each state and each number means: all of them, and no other."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from docs.pages import ROOT
from outbound.api.openapi_answers import Call, Run
from outbound.states import AttemptState, CallState, Outcome, RunStatus

PAGE = (ROOT / "docs/concepts.md").read_text()


def explained(column):
    """Read the words in the first column of the table with that heading."""
    table = PAGE.partition(f"| {column} |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| ([^|]*) \|", table, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`(\w+)`", cell)}


def section(title):
    return PAGE.partition(f"### {title}\n")[2]


@pytest.mark.parametrize(
    ("title", "states"), [("Run", RunStatus), ("Call", CallState), ("Attempt", AttemptState)]
)
def test_every_state_is_explained_and_drawn(title, states):
    table = section(title).partition("|---|---|\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(states)
    (drawn,) = re.findall(rf"^{title.lower()}  .*?(?:\n\n|```)", PAGE, re.MULTILINE | re.DOTALL)
    assert all(str(state) in drawn for state in states)


def test_every_outcome_is_explained():
    assert explained("`outcome`") == set(Outcome)


def test_every_reason_to_wait_is_explained():
    words, nothing = get_args(Call.model_fields["waiting_for"].annotation)
    assert explained("`waiting_for`") == set(get_args(words))
    assert nothing is type(None)


def test_every_number_of_a_run_is_explained():
    numbers = {name for name, field in Run.model_fields.items() if field.annotation is int}
    numbers -= {"concurrency"}  # a setting
    text = PAGE.partition("## Numbers")[2]
    assert all(f"`{name}`" in text for name in numbers | {"outcomes", "eta", "last_error"})
