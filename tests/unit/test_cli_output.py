"""What the command line prints: all of it, as it is, and without effect on the terminal."""

import json

import pytest

from outbound.cli.output import harmless, show

RUN = "01a20d0d-9166-7edf-93aa-5b833ebd6baa"


def printed(capsys, data, **known):
    show(data, **{"as_json": False, **known})
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["[urgent] renewals", "[/b]", "[red]x[/red]", ":smile:"])
def test_words_of_the_user_are_no_markup(capsys, name):
    assert name in printed(capsys, [{"name": name}], columns=["name"])


def test_nothing_is_shortened_to_the_width_of_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = printed(capsys, [{"run_id": RUN, "name": "n" * 100}], columns=["run_id", "name"])
    assert f"{RUN}  {'n' * 100}" in out.splitlines()


def test_columns_stand_under_their_names_also_in_wide_scripts(capsys):
    rows = [{"name": "דנה", "n": 1}, {"name": "日本", "n": 2}, {"name": None, "n": 3}]
    head, *lines = printed(capsys, rows, columns=["name", "n"]).splitlines()
    assert (head, lines) == ("name  n", ["דנה   1", "日本  2", "-     3"])


def test_no_rows_are_a_table_of_names(capsys):
    assert printed(capsys, [], columns=["run_id", "name"]) == "run_id  name\n"


def test_an_escape_sequence_in_a_name_does_not_reach_the_terminal(capsys):
    rows = [{"name": "a\x1b[2J\nb\u202e"}]
    assert printed(capsys, rows, columns=["name"]) == "name\na\\x1b[2J\\nb\\u202e\n"
    assert "\x1b" not in printed(capsys, rows[0])


def test_for_programs_the_same_is_json(capsys):
    data = {"name": "a\x1b[2J\n", "phone": "+97"}
    assert json.loads(printed(capsys, data, as_json=True)) == data


def test_plain_text_stays_as_it_is():
    assert harmless("Dana דנה 日本 [x] ö") == "Dana דנה 日本 [x] ö"
