"""What /metrics tells: from the tables, and from what processes counted."""

import re
import shutil
import subprocess
import threading
from dataclasses import replace

import falcon.testing
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from factories import claim, do, make_account, make_run, one, phone, record, say
from outbound import metrics, metrics_state
from outbound.api import metrics_routes
from outbound.api.app import create_app
from outbound.carriers import base
from outbound.carriers.base import Progress, Verdict
from outbound.node import Node
from outbound.reconciler.table import SWEEPS
from outbound.states import Kind
from plans import explain, settle_down

PORT = 9464


@pytest.fixture(autouse=True)
def every_scrape_reads(monkeypatch):
    monkeypatch.setattr(metrics_routes, "KEEP_SECONDS", 0)


@pytest.fixture
def inside(node) -> Node:
    return replace(node, settings=replace(node.settings, metrics_port=PORT))


@pytest.fixture
def http(inside):
    return falcon.testing.TestClient(create_app(inside, base.load(inside.settings)))


@pytest.fixture
def scrape(http):
    def read(**known):
        answer = http.simulate_get("/metrics", port=PORT, **known)
        assert answer.status_code == 200, answer.text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


@pytest.fixture
def writer(engine):
    """A process that starts to count now; what earlier tests counted in here is not its own."""
    made = metrics.Writer(engine)
    made.write()
    do(engine, "DELETE FROM metric_counts")
    return made


def at(name, **labels):
    return (name, *sorted(labels.items()))


def test_a_port_of_its_own_answers_and_the_public_one_knows_nothing_of_it(http, node):
    assert http.simulate_get("/metrics", port=PORT).status_code == 200
    answer = http.simulate_get("/metrics", port=8000, headers={"Host": f"x:{PORT}"})
    assert answer.status_code == 404
    assert answer.json["type"] == "urn:outbound:problem:not_found"
    without = falcon.testing.TestClient(create_app(node, base.load(node.settings)))
    assert without.simulate_get("/metrics", port=PORT).status_code == 404


def test_it_tells_what_the_tables_hold(scrape, node, engine):
    account = make_account(engine)
    run = make_run(engine, account, [phone(n) for n in range(5)])
    make_run(engine, account, [phone(9)], status="paused")
    placed, lost, *_ = claim(node, account, most=3)
    say(node, placed.attempt_id, Progress.RINGING, "CA1")
    record(node, lost.attempt_id, Kind.AMBIGUOUS)
    do(engine, "UPDATE attempts SET unknown_at = unknown_at - interval '1 hour'")
    seen = scrape()
    assert seen[at("outbound_database_up")] == 1
    assert seen[at("outbound_open_attempts", state="sending")] == 1
    assert seen[at("outbound_open_attempts", state="placed")] == 1
    assert seen[at("outbound_open_attempts", state="unknown")] == 1
    assert 3600 <= seen[at("outbound_oldest_unknown_seconds")] < 3700
    assert seen[at("outbound_open_runs", status="running")] == 1
    assert seen[at("outbound_open_runs", status="paused")] == 1
    assert seen[at("outbound_open_runs", status="scheduled")] == 0
    states = {"queued": 3, "in_progress": 2, "unknown": 1, "completed": 0}
    for state, calls in states.items():
        assert seen[at("outbound_open_run_calls", state=state)] == calls, state
    assert one(engine, "SELECT status FROM runs WHERE id = :id", id=run)["status"] == "running"


def test_an_unknown_of_a_run_that_is_over_is_still_told(scrape, node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    (lost,) = claim(node, account)
    record(node, lost.attempt_id, Kind.AMBIGUOUS)
    seen = scrape()
    assert seen[at("outbound_open_runs", status="running")] == 0
    assert seen[at("outbound_open_attempts", state="unknown")] == 1


def test_a_call_of_which_the_carrier_never_spoke_again_is_told(scrape, node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1), phone(2)])
    silent, heard = claim(node, account)
    record(node, silent.attempt_id, Kind.WORD, progress=Progress.QUEUED, carrier_call_id="CA1")
    record(node, heard.attempt_id, Kind.WORD, progress=Progress.QUEUED, carrier_call_id="CA2")
    say(node, heard.attempt_id, Progress.RINGING, "CA2")
    do(engine, "UPDATE attempts SET placed_at = placed_at - interval '200 s'")
    assert 200 <= scrape()[at("outbound_longest_silent_seconds")] < 260
    say(node, silent.attempt_id, Progress.RINGING, "CA1")
    assert scrape()[at("outbound_longest_silent_seconds")] == 0


