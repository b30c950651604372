"""What `outbound logs summary` counts, from whatever a file holds."""

import io
import json
import tracemalloc

import pytest
from click.testing import CliRunner

from outbound import cli, log_summary
from outbound.log_summary import Quantiles, Summary


def line(event, **known):
    told = {
        "timestamp": "2026-11-24T12:00:00.000001Z",
        "level": "info",
        "event": event,
        "worker_id": "host:1",
        "consumer_source": "dramatiq_worker",
    }
    return json.dumps(told | known).encode() + b"\n"


def summed(*lines):
    counted = Summary()
    counted.read(io.BytesIO(b"".join(lines)))
    return counted.as_dict()


def test_lines_are_counted_by_event_level_and_source():
    found = summed(
        line("call_placed"),
        line("call_placed", timestamp="2026-11-24T13:00:00.000001Z"),
        line("http_request", consumer_source="api", level="warning"),
    )
    assert (found["lines"], found["skipped"]) == (3, 0)
    assert found["events"] == {"call_placed": 2, "http_request": 1}
    assert found["levels"] == {"info": 2, "warning": 1}
    assert found["sources"] == {"dramatiq_worker": 2, "api": 1}
    assert found["first"] == "2026-11-24T12:00:00.000001Z"
    assert found["last"] == "2026-11-24T13:00:00.000001Z"
    assert found["placed"] == 2


def test_claims_and_conflicts_are_counted_by_calls():
    found = summed(
        line("calls_claimed", lock_acquired=True, claimed=8),
        line("calls_claimed", lock_acquired=True, claimed=2),
        line("calls_moved_aside", dedup_conflict=True, phone=3, recent_call=1),
        line("stray_carrier_call", dedup_conflict=True, level="error", reason="another id"),
        line("carrier_id_taken", dedup_conflict=True, level="warning"),
    )
    assert (found["claims"], found["claimed_calls"]) == (2, 10)
    assert found["dedup_conflicts"] == {
        "phone": 3,
        "recent_call": 1,
        "stray_carrier_call": 1,
        "carrier_id_taken": 1,
    }


def test_outcomes_come_from_final_words_that_were_news_refusals_and_look_ups():
    found = summed(
        line("callback_received", progress="ringing", changed=True),
        line("callback_received", progress="answered", changed=True),
        line("callback_received", progress="answered", changed=False),
        line("callback_received", progress="busy", changed=True),
        line("call_not_placed", verdict="refused_callee", level="warning"),
        line("looked_up", found=3, outcomes={"no_answer": 2}),
    )
    assert found["settled"] == {"no_answer": 2, "answered": 1, "busy": 1, "failed": 1}


def test_unknowns_come_from_ambiguous_answers_and_from_sweeps():
    found = summed(
        line("call_not_placed", verdict="ambiguous", level="warning"),
        line("sweep_done", sweep="stale_claims", rows=8, unknown=8, settled=0, ended=0),
        line("sweep_done", sweep="end_runs", rows=1, unknown=0, ended=1),
        line("sweep_done", sweep="end_runs", rows=2, unknown=0, ended=2),
    )
    assert found["unknown"] == {"sweep stale_claims": 8, "the answer was ambiguous": 1}
    assert [(s["sweep"], s["times"], s["rows"], s["ended"]) for s in found["sweeps"]] == [
        ("end_runs", 2, 3, 3),
        ("stale_claims", 1, 8, 0),
    ]


def test_leaders_are_listed_in_the_order_of_their_times_whatever_the_order_of_files():
    found = summed(
        line("leader_elected", epoch=2, timestamp="2026-11-24T12:00:05Z", worker_id="b:2"),
        line("leader_elected", epoch=1, timestamp="2026-11-24T12:00:01Z", worker_id="a:1"),
        line("leader_stepped_down", epoch=1, timestamp="2026-11-24T12:00:04Z", reason="lost"),
    )
    assert found["leader_changes"] == 3
    assert [(one["event"], one["epoch"]) for one in found["leaders"]] == [
        ("leader_elected", 1),
        ("leader_stepped_down", 1),
        ("leader_elected", 2),
    ]


