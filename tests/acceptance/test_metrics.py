"""What the processes count together, through deaths; and that the dashboards find their lines."""

import io
import json
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from dashboards import LOGS, events_in, expressions, fields_in
from factories import phone
from outbound import claims
from outbound.log_summary import Summary
from processes import free_port, wait_until

COUNTS = ("_total", "_bucket", "_count", "_sum")


@pytest.fixture
def metrics_port(stack):
    port = free_port()
    stack.environment["OUTBOUND_METRICS_PORT"] = str(port)
    return port


@pytest.fixture
def scrape(metrics_port):
    """Ask as Prometheus does: a new connection each time, so any web worker may answer."""

    def read():
        answer = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10)
        assert answer.status_code == 200, answer.text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


def at(name, **labels):
    return (name, *sorted(labels.items()))


def fallen(before, after):
    return {
        series: (value, after.get(series))
        for series, value in before.items()
        if series[0].endswith(COUNTS) and after.get(series, -1) < value
    }


def test_the_public_port_does_not_tell_and_a_header_does_not_change_that(world, metrics_port):
    world.start_web()
    for headers in ({}, {"Host": f"127.0.0.1:{metrics_port}"}, {"X-Forwarded-Port": "9464"}):
        answer = requests.get(f"{world.base}/metrics", headers=headers, timeout=10)
        assert answer.status_code == 404
    told = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10)
    assert told.status_code == 200
    assert "outbound_database_up 1.0" in told.text


@pytest.mark.timeout(400)
def test_all_processes_add_up_and_no_death_takes_anything_back(
    world, engine, stack, scrape, metrics_port
):
    first, second = world.start()
    reconciler = next(one for one in stack.started if one.name == "reconciler")
    key = world.account(engine)
    run = world.post_run(key, [phone(n) for n in range(30)])
    world.wait_for_run(key, run)
    calls = at("outbound_claimed_calls_total")
    settled = at("outbound_settled_attempts_total", outcome="answered", source="callback")
    accepted = at("outbound_carrier_request_seconds_count", verdict="accepted")
    callbacks = at("outbound_first_callback_seconds_count")
    posted = at("outbound_http_request_seconds_count", area="api", status="2xx")
    ticks = at("outbound_leader_ticks_total")

    def all_told():
        seen = scrape()
        thirty = {seen[calls], seen[settled], seen[accepted], seen[callbacks]}
        return thirty == {30} and seen[posted] and seen[ticks] and seen

    seen = wait_until(all_told, 90)
    assert seen[at("outbound_leader_up")] == 1
    assert seen[at("outbound_processes", kind="dramatiq_worker")] == 2
    assert seen[at("outbound_processes", kind="reconciler")] == 1

    workers = Path(f"/proc/{world.web.popen.pid}/task/{world.web.popen.pid}/children")
    for kill in (
        first.kill,
        second.kill,
        reconciler.kill,
        lambda: os.kill(int(workers.read_text().split()[0]), signal.SIGKILL),
    ):
        kill()
        time.sleep(1.1)  # the time that one web process may keep a reading, as any scraper waits
        after = scrape()
        assert fallen(seen, after) == {}
        seen = after
    wait_until(lambda: scrape()[at("outbound_leader_up")] == 0, 30)
    assert scrape()[at("outbound_processes", kind="dramatiq_worker")] == 0

    world.start_worker()
    world.start_reconciler()
    run = world.post_run(key, [phone(n) for n in range(30, 40)])
    world.wait_for_run(key, run)
    wait_until(lambda: scrape()[calls] == 40 and scrape()[settled] == 40, 90)
    wait_until(lambda: scrape()[at("outbound_leader_up")] == 1, 30)

    def elected():
        reconcilers = [one for one in stack.started if one.name == "reconciler"]
        return sum(len(one.has_logged("leader_elected")) for one in reconcilers)

    # Two, or more if a busy machine cost a leader its lock.
    wait_until(lambda: scrape()[at("outbound_leader_elections_total")] == elected() >= 2, 10)


def test_a_worker_that_ends_in_order_leaves_nothing_uncounted(world, engine, scrape):
    (worker,) = world.start(workers=1)
    key = world.account(engine)
    run = world.post_run(key, [phone(1), phone(2)])
    world.wait_for_run(key, run)
    assert worker.terminate() == 0
    # Not "within five seconds": it wrote before it was gone.
    assert wait_until(lambda: scrape()[at("outbound_claimed_calls_total")], 3) == 2