STILL = "outbound_longest_standstill_seconds"


@pytest.fixture
def standing(node, engine):
    """A run that nobody has dialled for ten minutes."""
    account = make_account(engine, max_live_calls=1)
    run = make_run(engine, account, [phone(1), phone(2)])
    do(engine, "UPDATE calls SET next_attempt_at = clock_timestamp() - interval '600 s'")
    return account, run


def test_a_run_that_stands_still_is_told(scrape, standing):
    seen = scrape()
    assert 600 <= seen[at(STILL)] < 660
    assert 600 <= seen[at("outbound_oldest_due_call_seconds")] < 660


@pytest.mark.parametrize(
    "reason",
    [
        "UPDATE runs SET status = 'paused'",
        "UPDATE runs SET cancel_requested = true",
        "UPDATE runs SET next_send_at = clock_timestamp() + interval '1 hour'",
        "UPDATE runs SET last_served_at = clock_timestamp()",
        "UPDATE calls SET next_attempt_at = clock_timestamp() + interval '1 hour'",
        "UPDATE account_pace SET stopped = true",
        "UPDATE account_pace SET not_before = clock_timestamp() + interval '1 hour'",
        "UPDATE account_pace SET max_live_calls = 0",
        (
            "INSERT INTO breakers (account_id, carrier, opened_at, next_trial_at, last_error)"
            " SELECT id, 'twilio', clock_timestamp(), clock_timestamp(), 'x' FROM accounts"
        ),
    ],
)
def test_a_run_that_waits_for_a_reason_does_not_stand_still(scrape, standing, engine, reason):
    do(engine, reason)
    assert scrape()[at(STILL)] < 60


def test_a_run_with_a_call_under_way_does_not_stand_still(scrape, standing, node, engine):
    account, _ = standing
    claim(node, account, most=1)
    do(engine, "UPDATE runs SET last_served_at = NULL; UPDATE account_pace SET max_live_calls = 9")
    assert scrape()[at(STILL)] == 0


def test_strays_breakers_and_the_leader_are_told(scrape, node, engine):
    assert scrape()[at("outbound_leader_up")] == 0
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    say(node, call.attempt_id, Progress.RINGING, "CA1")
    say(node, call.attempt_id, Progress.RINGING, "CA2")
    do(
        engine,
        "INSERT INTO leader_epoch (name, epoch, holder) VALUES ('reconciler', 7, :holder)",
        holder=node.worker_id,
    )
    with node.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        seen = scrape()
    assert seen[at("outbound_open_stray_calls")] == 1
    assert seen[at("outbound_open_breakers")] == 0
    assert seen[at("outbound_leader_elections_total")] == 7
    assert seen[at("outbound_leader_up")] == 1
    do(engine, "UPDATE leader_epoch SET holder = 'dead:1'")
    assert scrape()[at("outbound_leader_up")] == 0


def test_processes_and_connections_are_those_that_the_server_sees(scrape):
    seen = scrape()
    assert seen[at("outbound_processes", kind="dramatiq_worker")] == 1
    assert seen[at("outbound_processes", kind="reconciler")] == 0
    assert seen[at("outbound_database_connections", state="active")] >= 1
    assert seen[at("outbound_database_connections_max")] > 10


def test_every_counter_is_there_at_zero_before_anything_happened(scrape, writer):
    seen = {k: v for k, v in scrape().items() if re.search("_total|_bucket|_count|_sum", k[0])}
    assert len(seen) > 150
    assert not any("_created" in name for name, *_ in scrape())
    assert {name for (name, *_), value in seen.items() if value} <= {
        "outbound_leader_elections_total"
    }


