"""The command line: files that people have, and errors that people make."""

import json

import pytest

from outbound import cli, config
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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://a%00b@127.0.0.1/x",
        "postgresql://bob:hunter2%00@127.0.0.1/x",
        "postgresql://127.0.0.1/x%0a",
        "postgresql://127.0.0.1/x?host=%00",
        "postgresql://127.0.0.1/x?port=abc",
        "postgresql://127.0.0.1:abc/x",
        "mysql://127.0.0.1/x",
    ],
)
def test_a_database_url_that_cannot_be_used_is_told_by_its_name(monkeypatch, capsys, url):
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(SystemExit) as exited:
        cli.main(["account", "list"])
    (line,) = capsys.readouterr().err.splitlines()
    assert exited.value.code == 1
    assert line.startswith("error: DATABASE_URL must ")
    assert "hunter2" not in line


def test_a_database_url_with_several_hosts_and_ports_is_taken():
    url = "postgresql:///x?host=one,two&port=5432,5433"
    assert config.read(environ={"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--ledger", "/dev/null/x"], 1, "error: ledger /dev/null/x: "),
        ([], 2, "error: the following arguments are required: --ledger. See `outbound emulator"),
        (["--ledger", "/x", "--mix", "a"], 2, "error: argument --mix: "),
        (["--ledger", "/x", "--faults", "{"], 2, "error: argument --faults: "),
    ],
)
def test_what_the_emulator_cannot_do_is_told_as_everywhere(capsys, arguments, code, says):
    with pytest.raises(SystemExit) as exited:
        cli.main(["emulator", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert (exited.value.code, line.startswith(says)) == (code, True), line


def test_a_real_database_is_not_called_at_the_emulator_unless_asked_for(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/outbound")
    for name in ("TWILIO_ACCOUNT_SID", "OUTBOUND_CARRIER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as exited:
        cli.main(["up", "--dir", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert exited.value.code == 1
    assert line.startswith("error: DATABASE_URL is set and TWILIO_ACCOUNT_SID is not: ")
    assert "--emulator" in line
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_every_command_stands_in_a_section_of_the_help():
    named = [name for names in cli.SECTIONS.values() for name in names]
    assert sorted(named) == sorted(cli.COMMANDS)


def test_the_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "130  ended by Ctrl-C" in capsys.readouterr().out


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exited:
        cli.main(["--help"])
    assert exited.value.code == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name}" in said for name in cli.COMMANDS)
    assert json.dumps(said)
