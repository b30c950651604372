"""`run watch`: true while the API answers, honest while it does not, and over when all is."""

import io

import pytest
from rich.console import Console

from outbound.cli import watching
from outbound.cli.client import Away
from outbound.cli.errors import CommandError

AWAY = Away("it does not answer")


def run(status="running", queued=0, in_progress=0, completed=0, unknown=0, **known):
    return {
        "run_id": "R",
        "name": None,
        "status": status,
        "total_leads": queued + in_progress + completed + unknown,
        "queued": queued,
        "in_progress": in_progress,
        "completed": completed,
        "failed": 0,
        "cancelled": 0,
        "unknown": unknown,
        "outcomes": {"answered": completed},
        "last_error": None,
        **known,
    }


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Client:
    """Answers one thing after the other; an exception is raised, None is "not changed"."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.etags = []

    def get_changed(self, path, etag, read_seconds):
        assert (path, read_seconds <= 5) == ("/runs/R", True)
        self.etags.append(etag)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, f'"{len(self.answers)}"' if answer else etag


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(watching, "time", Clock())


def watched(capsys, *answers):
    client = Client(*answers)
    watching.watch(client, "R")
    assert not client.answers, "it stopped too early"
    return capsys.readouterr().out.splitlines()


def test_a_line_for_each_change_until_the_end(capsys):
    lines = watched(
        capsys, run("pending", queued=2), None, run(in_progress=2), run("completed", completed=2)
    )
    assert [line.split()[0] for line in lines] == ["pending", "running", "completed"]


@pytest.mark.parametrize("status", ["completed", "cancelled", "expired"])
def test_every_end_is_an_end(capsys, status):
    assert len(watched(capsys, run(status, completed=1))) == 1


def test_it_ends_when_all_that_is_left_is_unknown_and_says_so(capsys):
    lines = watched(capsys, run(in_progress=1, unknown=1), run("running", completed=1, unknown=1))
    assert lines[-1] == "all that is left is unknown: see `outbound calls list R`"


def test_it_goes_on_while_a_call_is_queued_or_the_run_is_not_ended(capsys):
    answers = [
        run("paused", queued=1, unknown=1),
        run(in_progress=1, unknown=1),
        run("running", completed=2),
    ]
    assert len(watched(capsys, *answers, run("completed", completed=2))) == 4


def test_old_numbers_are_said_to_be_old_once_and_then_are_fresh_again(capsys):
    lines = watched(
        capsys, run(queued=1), *[AWAY] * 30, run(queued=1), run("completed", completed=1)
    )
    assert len(lines) == 4
    assert lines[1] == f"the API is away; these numbers are old:  {lines[0]}"
    assert lines[2] == lines[0]


def test_an_answer_that_nothing_changed_makes_the_numbers_fresh(capsys):
    lines = watched(capsys, run(queued=1), *[None] * 30, run("completed", completed=1))
    assert not [line for line in lines if "away" in line]


def test_each_request_asks_only_for_what_has_changed():
    client = Client(run(queued=1), AWAY, None, run("completed", completed=1))
    watching.watch(client, "R", as_json=True)
    assert client.etags == ["", '"3"', '"3"', '"3"']


@pytest.mark.parametrize("error", [AWAY, CommandError("There is no such run.")])
def test_an_api_that_never_answered_is_an_error_and_no_wait(error):
    with pytest.raises(CommandError):
        watching.watch(Client(error), "R", as_json=True)


def test_a_refusal_while_watching_is_an_error_and_no_wait():
    with pytest.raises(CommandError, match="key"):
        watching.watch(Client(run(queued=1), CommandError("the key is revoked")), "R")


def drawn(body, age=0.0):
    out = io.StringIO()
    Console(file=out, width=200).print(watching.picture(body, age))
    return out.getvalue()


def test_the_drawn_run_shows_its_own_words_as_they_are():
    picture = drawn(run(name="[urgent] x [/b]", last_error="21211 [bold]bad\x1b[2J", queued=1))
    assert "[urgent] x [/b]" in picture
    assert "21211 [bold]bad\\x1b[2J" in picture


def test_the_drawn_run_says_how_old_its_numbers_are():
    assert "these numbers are 7 s old" in drawn(run(queued=1), age=7.2)
    assert "old" not in drawn(run(queued=1), age=1)