def test_claims_conflicts_outcomes_and_unknowns_are_counted(scrape, writer, node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1), phone(2), phone(3)])
    answered, lost, other = claim(node, account)
    make_run(engine, account, [phone(1)])
    assert claim(node, account) == ()
    say(node, answered.attempt_id, Progress.RINGING, "CA1")
    say(node, answered.attempt_id, Progress.ANSWERED, "CA1")
    say(node, answered.attempt_id, Progress.ANSWERED, "CA1")
    record(node, lost.attempt_id, Kind.AMBIGUOUS)
    record(node, other.attempt_id, Kind.REFUSED_CALLEE)
    say(node, lost.attempt_id, Progress.RINGING, "CA1")  # another attempt's id
    writer.write()
    seen = scrape()
    assert seen[at("outbound_claims_total")] == 1
    assert seen[at("outbound_claimed_calls_total")] == 3
    assert seen[at("outbound_dedup_conflicts_total", kind="phone")] == 1
    assert seen[at("outbound_dedup_conflicts_total", kind="carrier_id_taken")] == 1
    settled = "outbound_settled_attempts_total"
    assert seen[at(settled, outcome="answered", source="callback")] == 1
    assert seen[at(settled, outcome="failed", source="answer")] == 1
    assert sum(value for (name, *_), value in seen.items() if name == settled) == 2
    assert seen[at("outbound_unknown_attempts_total")] == 1
    assert seen[at("outbound_first_callback_seconds_count")] == 1


def test_two_processes_add_up_and_what_a_third_died_with_is_not_taken_away(
    scrape, writer, engine, monkeypatch
):
    metrics.carrier_answered(Verdict.ACCEPTED, 0.2)
    writer.write()
    other = metrics.Writer(engine)  # one that counted the same so far
    other.write()
    metrics.carrier_answered(Verdict.ACCEPTED, 0.3)  # and dies before it writes
    seen = scrape()
    labels = {"verdict": "accepted"}
    before = metrics._registry.get_sample_value("outbound_carrier_request_seconds_count", labels)
    assert seen[at("outbound_carrier_request_seconds_count", **labels)] == before
    bucket = seen[at("outbound_carrier_request_seconds_bucket", le="0.25", **labels)]
    assert bucket >= 2  # both processes' one, and this process's earlier ones again


def test_nothing_new_means_nothing_written(writer, engine):
    metrics.http_answered("/api/outbound/runs", 200, 0.1)
    writer.write()
    before = one(engine, "SELECT max(xmin::text::bigint) AS x FROM metric_counts")["x"]
    metrics.http_answered("/health/ready", 200, 0.1)
    writer.write()
    assert one(engine, "SELECT max(xmin::text::bigint) AS x FROM metric_counts")["x"] == before


def test_what_could_not_be_written_goes_with_the_next(scrape, writer, engine):
    metrics.http_answered("/webhooks/twilio/x", 403, 0.1)
    do(engine, "ALTER TABLE metric_counts RENAME TO elsewhere")
    writer._try()
    do(engine, "ALTER TABLE elsewhere RENAME TO metric_counts")
    metrics.http_answered("/webhooks/twilio/x", 403, 0.1)
    writer._try()
    labels = {"area": "webhook", "status": "4xx"}
    assert scrape()[at("outbound_http_request_seconds_count", **labels)] == 2


def test_every_sweep_of_the_table_has_a_label_of_its_own():
    assert {sweep.name for sweep in SWEEPS} <= set(metrics.SWEEPS)


def test_no_label_holds_what_there_can_be_any_number_of(scrape, node, engine):
    account = make_account(engine)
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    say(node, call.attempt_id, Progress.RINGING, "CA-SECRET")
    text_ = str(scrape())
    for known in (account, call.run_id, call.attempt_id, phone(1), "CA-SECRET", node.worker_id):
        assert str(known) not in text_


def test_with_the_database_away_it_says_so_and_no_more(http, inside, engine, monkeypatch):
    def away(*_):
        raise metrics_state.SQLAlchemyError("away")

    monkeypatch.setattr(metrics_state, "_state", away)
    answer = http.simulate_get("/metrics", port=PORT)
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    assert lines == ["outbound_database_up 0.0"]


