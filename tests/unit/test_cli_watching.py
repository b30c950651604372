"""`run watch`: true while the API answers, honest while it does not, and over when all is."""

import io
import os
import pty
import threading
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from outbound.cli import watching
from outbound.cli.client import Answer, Away, Changed
from outbound.cli.errors import CommandError
from outbound.cli.watching import Seen

AWAY = Away("it does not answer")
START = datetime(2026, 11, 1, 9, tzinfo=UTC)


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
        "attempts": in_progress + completed + unknown,
        "started_at": None,
        "ended_at": None,
        "eta": None,
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

    def __init__(self, *answers, at=START):
        self.answers = list(answers)
        self.at = at
        self.etags = []

    def get_changed(self, path, etag, read_seconds):
        assert (path, read_seconds <= 5) == ("/runs/R", True)
        self.etags.append(etag)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        body = Answer("http://api", answer) if answer else None
        return Changed(body, f'"{len(self.answers)}"' if body else etag, self.at)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(watching, "time", made)
    return made


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
    assert lines[2].startswith("1 call is unknown: nobody knows yet")
    assert lines[3] == "  outbound calls list R --state unknown"


def test_a_run_that_ended_with_unknowns_says_what_to_do_about_them(capsys):
    lines = watched(capsys, run("completed", completed=1, unknown=2))
    assert lines[1].startswith("2 calls are unknown")
    assert "outbound calls resolve R CALL_ID --decision placed" in "".join(lines)


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


def test_an_estimate_that_has_passed_is_asked_for_anew():
    eta = (START + timedelta(seconds=5)).isoformat()
    client = Client(run(queued=1, eta=eta), None, None, run("completed", completed=1))
    looks = Seen(client, "R").follow()
    next(looks)
    next(looks)
    client.at += timedelta(seconds=5)
    assert sum(1 for _ in looks) == 2
    assert client.etags == ["", '"3"', '"3"', ""]


@pytest.mark.parametrize(
    "change",
    [
        {"queued": "many"},
        {"outcomes": []},
        {"name": 7},
        {"status": None},
        {"eta": "soon"},
        {"started_at": 1},
        {"last_error": {}},
    ],
)
def test_another_servers_json_is_said_to_be_one(change):
    with pytest.raises(CommandError, match="http://api is no Outbound server: its '"):
        watching.watch(Client(run(queued=1) | change), "R")


def look(clock, *answers, seconds=1.0, at=START):
    """What a watch has seen once each answer came after so many seconds."""
    client = Client(*answers, at=at)
    seen = Seen(client, "R")
    looks = seen.follow()
    for number in range(len(answers)):
        clock.now += seconds if number else 0
        next(looks)
    return seen


def drawn(seen, width=200):
    out = io.StringIO()
    Console(file=out, width=width).print(watching.picture(seen))
    return out.getvalue()


def test_the_drawn_run_shows_its_own_words_as_they_are(clock):
    body = run(name="[urgent] x [/b]", last_error="21211 [bold]bad\x1b[2J", queued=1)
    picture = drawn(look(clock, body))
    assert "[urgent] x [/b]" in picture
    assert "21211 [bold]bad\\x1b[2J" in picture


def test_numbers_older_than_three_seconds_are_said_to_be_old_and_never_shown_as_current(clock):
    eta = (START + timedelta(minutes=1)).isoformat()
    body = run(queued=5, completed=5, eta=eta, started_at=START.isoformat())
    seen = look(clock, body, body, body)
    assert "these numbers are 0 s old" in drawn(seen)
    assert "running\n" in drawn(seen).replace(" ", "")
    assert "calls/s" in drawn(seen)
    clock.now += 7
    old = drawn(seen)
    assert "NOT CURRENT: these numbers are 7 s old" in old
    assert "running, 7 s ago" in old
    assert "calls/s" not in old
    assert "time left" not in old


def test_old_numbers_say_why_no_newer_ones_came(clock):
    client = Client(run(queued=1), AWAY)
    seen = Seen(client, "R")
    looks = seen.follow()
    next(looks)
    next(looks)
    clock.now += 4
    assert "4 s old; it does not answer" in drawn(seen)


