"""The original fix, a test for each of its lines: two consumers for one queue, and a clean-up
that never ran, had leads called twice, a screen that lied, and runs that stayed stuck."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

import outbound
from factories import claim, do, make_account, make_run, one, phone, rows
from processes import wait_until

SOURCE = Path(outbound.__file__).parent


def phones(n, start=0):
    return [phone(i) for i in range(start, start + n)]


def test_only_a_worker_dials_the_api_and_the_reconciler_never_do(world, engine):
    world.start_carrier()
    world.start_web()
    world.start_reconciler()
    key = world.account(engine)
    run = world.post_run(key, phones(3))
    assert world.ask("POST", "/runs/reconcile", key).status_code == 200
    # Two ticks of the leader, which rings for the due work meanwhile.
    ticks = "SELECT xact_commit AS n FROM pg_stat_database WHERE datname = current_database()"
    before = one(engine, ticks)["n"]
    wait_until(lambda: one(engine, ticks)["n"] > before + 6, 30)
    assert world.summary()["calls"] == 0
    assert world.run(key, run)["status"] == "pending"
    world.start_worker()
    world.wait_for_run(key, run)
    assert world.summary()["calls"] == 3


def test_one_module_calls_place_and_one_module_imports_it():
    calls, imports = set(), set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "place":
                calls.add(path.relative_to(SOURCE).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module == "outbound.dialer":
                imports.add(path.relative_to(SOURCE).as_posix())
    assert calls - {"carriers/emulator/rest.py"} == {"dialer.py"}
    assert imports == {"actors.py", "worker.py"}


def test_locking_two_workers_on_one_queue_claim_each_call_once(world, engine):
    first, second = world.start()
    key = world.account(engine)
    run = world.post_run(key, phones(200))
    world.wait_for_run(key, run)
    claims = [*first.has_logged("calls_claimed"), *second.has_logged("calls_claimed")]
    # On a slow machine a lease may be too short to send: then the call is given back unsent.
    unsent = [*first.has_logged("attempt_released"), *second.has_logged("attempt_released")]
    assert sum(line["claimed"] for line in claims) - len(unsent) == 200
    assert all(line["lock_acquired"] is True for line in claims)
    assert len({line["fence"] for line in claims}) == len(claims)
    assert world.summary()["most_calls_to_one_phone"] == 1


def test_lifecycle_a_run_is_pending_until_the_worker_makes_it_running(world, engine):
    world.start(workers=0)
    key = world.account(engine)
    run = world.post_run(key, phones(50), calls_per_second=20.0)
    assert world.run(key, run)["status"] == "pending"
    assert world.run(key, run)["in_progress"] == 0
    world.start_worker()
    shown = world.wait_for_run(key, run, status="running")
    assert shown["started_at"] is not None
    assert world.wait_for_run(key, run)["ended_at"] is not None


def test_reconcile_repairs_stuck_runs_and_stale_claims_at_once(world, engine, node):
    world.start_web()
    key = world.account(engine)
    run = world.post_run(key, phones(2))
    account = one(engine, "SELECT id FROM accounts")["id"]
    assert len(claim(node, account)) == 2
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")
    answer = world.ask("POST", "/runs/reconcile", key).json()
    assert (answer["unknown"], answer["reconciled_count"]) == (2, 1)
    assert answer["runs"][0] == {
        "run_id": run,
        "old_status": "running",
        "new_status": "completed",
        "reason": "all calls are over",
        "completed_jobs": 0,
        "total_leads": 2,
    }
    again = world.ask("POST", "/runs/reconcile", key)
    assert again.status_code == 429


def test_the_leaders_first_sweep_does_what_the_restart_once_did(world, engine, node):
    account = make_account(engine)
    run = make_run(engine, account, phones(1))
    claim(node, account)
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")
    leader = world.start_reconciler()
    swept = leader.wait_for("sweep_done", sweep="stale_claims")
    assert (swept["unknown"], swept["consumer_source"]) == (1, "reconciler")
    wait_until(
        lambda: one(engine, "SELECT status FROM runs WHERE id = :r", r=run)["status"] == "completed"
    )


def test_the_unique_constraints_are_the_judges(engine, node):
    account = make_account(engine)
    make_run(engine, account, phones(1))
    (call,) = claim(node, account)
    names = {
        row["conname"]
        for row in rows(engine, "SELECT conname FROM pg_constraint WHERE contype = 'u'")
    }
    assert {
        "calls_run_id_lead_id_key",
        "calls_run_id_phone_key",
        "attempts_call_id_number_key",
        "attempts_carrier_carrier_call_id_key",
        "stray_carrier_calls_carrier_carrier_call_id_key",
    } <= names
    assert one(
        engine, "SELECT indexdef FROM pg_indexes WHERE indexname = 'attempts_one_held_phone'"
    )["indexdef"].startswith("CREATE UNIQUE INDEX")
    other = make_run(engine, account, phones(1))
    do(engine, "UPDATE attempts SET carrier_call_id = 'CA1'")
    copy = (
        "INSERT INTO attempts (id, call_id, run_id, account_id, number, phone, caller_id,"
        " carrier, carrier_call_id, state, phone_held, fence, worker_id, lease_until,"
        " claimed_at, occupies_until) SELECT gen_random_uuid(), c.id, c.run_id, a.account_id,"
        " 1, a.phone, a.caller_id, a.carrier, :sid, a.state, :held, a.fence, a.worker_id,"
        " a.lease_until, a.claimed_at, a.occupies_until FROM attempts a, calls c"
        " WHERE c.run_id = :other"
    )
    with pytest.raises(IntegrityError, match="attempts_one_held_phone"):
        do(engine, copy, other=other, sid="CA2", held=True)
    with pytest.raises(IntegrityError, match="attempts_carrier_carrier_call_id_key"):
        do(engine, copy, other=other, sid="CA1", held=False)
    assert call.number == 1


def test_logging_every_line_of_every_process_keeps_the_contract(world, engine, stack):
    workers = world.start()
    key = world.account(engine, min_seconds_between_calls=3600)
    number = phone(7)
    run = world.post_run(key, [number, phone(8)])
    world.wait_for_run(key, run)
    second = world.post_run(key, [number])
    wait_until(lambda: [w for w in workers if w.has_logged("calls_moved_aside")])
    world.http.post(f"{world.base}/webhooks/twilio/x", data={"a": "b"}, timeout=5)
    world.ask("POST", f"/runs/{second}/cancel", key)
    for process in stack.started:
        process.terminate()
    sources = set()
    for process in stack.started:
        for line in process.lines:
            sources.add(hold_line_to_the_contract(process, line, key, number))
    assert sources >= {"api", "dramatiq_worker", "reconciler", "webhook", "cli"}
    events = [event for process in stack.started for event in process.events]
    assert any(e.get("lock_acquired") is True and e["event"] == "leader_elected" for e in events)
    assert any(e.get("lock_acquired") is True and e["event"] == "calls_claimed" for e in events)
    aside = next(e for e in events if e["event"] == "calls_moved_aside")
    assert aside["dedup_conflict"] is True
    for worker in workers:
        assert worker.has_logged("WORKER_START")[0]["consumer_source"] == "dramatiq_worker"
    asked = next(e for e in events if e["event"] == "http_request" and e["method"] == "POST")
    claimed = next(e for e in events if e["event"] == "calls_claimed")
    assert claimed["request_id"] == asked["request_id"]


REQUIRED = {"timestamp", "level", "event", "worker_id", "consumer_source"}
SOURCES = {"api", "dramatiq_worker", "reconciler", "webhook", "cli"}


def hold_line_to_the_contract(process, line, key, number):
    import json
    import re

    assert line.startswith("{"), f"{process.name} printed no JSON: {line}"
    event = json.loads(line)
    assert event.keys() >= REQUIRED, line
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", event["timestamp"])
    assert event["level"] in {"debug", "info", "warning", "error", "critical"}
    assert re.fullmatch(r"[a-z][a-z0-9_]*|WORKER_START|RECONCILER_START", event["event"]), line
    assert re.fullmatch(r".+:\d+", event["worker_id"])
    assert event["consumer_source"] in SOURCES
    for secret in (key, process.name and "test-token-of-the-emulator", number, number[1:]):
        assert secret not in line
    return event["consumer_source"]


def test_two_claimers_of_one_account_never_pass_its_limit(engine, node):
    account = make_account(engine, max_live_calls=5)
    make_run(engine, account, phones(50))
    with ThreadPoolExecutor(10) as pool:
        claimed = sum(pool.map(lambda _: len(claim(node, account, most=2)), range(10)))
    assert claimed == 5
