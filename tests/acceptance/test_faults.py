"""Faults on the real system. The carrier's ledger and the API are the judges."""

import signal
import time

import pytest

from factories import phone
from processes import wait_until


def phones(n, start=0):
    return [
        f"+1202555{i:04d}" if i < 10_000 else f"+1212555{i - 10_000:04d}"
        for i in range(start, start + n)
    ]


def test_a_run_goes_from_post_to_settled(world, engine):
    world.start(workers=1)
    key = world.account(engine)
    run = world.post_run(key, phones(20))
    done = world.wait_for_run(key, run)
    assert done["outcomes"]["answered"] == 20
    assert world.summary()["most_calls_to_one_phone"] == 1
    assert world.summary()["calls"] == 20


@pytest.mark.timeout(200)
def test_two_thousand_leads_survive_lost_answers_lost_callbacks_and_two_killed_workers(
    world, engine
):
    workers = world.start("--mix", "answered=0.6,busy=0.2,no_answer=0.1,failed=0.1")
    world.faults(accept_then_timeout=10, timeout_seconds=3, callbacks_lost=5, callbacks_doubled=5)
    key = world.account(engine)
    run = world.post_run(key, phones(2000), ring_timeout=5, max_call_duration=10)
    for n, worker in enumerate(workers):
        # After a tenth and two tenths of the calls.
        wait_until(lambda n=n: world.summary()["calls"] >= 200 * (n + 1), 60)
        world.run(key, run)
        worker.kill()
        world.start_worker()

    def settled():
        body = world.run(key, run)
        return body["queued"] + body["in_progress"] == 0 and body

    body = wait_until(settled, 150)
    summary, ledger = world.summary(), world.ledger()
    assert summary["most_calls_to_one_phone"] == 1
    assert summary["most_calls_per_attempt"] == 1
    # What the carrier has, it speaks of in the end, by callback or by look-up.
    known = {row["to"] for row in ledger}
    body = wait_until(lambda: (b := world.run(key, run))["unknown"] <= 2000 - len(known) and b, 90)
    assert 2000 - len(known) <= 2 * 8, "only what a dead worker was sending may be missing"
    assert body["status"] == "completed"
    assert sum(body["outcomes"].values()) + body["unknown"] == 2000


def test_a_killed_workers_untouched_calls_go_on_in_another_within_seconds(world, engine):
    first, second = world.start("--ring-seconds", "5")
    key = world.account(engine)
    run = world.post_run(key, phones(400), calls_per_second=40.0)
    wait_until(lambda: world.summary()["calls"] >= 40)
    first.kill()
    before, killed = world.summary()["calls"], time.monotonic()
    wait_until(lambda: world.summary()["calls"] > before + 8, 10)
    assert time.monotonic() - killed < 5
    second.popen.send_signal(signal.SIGKILL)
    assert world.run(key, run)["total_leads"] == 400


def test_a_worker_told_to_stop_finishes_what_is_on_the_wire(world, engine):
    first, _ = world.start()
    world.faults(create_delay_seconds=0.3)
    key = world.account(engine)
    run = world.post_run(key, phones(60))
    wait_until(lambda: world.summary()["calls"] >= 10)
    assert first.terminate() == 0
    assert first.has_logged("worker_stopped", clean=True)
    body = world.wait_for_run(key, run)
    assert body["outcomes"]["answered"] == 60
    assert world.summary()["calls"] == 60


def test_a_run_posted_while_redis_is_away_is_dialled_when_it_is_back(
    stack, world, engine, tmp_path
):
    from outbound.embedded import EmbeddedRedis

    redis = EmbeddedRedis(tmp_path / "redis", durable=False)
    redis.start()
    stack.environment["REDIS_URL"] = redis.url
    world.start()
    key = world.account(engine)
    redis.stop()
    run = world.post_run(key, phones(10))
    assert world.run(key, run)["status"] == "pending"
    redis.start()
    assert world.wait_for_run(key, run)["outcomes"]["answered"] == 10
    redis.stop()


def test_redis_emptied_in_the_middle_of_a_run_loses_nothing(world, engine, redis_url):
    import redis

    world.start()
    key = world.account(engine)
    run = world.post_run(key, phones(100), calls_per_second=50.0)
    wait_until(lambda: world.summary()["calls"] >= 20)
    redis.Redis.from_url(redis_url).flushall()
    world.wait_for_run(key, run)
    assert world.summary()["calls"] == 100
    assert world.summary()["most_calls_to_one_phone"] == 1