def test_numbers_are_as_old_as_the_request_that_brought_them(clock):
    client = Client(run(queued=1))
    answer = client.get_changed

    def slow(*known):
        clock.now += 4
        return answer(*known)

    client.get_changed = slow
    seen = Seen(client, "R")
    next(seen.follow())
    assert seen.is_old


def test_rates_are_of_the_last_seconds_and_of_the_whole_run(clock):
    started = (START - timedelta(seconds=100)).isoformat()
    counts = (400, 410, 420)
    bodies = [run(queued=100, completed=n, started_at=started) for n in counts]
    seen = look(clock, *bodies, seconds=4.5)
    assert seen.rate_now == pytest.approx(2.0)
    assert seen.rate_on_average == pytest.approx(4.2)
    assert "2.0 now  4.2 on average" in drawn(seen)


def test_the_rate_now_forgets_what_is_long_past(clock):
    bodies = [run(queued=100, completed=n) for n in (0, 1000, 1010, 1020, 1030)]
    assert look(clock, *bodies, seconds=5.5).rate_now == pytest.approx(20 / 12)


def test_a_rate_that_cannot_be_told_yet_is_not_told(clock):
    assert "- now  - on average" in drawn(look(clock, run(queued=1)))


def test_an_ended_run_shows_its_average_up_to_its_end(clock):
    ended = {"started_at": START.isoformat(), "ended_at": (START + timedelta(50)).isoformat()}
    ended["ended_at"] = (START + timedelta(seconds=50)).isoformat()
    seen = look(clock, run("completed", completed=100, **ended), at=START + timedelta(days=9))
    assert "2.0 on average" in drawn(seen)
    assert "time left" not in drawn(seen)


def test_the_time_left_is_by_the_servers_clock(clock):
    eta = (START + timedelta(seconds=90)).isoformat()
    assert "0:01:30" in drawn(look(clock, run(queued=1, eta=eta)))


@pytest.mark.parametrize("width", [40, 80])
def test_on_a_narrow_terminal_no_number_is_parted_from_its_name(clock, width):
    body = run(queued=123456, in_progress=1000, completed=98765, name="November renewals")
    lines = drawn(look(clock, body), width).splitlines()
    assert all(len(line) <= width for line in lines)
    for part in ("queued 123456", "in_progress 1000", "completed 98765", "98765 of 223221"):
        assert any(part in line for line in lines), (part, lines)


def on_a_terminal(monkeypatch, *answers, **environment):
    """What a watch writes to a terminal."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    written = []

    def read():
        try:
            while chunk := os.read(ours, 65536):
                written.append(chunk)
        except OSError:  # its other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with open(theirs, "w") as screen:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr("sys.stdout", screen)
        watching.watch(Client(*answers), "R")
    reader.join(10)
    os.close(ours)
    return b"".join(written).decode()


COLOUR = "\x1b[32m"


def test_a_terminal_gets_a_bar_in_colours_and_its_last_picture_is_the_end(monkeypatch):
    answers = (run(queued=1), run("completed", completed=1))
    written = on_a_terminal(monkeypatch, *answers)
    assert COLOUR in written
    assert "completed" in written.split("1 of 1")[0]


def test_no_color_is_respected(monkeypatch):
    answers = (run(queued=1), run("completed", completed=1))
    written = on_a_terminal(monkeypatch, *answers, NO_COLOR="1")
    assert "1 of 1" in written
    assert COLOUR not in written


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    answers = (run(queued=1), run("completed", completed=1))
    written = on_a_terminal(monkeypatch, *answers, TERM="dumb")
    assert [line.split()[0] for line in written.splitlines()] == ["running", "completed"]


def test_no_terminal_gets_no_colours_and_no_picture_even_if_they_are_forced(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = watched(capsys, run(queued=1), run("completed", completed=1))
    assert [line.split()[0] for line in lines] == ["running", "completed"]
