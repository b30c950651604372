"""No secret and no whole phone number passes; what dashboards need does."""

import io
import json
import logging
import select
import subprocess
import sys

import pytest

from outbound import logs
from outbound.config import Settings


@pytest.fixture
def log(capsys):
    """Log through the pipeline; returns the lines that were printed as JSON."""

    def write(say):
        # Set up within the test itself: pytest puts its own handlers back between its phases.
        logs.set_up(Settings(), "cli")
        say(logs.get("t"))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return write


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("call to +972502345678 failed", "972502345678"),
        ("To=%2B12025550101&x", "12025550101"),
        ("12025550101", "12025550101"),
        ("ob_abcdefghijklmnop", "abcdefghijklmnop"),
        ("postgresql://me:hunter2@db/x", "hunter2"),
        ("redis://:hunter2@h:1/0", "hunter2"),
    ],
)
def test_phones_and_secrets_are_masked_in_values(log, text, hidden):
    (line,) = log(lambda t: t.info("something", detail=text, nested={"list": [text]}))
    assert hidden not in json.dumps(line)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T09:00:00.123456Z",
        "host:12345678",
        "1.234567891",
        "0195f1c2-7d3e-7abc-8def-0123456789ab",
    ],
)
def test_times_and_ids_are_not_taken_for_phones(log, text):
    (line,) = log(lambda t: t.info("something", detail=text))
    assert line["detail"] == text


@pytest.mark.parametrize("name", ["authorization", "auth_token", "password", "x_twilio_signature"])
def test_what_is_named_a_secret_is_one(log, name):
    (line,) = log(lambda t: t.info("something", **{name: "plain"}))
    assert line[name] == "***"


def test_other_libraries_lines_are_json_with_a_stable_event(log):
    gunicorn = logging.getLogger("gunicorn.error")
    (line,) = log(lambda _: gunicorn.warning("Worker %s exiting: +12025550101", 7))
    assert (line["event"], line["level"]) == ("gunicorn_log", "warning")
    assert line["message"].startswith("Worker 7 exiting")
    assert "12025550101" not in line["message"]


def test_an_exception_shows_no_local_variables(log):
    def fail():
        secret_of_mine = "canary-value"
        raise ValueError("it failed", len(secret_of_mine))

    def tell(logger):
        try:
            fail()
        except ValueError:
            logger.exception("broken")

    (line,) = log(tell)
    assert "canary-value" not in json.dumps(line)
    assert line["exception"][0]["exc_type"] == "ValueError"


def test_a_line_that_nobody_can_read_any_more_ends_nothing():
    stream = io.StringIO()
    stream.close()
    logs.set_up(Settings(), "cli", stream)
    logs.get("t").error("said")


class Pieces(io.StringIO):
    """A stream that remembers in which pieces it was written to."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, text):
        self.pieces.append(text)
        return len(text)


def test_each_line_of_a_batch_is_whole_and_they_are_written_in_a_few_pieces():
    stream = Pieces()
    logs.set_up(Settings(), "cli", stream)
    each = [{"number": number, "detail": "+12025550101"} for number in range(100)]
    logs.get("t").info("said", each=each, request_id="r")
    logs.get("t").info("said", number=100, detail="", request_id="r")
    assert max(map(len, stream.pieces)) <= select.PIPE_BUF
    assert len(stream.pieces) < 10
    assert all(piece.endswith("\n") for piece in stream.pieces if piece)
    told = [json.loads(line) for line in "".join(stream.pieces).splitlines()]
    assert [line["number"] for line in told] == list(range(101))
    assert {(line["event"], line["worker_id"], line["request_id"]) for line in told} == {
        ("said", told[0]["worker_id"], "r")
    }
    assert not any("12025550101" in line["detail"] for line in told)


def test_what_another_library_calls_each_is_a_value_like_any_other(log):
    other = logging.getLogger("gunicorn.error")
    (line,) = log(lambda _: other.warning("said", extra={"each": ["+12025550101"]}))
    assert line["message"] == "said"
    assert "12025550101" not in json.dumps(line)


def test_a_batch_of_none_has_no_empty_line(log):
    assert all(log(lambda t: t.info("said", each=[])))


def test_a_line_has_no_character_at_which_some_reader_ends_it(log):
    (line,) = log(lambda t: t.info("said", detail="a\u2028b\x85c\nd"))
    assert line["detail"] == "a\u2028b\x85c\nd"


def test_what_is_below_the_level_is_not_written(log):
    assert log(lambda t: t.debug("said")) == []


def test_a_value_that_json_does_not_know_never_loses_the_line(log):
    (line,) = log(lambda t: t.info("odd", value=object(), half="\ud800", big=2**70))
    assert line["event"] == "odd"


def test_a_line_of_a_process_is_whole_even_with_newlines(tmp_path):
    code = (
        "from outbound import logs; from outbound.config import Settings;"
        "logs.set_up(Settings(), 'cli'); logs.get('x').info('e', v='a\\nb')"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout)["v"] == "a\nb"