def test_requests_have_statuses_quantiles_and_the_slowest():
    lines = [
        line("http_request", route="/a", status=200, duration_ms=float(n), method="GET")
        for n in range(1, 101)
    ]
    slow = line("http_request", route="/b", status=503, duration_ms=5000.5, request_id="r-1")
    found = summed(*lines, slow)
    assert found["http_statuses"] == {"200": 100, "503": 1}
    everything, a, b = found["http_requests"]
    assert (everything["route"], everything["count"]) == ("(all)", 101)
    assert (a["route"], b["route"]) == ("/a", "/b")
    assert a["p50_ms"] == pytest.approx(50, rel=0.015)
    assert a["p99_ms"] == pytest.approx(99, rel=0.015)
    assert found["slow_requests"] == 1
    assert (found["slowest"][0]["request_id"], found["slowest"][0]["status"]) == ("r-1", 503)


def test_errors_have_their_kind_and_when_they_were_seen():
    trace = [{"exc_type": "KeyError", "exc_value": "x"}]
    found = summed(
        line("request_failed", level="error", exception=trace, timestamp="2026-11-24T12:00:02Z"),
        line("request_failed", level="error", exception=trace, timestamp="2026-11-24T12:00:01Z"),
        line("breaker_opened", level="error", error="20003 Authenticate"),
        line("ring_failed", level="warning", error="TimeoutError"),
    )
    assert found["errors"] == [
        {
            "event": "request_failed",
            "error": "KeyError",
            "count": 2,
            "first": "2026-11-24T12:00:01Z",
            "last": "2026-11-24T12:00:02Z",
        },
        {
            "event": "breaker_opened",
            "error": "20003 Authenticate",
            "count": 1,
            "first": "2026-11-24T12:00:00.000001Z",
            "last": "2026-11-24T12:00:00.000001Z",
        },
    ]


def test_a_prefix_of_whatever_ran_the_process_is_no_hindrance():
    assert summed(b"web-1  | " + line("call_placed"))["placed"] == 1


@pytest.mark.parametrize(
    "rubbish",
    [
        b"Traceback (most recent call last):\n",
        b"\n",
        b"{\n",
        b"[1, 2]\n",
        b"{}\n",
        b'{"event": 7}\n',
        b'{"event": null}\n',
        b"\x00\xff\xfe\x80{\x81\n",
        b"\xef\xbb\xbf\n",
        b'{"event": "\xff"}\n',
        b"{" * 100_000 + b"\n",
        b'{"event": ' + b"[" * 100_000 + b"\n",
        b'{"event": ' + b"9" * 10_000 + b"}\n",
    ],
    ids=lambda raw: str(raw[:12]),
)
def test_what_is_no_line_of_ours_is_skipped_and_counted(rubbish):
    found = summed(line("call_placed"), rubbish, line("call_placed"))
    assert (found["lines"], found["skipped"]) == (2, 1)


ODD = [None, True, -1, 1e300, float("nan"), float("inf"), 10**400, [], {}, "x" * 10_000, "\ud800"]
FIELDS = (
    *("level", "timestamp", "consumer_source", "claimed", "verdict", "progress", "sweep", "rows"),
    *("status", "duration_ms", "route", "outcomes", "phone", "exception", "error", "epoch"),
    *("unknown", "reason", "changed", "lock_acquired"),
)


@pytest.mark.parametrize("odd", ODD, ids=lambda value: repr(value)[:12])
def test_fields_of_another_kind_than_ours_do_no_harm(odd):
    events = (*log_summary._TAKERS, *log_summary.LEADER_EVENTS, "calls_moved_aside")
    fields = dict.fromkeys(FIELDS, odd) | {"dedup_conflict": True}
    found = summed(*(line(event, **fields) for event in events))
    assert found["lines"] == len(events)
    told = json.dumps(found)
    assert len(told) < 60_000
    grave = [line(event, level="error", error=odd, exception=odd) for event in events]
    assert summed(*grave)["lines"] == len(events)


