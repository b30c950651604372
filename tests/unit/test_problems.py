"""Whatever goes wrong leaves as a problem: its status, its code, and nothing that was sent."""

import json

import falcon
import falcon.testing
import pytest
import structlog
from gunicorn.http import errors as gunicorn_errors
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from outbound import logs
from outbound.api import problems
from outbound.api.server import Worker, status_of
from outbound.config import Settings
from outbound.errors import Fault, Refused, Unavailable, invalid, not_found

CANARY = "canary-9f2"


class Raises:
    def __init__(self, error):
        self.error = error

    def on_get(self, req, resp):
        raise self.error


def answer_to(error):
    app = falcon.App()
    problems.install(app)
    app.add_route("/x", Raises(error))
    return falcon.testing.TestClient(app).simulate_get("/x", query_string=f"q={CANARY}")


class Server(Exception):
    """What psycopg2 raises, with the server's code."""

    def __init__(self, code):
        super().__init__(CANARY)
        self.pgcode = code


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (not_found("run"), 404, "not_found"),
        (Refused("duplicate_run", "Twice."), 409, "duplicate_run"),
        (Refused("rate_limited", "Wait.", 429, retry_after=7), 429, "rate_limited"),
        (Unavailable("Busy.", 3), 503, "unavailable"),
        (falcon.HTTPMethodNotAllowed(["GET"]), 405, "method_not_allowed"),
        (falcon.HTTPNotFound(), 404, "not_found"),
        (PoolTimeout("all taken"), 503, "unavailable"),
        (OperationalError(CANARY, {}, Server(None)), 503, "unavailable"),
        (OperationalError(CANARY, {}, Server("57P03")), 503, "unavailable"),
        (DataError(CANARY, {}, Server("22001")), 500, "internal_error"),
        (KeyError(CANARY), 500, "internal_error"),
        (RecursionError(CANARY), 500, "internal_error"),
    ],
)
def test_each_error_has_its_status_and_code_and_echoes_nothing(error, status, code):
    answer = answer_to(error)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json
    assert body.keys() == {"type", "title", "status", "detail", "instance", "request_id"}
    assert (body["type"], body["status"]) == (f"urn:outbound:problem:{code}", status)
    assert body["instance"] == "/x"
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (Refused("unauthorized", "Who?", 401), "www-authenticate", "Bearer"),
        (Refused("rate_limited", "Wait.", 429, retry_after=7), "retry-after", "7"),
        (Unavailable("Busy.", 3), "retry-after", "3"),
        (PoolTimeout("all taken"), "retry-after", "1"),
        (falcon.HTTPMethodNotAllowed(["GET", "POST"]), "allow", "GET, POST"),
    ],
)
def test_an_error_says_in_its_headers_what_to_do(error, header, value):
    assert answer_to(error).headers[header] == value


def test_a_hundred_faults_are_told_and_all_are_counted():
    body = answer_to(invalid([Fault(f"#/leads/{n}", "c", "d") for n in range(250)])).json
    assert (len(body["errors"]), body["errors_total"]) == (100, 250)
    assert body["errors"][0] == {"pointer": "#/leads/0", "code": "c", "detail": "d"}


def test_further_members_stand_beside_the_others():
    extra = {"run_id": "r-1"}
    assert answer_to(Refused("duplicate_run", "Twice.", extra=extra)).json["run_id"] == "r-1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (gunicorn_errors.LimitRequestLine(9000, 4094), 414),
        (gunicorn_errors.LimitRequestHeaders("x"), 431),
        (gunicorn_errors.ExpectationFailed("x"), 417),
        (gunicorn_errors.UnsupportedTransferCoding("x"), 400),
        (gunicorn_errors.ConfigurationProblem("x"), 400),
        (gunicorn_errors.InvalidHeader("x"), 400),
        (gunicorn_errors.InvalidResponseHeader("x"), 500),
        (ValueError("x"), 500),
    ],
)
def test_what_a_client_sent_is_never_a_5xx_and_our_own_mistake_always(error, status):
    assert status_of(error) == status


class Client:
    """The socket of somebody who sent rubbish."""

    def __init__(self):
        self.got = b""

    def sendall(self, data):
        self.got += data


@pytest.fixture
def refuse(capsys):
    def handle(error, client):
        logs.set_up(Settings(), "api")
        structlog.contextvars.bind_contextvars(account_id="of the request before")
        Worker.__new__(Worker).handle_error(None, client, ("127.0.0.1", 1), error)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return handle


def test_rubbish_gets_a_problem_and_a_line_that_belongs_to_nobody_else(refuse):
    client = Client()
    (line,) = refuse(gunicorn_errors.InvalidHeader(CANARY), client)
    assert (line["event"], line["status"]) == ("request_unreadable", 400)
    assert "account_id" not in line
    problem = json.loads(client.got.partition(b"\r\n\r\n")[2])
    assert problem["request_id"] == line["request_id"]
    assert CANARY not in client.got.decode() + json.dumps(line)


def test_our_own_mistake_is_logged_with_its_traceback_and_answered_without(refuse):
    client = Client()
    (line,) = refuse(ValueError(CANARY), client)
    assert (line["event"], line["exception"][0]["exc_type"]) == ("request_failed", "ValueError")
    assert client.got.startswith(b"HTTP/1.1 500 ")
    assert CANARY not in client.got.decode()


def test_what_follows_an_answer_is_not_answered_again(refuse):
    client = Client()
    assert refuse(gunicorn_errors.InvalidChunkSize(b"ZZ"), client) == []
    assert client.got == b""


def test_a_client_that_has_gone_is_no_error(refuse):
    class Gone(Client):
        def sendall(self, data):
            raise BrokenPipeError

    assert len(refuse(gunicorn_errors.InvalidHeader("x"), Gone())) == 1
