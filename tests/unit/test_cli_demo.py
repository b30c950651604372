"""The demonstration's own rules, without the system."""

import contextlib
import signal
from types import SimpleNamespace

import pytest
from rich.console import Console

from outbound import config
from outbound.cli import demo
from outbound.cli.supervisor import Supervisor


def play(directory, **environment):
    return demo.Play(
        Supervisor(directory, config.read(environ=environment), 1), Console(quiet=True), 10
    )


def test_an_earlier_performance_in_the_same_directory_is_not_counted(tmp_path, monkeypatch):
    rows = [{"call_sid": "CA1"}, {"call_sid": "CA2"}]
    monkeypatch.setattr(demo.requests, "get", lambda *_, **__: SimpleNamespace(json=lambda: rows))
    one = play(tmp_path)
    one._earlier = {"CA1"}
    assert one._ledger() == [{"call_sid": "CA2"}]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "give another --dir"),
        ({"DATABASE_URL": "postgresql://db/x"}, "unset DATABASE_URL or use an empty database"),
    ],
)
def test_a_database_with_open_runs_is_refused_with_what_to_do(tmp_path, environment, says):
    assert says in play(tmp_path, **environment)._why_not()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_end_is_not_lost_where_python_drops_the_exception(tmp_path, number, code):
    one = play(tmp_path)
    with contextlib.suppress(SystemExit):  # as a destructor does
        one.end_early(number, None)
    with pytest.raises(SystemExit) as exited:
        one._progress()
    assert exited.value.code == code