def test_the_web_process_restarted_in_the_middle_of_a_run_loses_nothing(world, engine):
    world.start()
    key = world.account(engine)
    run = world.post_run(key, phones(60), calls_per_second=40.0, ring_timeout=5)
    wait_until(lambda: world.summary()["calls"] >= 20)
    world.web.kill_with_children()
    world.start_web()
    # A callback that met nobody is asked for again by the carrier, or looked up.
    world.wait_for_run(key, run, 90)
    assert world.summary()["most_calls_to_one_phone"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        "accept_then_timeout",
        "accept_then_reset",
        "accept_then_500",
        "accept_then_rubbish",
    ],
)
def test_a_create_whose_answer_is_lost_is_called_once_and_counted_right(world, engine, fault):
    world.start(workers=1)
    world.faults(**{fault: 100, "timeout_seconds": 2})
    key = world.account(engine)
    run = world.post_run(key, phones(8))
    done = world.wait_for_run(key, run)
    assert done["outcomes"]["answered"] == 8
    assert world.summary()["calls"] == 8


def test_callbacks_twice_late_and_in_the_wrong_order_count_once(world, engine):
    world.start(workers=1)
    world.faults(
        callbacks_doubled=100,
        callbacks_reordered=50,
        callbacks_delayed=30,
        callback_delay_seconds=1,
        callbacks_forged=50,
    )
    key = world.account(engine)
    run = world.post_run(key, phones(20))
    done = world.wait_for_run(key, run)
    assert done["outcomes"]["answered"] == 20
    assert done["attempts"] == 20
    assert world.summary()["callbacks"]["forged_accepted"] == 0


def test_a_wrong_token_stops_after_a_handful_burns_no_lead_and_says_what_to_do(world, engine):
    world.start(workers=1)
    world.faults(answer_401=100)
    key = world.account(engine)
    run = world.post_run(key, phones(500))
    wait_until(lambda: world.run(key, run)["last_error"], 20)
    body = world.run(key, run)
    assert body["status"] == "running"
    assert "TWILIO_AUTH_TOKEN" in body["last_error"]
    assert body["queued"] + body["in_progress"] == 500
    assert sum(world.summary()["creates_refused_by_reason"].values()) <= 24
    world.faults()
    world.ask("POST", f"/runs/{run}/pause", key)
    assert world.ask("POST", f"/runs/{run}/resume", key).status_code == 200
    assert world.wait_for_run(key, run)["outcomes"]["answered"] == 500


def test_the_same_leads_posted_twice_at_once_ring_each_phone_once(world, engine):
    world.start()
    key = world.account(engine, min_seconds_between_calls=3600)
    runs = [world.post_run(key, phones(500), name=name) for name in ("one", "two")]
    wait_until(lambda: sum(world.run(key, run)["completed"] for run in runs) == 500, 60)
    assert world.summary()["most_calls_to_one_phone"] == 1
    waiting = [world.run(key, run)["queued"] for run in runs]
    assert sum(waiting) == 500


def test_after_pause_answered_200_no_new_request_is_sent_and_after_cancel_neither(world, engine):
    world.start()
    key = world.account(engine)
    run = world.post_run(key, phones(1000), calls_per_second=100.0)
    wait_until(lambda: world.summary()["calls"] >= 50)
    for verb, status in (("pause", "paused"), ("cancel", "cancelled")):
        answer = world.ask("POST", f"/runs/{run}/{verb}", key, json={})
        assert answer.status_code == 200, answer.text
        after = world.summary()["calls"]
        world.wait_for_run(key, run, status=status)
        world.wait_for_run(key, run, in_progress=0)
        assert world.summary()["calls"] == after
        if verb == "pause":
            world.ask("POST", f"/runs/{run}/resume", key)
            wait_until(lambda after=after: world.summary()["calls"] >= after + 50)
    assert world.run(key, run)["cancelled"] > 0


def test_hang_up_ends_calls_that_ring(world, engine):
    world.start("--ring-seconds", "30", workers=1)
    key = world.account(engine)
    run = world.post_run(key, phones(5))
    wait_until(lambda: world.summary()["live_now"] == 5)
    world.ask("POST", f"/runs/{run}/cancel", key, json={"hang_up": True})
    world.wait_for_run(key, run, status="cancelled")
    assert world.summary()["live_now"] == 0


def test_a_persons_decision_dials_an_unknown_again_and_the_run_completes(world, engine):
    world.start(workers=1)
    world.faults(hang_without_accepting=100, timeout_seconds=2)
    key = world.account(engine)
    run = world.post_run(key, phones(1))
    world.wait_for_run(key, run, unknown=1)
    world.faults()
    (call,) = world.ask("GET", f"/runs/{run}/calls?state=unknown", key).json()["items"]
    path = f"/runs/{run}/calls/{call['call_id']}/resolve"
    early = world.ask("POST", path, key, json={"decision": "not_placed"})
    assert early.status_code == 409
    forced = {"decision": "not_placed", "force": True, "note": "the ledger has no such call"}
    assert world.ask("POST", path, key, json=forced).status_code == 200
    done = world.wait_for_run(key, run)
    assert (done["outcomes"]["answered"], done["attempts"]) == (1, 1)
    assert world.summary()["calls"] == 1
    assert phone(0) == world.ledger()[0]["to"]