class Everything:
    """Makes the real processes write every line that a dashboard asks for."""

    def __init__(self, world, engine, stack):
        self.world, self.engine, self.stack = world, engine, stack
        self.sent = RequestValidator(stack.environment["TWILIO_AUTH_TOKEN"])

    def happen(self):
        self.world.start_carrier()
        self.world.start_web()
        self.reconciler = self.world.start_reconciler()
        self.key = self.world.account(self.engine, min_seconds_between_calls=3600)
        self.breaker_opens_and_closes()
        self.leads_are_called_and_moved_aside()
        self.number_is_refused()
        self.lease_gets_too_short()
        self.forged_and_foreign_callbacks()
        self.worker_dies_while_sending()
        assert self.reconciler.terminate() == 0

    def breaker_opens_and_closes(self):
        wrong = self.stack.start("worker", TWILIO_AUTH_TOKEN="wrong-token")
        run = self.world.post_run(self.key, [phone(1)])
        wrong.wait_for("call_not_placed")  # which it says after the COMMIT, breaker_opened before
        wrong.kill()
        self.worker = self.world.start_worker()
        assert self.world.ask("POST", f"/runs/{run}/resume", self.key).status_code == 200
        self.world.wait_for_run(self.key, run)
        self.worker.wait_for("breaker_closed")

    def leads_are_called_and_moved_aside(self):
        self.world.wait_for_run(self.key, self.world.post_run(self.key, [phone(2), phone(3)]))
        again = self.world.post_run(self.key, [phone(2)], name="again")
        self.worker.wait_for("calls_moved_aside")
        answer = self.world.ask("POST", f"/runs/{again}/cancel", self.key, json={})
        assert answer.status_code in (200, 202)

    def number_is_refused(self):
        self.world.faults(refuse_503=100)
        run = self.world.post_run(self.key, [phone(4)])
        self.worker.wait_for("call_not_placed", run_id=run)
        self.world.faults()

    def lease_gets_too_short(self):
        """The claim waits for its run until too little of the lease is left to send."""
        with self.engine.connect() as first, self.engine.begin() as then:
            first.execute(text("SELECT FROM account_pace FOR UPDATE"))
            run = self.world.post_run(self.key, [phone(5)])
            then.execute(text("SELECT FROM runs WHERE id = :run FOR UPDATE"), {"run": run})
            first.rollback()
            wait_until(self.claim_has_waited)
        self.worker.wait_for("attempt_released", run_id=run)
        self.world.wait_for_run(self.key, run)

    def claim_has_waited(self):
        name = claims._LOCK_RUN.get_execution_options()["prepared_as"]
        with self.engine.connect() as connection:
            return connection.execute(
                text(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND"
                    " starts_with(query, :waits) AND"
                    " query_start < clock_timestamp() - interval '1.5 s'"
                ),
                {"waits": f"EXECUTE {name} "},
            ).scalar()

    def forged_and_foreign_callbacks(self):
        placed = self.worker.has_logged("call_placed")
        first, second = placed[-1], placed[-2]
        self.call_back(first["attempt_id"], "CA" + "9" * 32)
        self.call_back(first["attempt_id"], second["carrier_call_id"])
        answer = self.world.http.post(f"{self.world.base}/webhooks/twilio/{uuid4()}", timeout=10)
        assert answer.status_code == 403

    def call_back(self, attempt, sid):
        url = f"{self.world.base}/webhooks/twilio/{attempt}"
        form = {"CallSid": sid, "CallStatus": "ringing"}
        headers = {
            "X-Twilio-Signature": self.sent.compute_signature(url, form),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        answer = self.world.http.post(url, data=urlencode(form), headers=headers, timeout=10)
        assert answer.status_code == 204, answer.text

    def worker_dies_while_sending(self):
        self.world.faults(accept_then_timeout=100, timeout_seconds=30, callbacks_lost=100)
        self.world.post_run(self.key, [phone(6), phone(7)])
        wait_until(lambda: {phone(6), phone(7)} <= {row["to"] for row in self.world.ledger()})
        self.worker.kill()
        self.reconciler.wait_for("sweep_done", sweep="stale_claims")


@pytest.mark.timeout(240)
def test_every_line_and_field_of_the_log_dashboard_is_written_by_the_real_processes(
    world, engine, stack, tmp_path
):
    everything = Everything(world, engine, stack)
    everything.happen()
    lines = [line for process in stack.started for line in process.events]
    lines = [line for line in lines if "consumer_source" in line]
    for expression in expressions(LOGS):
        events = events_in(expression)
        for event in events:
            assert any(line["event"] == event for line in lines), (event, expression)
        asked = [line for line in lines if not events or line["event"] in events]
        if "dedup_conflict" in fields_in(expression):
            asked = [line for line in asked if "dedup_conflict" in line]
        for name in fields_in(expression):
            assert any(line.get(name) is not None for line in asked), (name, expression)
    self_told(stack)


def self_told(stack):
    """`outbound logs summary` counts the same lines."""
    counted = Summary()
    told = "\n".join(line for process in stack.started for line in process.lines)
    counted.read(io.BytesIO(told.encode()))
    found = counted.as_dict()
    assert found["claims"] >= 6
    assert found["dedup_conflicts"]["recent_call"] >= 1
    assert found["dedup_conflicts"]["stray_carrier_call"] == 1
    assert found["dedup_conflicts"]["carrier_id_taken"] == 1
    assert found["settled"]["answered"] >= 4
    assert found["unknown"]["sweep stale_claims"] == 2
    assert found["unknown"]["the answer was ambiguous"] >= 1
    assert [one["event"] for one in found["leaders"]] == ["leader_elected", "leader_stepped_down"]
    assert found["http_statuses"]["202"] >= 6
    assert {one["event"] for one in found["errors"]} >= {"breaker_opened", "stray_carrier_call"}
    assert json.dumps(found)
