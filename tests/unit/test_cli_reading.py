"""Files that people really have: each is read whole, or refused with the place of the fault."""

import json

import pytest

from outbound.cli.errors import CommandError
from outbound.cli.reading import read_body


def read(tmp_path, text):
    path = tmp_path / "leads"
    path.write_bytes(text.encode())
    return read_body(str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param('"lead_id,phone\na,b\n', "not CSV: line 1", id="a quote never closed"),
        pytest.param("lead_id,phone,phone\na,1,2\n", "two columns phone", id="column twice"),
        pytest.param("lead_id;phone\na;b\n", "separate columns by commas", id="semicolons"),
        pytest.param("lead_id\tphone\na\tb\n", "separate columns by commas", id="tabs"),
        pytest.param("\nlead_id,phone\n", "no column lead_id and phone", id="an empty first line"),
        pytest.param('{"leads": 1' + "0" * 5000 + "}", "not JSON that we take", id="huge number"),
        pytest.param("[" * 100_000, "not JSON that we take", id="bottomless"),
        pytest.param('[{"phone": NaN}]', "NaN is no JSON number", id="NaN"),
        pytest.param('[{"a": 1, "a": 2}]', "'a' stands twice", id="a name twice"),
        pytest.param('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: 'a' stands twice", id="twice, JSONL"),
        pytest.param('{\n "a": 1\n "b": 2}\n', "not JSON: line 3", id="a comma missing"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path, text, says):
    with pytest.raises(CommandError, match=says):
        read(tmp_path, text)


def test_a_body_over_many_lines_is_one_body(tmp_path):
    body = {"leads": [{"lead_id": "a", "phone": "1"}], "name": "November"}
    assert read(tmp_path, json.dumps(body, indent=2)) == body


def test_only_a_newline_ends_a_line_of_json_lines(tmp_path):
    name = "a\u2028b\x85c"
    line = json.dumps({"lead_id": "x", "variables": {"n": name}}, ensure_ascii=False)
    first, second = read(tmp_path, f"{line}\n\n{line}\r\n")["leads"]
    assert first == second
    assert first["variables"]["n"] == name