def test_twenty_scrapes_at_once_are_one_reading_and_none_waits_for_ever(inside, monkeypatch):
    monkeypatch.setattr(metrics_routes, "KEEP_SECONDS", 60)
    monkeypatch.setattr(metrics_routes, "WAIT_SECONDS", 0.05)
    going, go = threading.Event(), threading.Event()
    readings = []

    def slow(engine):
        readings.append(1)
        going.set()
        assert go.wait(20)
        return read(engine)

    read = metrics_state.read
    monkeypatch.setattr(metrics_state, "read", slow)
    client = falcon.testing.TestClient(create_app(inside, base.load(inside.settings)))

    def ask():
        return client.simulate_get("/metrics", port=PORT)

    first = []
    thread = threading.Thread(target=lambda: first.append(ask()))
    thread.start()
    assert going.wait(20)
    assert {ask().status_code for _ in range(5)} == {503}
    go.set()
    thread.join(20)
    assert first[0].status_code == 200
    assert {ask().status_code for _ in range(20)} == {200}
    assert len(readings) == 1


def test_while_a_reading_hangs_nobody_is_shown_an_older_one(inside, http, monkeypatch):
    """Else a counter would fall: another process has told of newer counts in between."""
    monkeypatch.setattr(metrics_routes, "WAIT_SECONDS", 0.05)
    assert http.simulate_get("/metrics", port=PORT).status_code == 200
    with metrics_routes._readings[inside.engine]._lock:
        assert http.simulate_get("/metrics", port=PORT).status_code == 503
    assert http.simulate_get("/metrics", port=PORT).status_code == 200


def test_a_scraper_may_ask_for_openmetrics(http):
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = http.simulate_get("/metrics", port=PORT, headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.rstrip().endswith("# EOF")


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian: prometheus) is missing")
def test_promtool_finds_nothing_to_say_about_names_and_help(http):
    page = http.simulate_get("/metrics", port=PORT).text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


class TestCost:
    """The same, however much is over: on a database of its own, for its statistics."""

    BIG = ("calls", "attempts", "runs", "run_counters")

    @pytest.fixture
    def database_url(self, fresh_database_url):
        return fresh_database_url

    @pytest.fixture
    def pages(self, engine):
        """The pages that each statement reads, and the big tables that it reads whole."""

        def count():
            found = {}
            for name in ("ATTEMPTS", "RUNS", "DUE", "SERVER"):
                values = {"silent": 5} if name == "SERVER" else {}
                with engine.connect() as connection:
                    plan = explain(connection, getattr(metrics_state, name).text, **values)
                found[name] = (plan.buffers, plan.whole)
            return found

        return count

    def test_a_scrape_reads_no_more_after_five_hundred_runs_that_are_over(
        self, node, engine, pages
    ):
        account = make_account(engine)
        make_run(engine, account, [phone(n) for n in range(30)])
        claim(node, account, most=10)
        self.past(engine, account, runs=50)
        settle_down(engine)
        before = pages()
        self.past(engine, account, runs=500)
        settle_down(engine)
        after = pages()
        for name, (count, whole) in after.items():
            assert count <= before[name][0] * 1.5 + 20, (before, after)
            assert not whole & set(self.BIG), after

    def past(self, engine, account, runs):
        """Runs that are over, with calls and attempts that are."""
        made = [make_run(engine, account, status="completed") for _ in range(runs)]
        for statement in (
            "UPDATE runs SET ended_at = now() WHERE id = ANY (CAST(:runs AS uuid[]))",
            (
                "INSERT INTO run_counters (run_id, shard)"
                " SELECT run, n FROM unnest(CAST(:runs AS uuid[])) run, generate_series(1, 15) n"
            ),
            (
                "INSERT INTO calls (run_id, account_id, lead_id, phone, state, outcome)"
                " SELECT run, :account, n, 'p' || n, 'completed', 'answered'"
                "   FROM unnest(CAST(:runs AS uuid[])) run, generate_series(1, 40) n"
            ),
            (
                "INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id,"
                "  carrier, state, phone_held, fence, worker_id, lease_until, claimed_at,"
                "  occupies_until, ended_at)"
                " SELECT gen_random_uuid(), id, run_id, account_id, 1, phone, '+1', 'twilio',"
                "  'ended', false, 1, 'w', now(), now(), now(), now()"
                "   FROM calls WHERE run_id = ANY (CAST(:runs AS uuid[]))"
            ),
        ):
            do(engine, statement, runs=[str(run) for run in made], account=account)
