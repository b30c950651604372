"""The command line: files that people have, and errors that people make."""

import json

import pytest

from outbound import cli
from outbound.cli.errors import CommandError
from outbound.cli.reading import read_body


def write(tmp_path, text):
    path = tmp_path / "leads"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        "lead_id,phone,name\na,+12025550101,Dana\n",
        "\ufefflead_id,phone,name\r\na,+12025550101,Dana\r\n",
        '{"lead_id": "a", "phone": "+12025550101", "variables": {"name": "Dana"}}\n',
        '[{"lead_id": "a", "phone": "+12025550101", "variables": {"name": "Dana"}}]',
        '{"leads": [{"lead_id": "a", "phone": "+12025550101", "variables": {"name": "Dana"}}]}',
    ],
)
def test_csv_json_lines_and_json_say_the_same(tmp_path, text):
    lead = {"lead_id": "a", "phone": "+12025550101", "variables": {"name": "Dana"}}
    assert read_body(write(tmp_path, text)) == {"leads": [lead]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"lead_id,phone\n\xe9,1\n", "line 2 is not UTF-8"),
        ("", "is empty"),
        ("id,phone\n1,2\n", "no column lead_id"),
        ("lead_id,phone\na,b,c\n", "line 2 has more cells"),
        ("[1,", "not JSON: line 1"),
        ('{"a": 1}\n{"b"\n', "not JSON Lines: line 2"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path, text, says):
    with pytest.raises(CommandError, match=says):
        read_body(write(tmp_path, text))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["web"], 1, "error: DATABASE_URL is not set"),
        (["account", "list"], 1, "error: DATABASE_URL is not set"),
        (["run", "list"], 1, "error: no API key"),
        (["run", "list", "--key", "ob_x", "--url", "http://127.0.0.1:9"], 1, "does not answer"),
        (
            ["run", "create", "/no/such/file", "--key", "ob_x"],
            1,
            "error: cannot read /no/such/file",
        ),
        (["calls", "resolve", "R", "--decision", "redial", "--key", "x"], 2, "name one CALL_ID"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_what_a_user_did_wrong_is_one_line_and_no_traceback(
    monkeypatch, capsys, arguments, code, says
):
    for name in ("DATABASE_URL", "OUTBOUND_API_KEY", "OUTBOUND_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    said = capsys.readouterr().err
    assert exited.value.code == code
    assert says in said
    assert "Traceback" not in said


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(["--help"])
    assert exited.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name}" in said for name in cli.COMMANDS)
    assert json.dumps(said)