def test_a_line_of_many_megabytes_is_one_skipped_line():
    found = summed(b'{"event": "' + b"x" * (3 << 20) + b'"}\n', line("call_placed"))
    assert (found["lines"], found["skipped"]) == (1, 1)


def test_memory_does_not_grow_with_what_there_is_any_number_of():
    def lines():
        for n in range(60_000):
            yield line(
                ("http_request", "sweep_done", f"event-{n}", "leader_elected")[n % 4],
                route=f"/r/{n}",
                status=f"{n}",
                duration_ms=2000 + n,
                sweep=f"s{n}",
                rows=1,
                level="error",
                error=f"e{n}",
            )

    class Endless(io.RawIOBase):
        def __init__(self):
            self.left = lines()

        def readline(self, size=-1):
            return next(self.left, b"")

    counted = Summary()
    tracemalloc.start()
    counted.read(Endless())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = counted.as_dict()
    assert found["lines"] == 60_000
    assert sum(found["events"].values()) == 60_000
    assert sum(one["count"] for one in found["errors"]) == 60_000
    assert found["slow_requests"] == 15_000
    assert len(found["slowest"]) == log_summary.MOST_SLOW
    assert found["slowest"][0]["duration_ms"] == 2000 + 59_996
    assert peak < 8 << 20


def test_quantiles_are_within_a_per_cent_and_none_without_values():
    assert Quantiles().at(0.5) is None
    for value in (0.0, 0.4, 7.0, 123.4, 86_400_000.0):
        quantiles = Quantiles()
        quantiles.add(value)
        assert quantiles.at(0.99) == pytest.approx(value, rel=0.011, abs=0.051)


class TestCommand:
    @pytest.fixture
    def run(self, capsys, monkeypatch):
        def call(*words, stdin=b""):
            class Stdin:
                buffer = io.BytesIO(stdin)

            monkeypatch.setattr("sys.stdin", Stdin)
            with pytest.raises(SystemExit) as ended:
                cli.main(["logs", "summary", *map(str, words)])
            told = capsys.readouterr()
            return ended.value.code, told.out, told.err

        return call

    @pytest.fixture
    def file(self, tmp_path):
        made = tmp_path / "worker.log"
        made.write_bytes(line("call_placed") + b"not json\n" + line("WORKER_START"))
        return made

    def test_files_add_up(self, run, file):
        code, out, _ = run(file, file, "--json")
        found = json.loads(out)
        assert (code, found["placed"], found["skipped"]) == (0, 2, 2)
        assert found["starts"] == {"dramatiq_worker": 2}

    def test_a_dash_is_the_standard_input(self, run):
        _, out, _ = run("-", "--json", stdin=line("call_placed"))
        assert json.loads(out)["placed"] == 1

    def test_people_get_tables_and_no_empty_ones(self, run, file):
        code, out, _ = run(file)
        assert code == 0
        assert "skipped                    1" in out
        assert "\nevents\ncount  events\n1      call_placed\n" in out
        assert "sweeps" not in out

    def test_what_would_act_on_the_terminal_is_spelled_out(self, run, tmp_path):
        made = tmp_path / "evil"
        made.write_bytes(line("x\x1b[2J", level="error", error="\x1b]0;title\x07"))
        _, out, _ = run(made)
        assert "\x1b" not in out
        assert "\x07" not in out

    @pytest.mark.parametrize("name", ["missing.log", "."])
    def test_what_cannot_be_read_is_one_line(self, run, tmp_path, name):
        code, out, err = run(tmp_path / name)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1

    def test_binary_data_is_skipped(self, run, tmp_path):
        made = tmp_path / "core"
        made.write_bytes(bytes(range(256)) * 5000)
        code, out, _ = run(made, "--json")
        assert code == 0
        assert json.loads(out)["lines"] == 0
        assert json.loads(out)["skipped"] > 0

    def test_without_a_file_it_says_what_is_missing(self, run):
        code, _, err = run()
        assert code == 2
        assert "FILE" in err


def test_it_is_listed_among_the_commands():
    assert "logs" in CliRunner().invoke(cli.cli, ["--help"]).output
