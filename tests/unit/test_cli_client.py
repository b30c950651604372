"""The API's client: whatever answers, or does not, a user reads one true line."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from outbound import cli
from outbound.cli.client import Away, Client
from outbound.cli.errors import CommandError


class Api:
    """An API that answers as told, and remembers what it was asked."""

    def __init__(self):
        self.answers, self.requests, self.date = [], [], None
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                length = int(self.headers.get("Content-Length", 0))
                api.requests.append(
                    (self.command, self.path, self.headers, self.rfile.read(length))
                )
                status, headers, body = api.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_DELETE = do_GET  # noqa: N815 - http.server names it

            def date_time_string(self, timestamp=None):
                return api.date or super().date_time_string(timestamp)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def will_answer(self, status, body=None, **headers):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, headers, raw))


@pytest.fixture
def api():
    built = Api()
    thread = threading.Thread(target=built.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield built
    built.server.shutdown()
    thread.join()
    built.server.server_close()


@pytest.fixture
def client(api):
    return Client(api.url, "ob_key")


def test_a_problem_is_its_detail_and_its_first_faults(api, client):
    faults = [{"pointer": f"#/leads/{n}", "code": "x", "detail": "Bad."} for n in range(9)]
    api.will_answer(422, {"detail": "The body is not valid.", "errors": faults})
    with pytest.raises(CommandError) as caught:
        client.post("/runs", {})
    assert caught.value.message == (
        "The body is not valid. #/leads/0: Bad. #/leads/1: Bad. #/leads/2: Bad."
    )


def test_a_limit_says_when_to_ask_again_and_a_double_names_its_run(api, client):
    api.will_answer(429, {"detail": "Once a minute."}, Retry_After="42")
    with pytest.raises(CommandError, match=r"^Once a minute. \(again in 42 s\)$"):
        client.post("/runs/reconcile")
    api.will_answer(409, {"detail": "Posted already.", "run_id": "R"})
    with pytest.raises(CommandError, match=r"^Posted already. \(run R\)$"):
        client.post("/runs", {})


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b'{"errors": [1], "detail": "x"}'])
def test_an_error_that_is_no_problem_is_told_as_such(api, client, body):
    api.will_answer(404, body)
    with pytest.raises(
        CommandError, match="/runs answered 404, and not as an Outbound server would"
    ):
        client.get("/runs")


def test_another_server_than_ours_is_told_as_such(api, client):
    api.will_answer(200, b"<html>welcome</html>")
    with pytest.raises(CommandError, match="is no Outbound server: its answer is no JSON object"):
        client.get("/runs")


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["run", "watch", "R"], {"hello": "world"}),
        (["run", "watch", "R", "--json"], {"hello": "world"}),
        (["run", "list"], {"hello": "world"}),
        (["run", "list"], {"items": [1]}),
        (["run", "list"], {"items": {}}),
        (["calls", "list", "R"], {"hello": "world"}),
        (["calls", "show", "R", "C"], {"attempts": []}),
        (["calls", "cancel", "R", "C"], {"hello": "world"}),
        (["suppressions", "list"], {"hello": "world"}),
        (["suppressions", "add", "+12025550101"], {"hello": "world"}),
        (["suppressions", "remove", "+12025550101"], {"hello": "world"}),
    ],
)
def test_another_server_with_json_of_its_own_is_one_line(api, monkeypatch, capsys, arguments, body):
    monkeypatch.setenv("OUTBOUND_API_KEY", "ob_key")
    api.will_answer(200, body)
    with pytest.raises(SystemExit) as exited:
        cli.main([*arguments, "--url", api.url])
    (line,) = capsys.readouterr().err.splitlines()
    assert exited.value.code == 1
    assert line.startswith(f"error: {api.url}/api/outbound/")
    assert "is no Outbound server: " in line


def test_the_servers_clock_comes_with_its_answer_and_ours_if_it_tells_none(api, client):
    api.date = "Sun, 01 Nov 2026 09:00:00 GMT"
    api.will_answer(200, {})
    at = client.get_changed("/runs/R", "", 5).at
    assert at.isoformat() == "2026-11-01T09:00:00+00:00"
    api.date = "soon"
    api.will_answer(200, {})
    assert abs(client.get_changed("/runs/R", "", 5).at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_post_follows_no_redirect(api, client):
    api.will_answer(301, b"", Location="https://elsewhere.example/")
    with pytest.raises(CommandError, match=r"has moved to https://elsewhere\.example/"):
        client.post("/runs", {})
    assert [method for method, *_ in api.requests] == ["POST"]


def test_only_what_may_pass_is_away(api, client):
    api.will_answer(503, {"detail": "The database is away."}, Retry_After="1")
    with pytest.raises(Away, match="The database is away"):
        client.get("/runs")
    api.will_answer(401, {"detail": "Send a valid API key."})
    with pytest.raises(CommandError) as caught:
        client.get("/runs")
    assert not isinstance(caught.value, Away)
    with pytest.raises(Away, match="does not answer"):
        Client("http://127.0.0.1:9", "ob_key").get("/runs")


def test_a_netrc_does_not_take_the_place_of_the_key(api, client, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login bob password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    api.will_answer(200, {})
    client.get("/runs")
    assert api.requests[0][2]["Authorization"] == "Bearer ob_key"


def test_an_unchanged_answer_is_not_sent_again(api, client):
    api.will_answer(200, {"n": 1}, ETag='"a"')
    assert client.get_changed("/runs/R", "", 5)[:2] == ({"n": 1}, '"a"')
    api.will_answer(304, b"")
    assert client.get_changed("/runs/R", '"a"', 5)[:2] == (None, '"a"')
    assert [headers["If-None-Match"] for _, _, headers, _ in api.requests] == [None, '"a"']


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "list", "--url", "nonsense"], 1, "error: cannot send this: Invalid URL"),
        (["run", "list", "--key", "ключ"], 1, "error: the API key must be visible ASCII"),
        (["run", "list", "--key", "a\nb"], 1, "error: the API key must be visible ASCII"),
        (["run", "watch", "R", "--url", "http://127.0.0.1:9"], 1, "does not answer"),
        (["run", "watch", "R", "--json", "--url", "http://127.0.0.1:9"], 1, "does not answer"),
        (["run", "create"], 2, "error: Missing argument 'FILE'. See `outbound run create --help`."),
        (["run", "list", "--limit", "x"], 2, "error: Invalid value for '--limit'"),
        (["nonsense"], 2, "error: No such command 'nonsense'. See `outbound --help`."),
    ],
)
def test_a_wrong_command_is_one_line(monkeypatch, capsys, arguments, code, says):
    monkeypatch.setenv("OUTBOUND_API_KEY", "ob_key")
    monkeypatch.delenv("OUTBOUND_URL", raising=False)
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert (exited.value.code, says in line) == (code, True), line
