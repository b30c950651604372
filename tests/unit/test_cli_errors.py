"""What a user, a server or a broken line does wrong is one line, a code, and no traceback."""

import socket
import threading
from uuid import uuid4

import pytest

from outbound import cli
from outbound.cli.client import Away, Client
from outbound.cli.errors import CommandError
from outbound.embedded import EmbeddedError
from outbound.errors import ConfigError, Fault, Unavailable, invalid

KEY = ("--key", "ob_key")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; its exit code and the one line it said."""

    def command(*arguments):
        with pytest.raises(SystemExit) as exited:
            cli.main(list(arguments))
        (line,) = capsys.readouterr().err.splitlines()
        return exited.value.code, line

    for name in ("DATABASE_URL", "OUTBOUND_API_KEY", "OUTBOUND_URL"):
        monkeypatch.delenv(name, raising=False)
    return command


@pytest.fixture
def answering():
    """Servers that answer one request with these bytes, and hang up."""
    started = []

    def start(raw):
        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(raw)

        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=answer)
        thread.start()
        started.append((listener, thread))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener, thread in started:
        thread.join(5)
        listener.close()


@pytest.fixture
def failing(monkeypatch):
    """Make every command raise this."""

    def install(error):
        def raise_it(*_, **__):
            raise error

        monkeypatch.setattr(cli.cli, "main", raise_it)

    return install


@pytest.mark.parametrize("wrong", ["", "..", "../runs", "a/b", "x?limit=1", "x#y", "%2e%2e", "א"])
@pytest.mark.parametrize(
    "words",
    [
        ("run", "show"),
        ("run", "watch"),
        ("run", "pause"),
        ("run", "resume"),
        ("run", "cancel"),
        ("calls", "list"),
        ("calls", "show", "R"),
        ("calls", "resolve", "--decision", "redial", "R"),
    ],
)
def test_what_is_no_id_is_refused_before_anything_is_sent(run, monkeypatch, words, wrong):
    monkeypatch.setattr(Client, "send", lambda *_, **__: pytest.fail("something was sent"))
    code, line = run(*words, *KEY, wrong)
    assert code == 2
    assert f"{wrong!r} is not an id" in line


def test_an_id_of_ours_is_taken(run):
    code, line = run("run", "show", str(uuid4()), *KEY, "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "does not answer" in line


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"Content-Length: 500\r\n\r\n", id="a length"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n50\r\n", id="chunks"),
    ],
)
def test_an_answer_that_breaks_off_is_asked_for_again(answering, head):
    client = Client(answering(b"HTTP/1.1 200 OK\r\n" + head + b'{"a": '), "ob_key")
    with pytest.raises(Away, match="broke off its answer"):
        client.get("/runs/R")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7"])
def test_json_that_is_no_object_is_another_servers(answering, body):
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with pytest.raises(CommandError, match="is no Outbound server: its answer is no JSON object"):
        Client(answering(raw), "ob_key").get("/runs")


def test_a_database_that_is_away_is_told_without_its_password(run, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://bob:hunter2@127.0.0.1:9/outbound")
    code, line = run("account", "list")
    assert code == 1
    assert line.startswith("error: the database is away: ")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConfigError("PORT must be a number"), "error: PORT must be a number"),
        (EmbeddedError("no room for a database"), "error: no room for a database"),
        (Unavailable("Redis is away."), "error: Redis is away."),
        (invalid([Fault("#/a", "x", "Bad.")]), "error: The body is not valid. #/a: Bad."),
        (ConnectionRefusedError(111, "Connection refused"), "error: [Errno 111] Connection refu"),
    ],
)
def test_an_error_that_is_no_bug_is_one_line(run, failing, error, says):
    failing(error)
    code, line = run("anything")
    assert code == 1
    assert line.startswith(says)


def test_ctrl_c_ends_with_130_and_says_nothing(failing, capsys):
    failing(KeyboardInterrupt())
    with pytest.raises(SystemExit) as exited:
        cli.main(["anything"])
    assert exited.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_bug_of_ours_keeps_its_traceback(failing):
    failing(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["anything"])
