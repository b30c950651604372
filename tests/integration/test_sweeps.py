"""Each repair: what a crash left, and that it is mended with the usual verbs, once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from factories import (
    FakeCarrier,
    attempt_of,
    call_of,
    claim,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    make_run,
    one,
    phone,
    record,
    run_of,
    say,
)
from outbound import doorbell, unknowns
from outbound.carriers.base import CarrierCall, CarrierUnavailable, Progress
from outbound.errors import Refused, Unavailable
from outbound.reconciler import on_demand, sweeps
from outbound.reconciler.leader import _BECOME, MOST_REST, Reconciler
from outbound.reconciler.sweeps import Deposed, Scope
from outbound.reconciler.table import SWEEPS
from outbound.states import Kind
from plans import statements

BY_NAME = {sweep.name: sweep for sweep in SWEEPS}
EVERYBODY = Scope()


def sweep(node, name, scope=EVERYBODY):
    return sweeps.run_once(node, BY_NAME[name], scope)


@pytest.fixture
def account(engine):
    return make_account(engine)


def lease_ran_out(engine):
    do(engine, "UPDATE attempts SET lease_until = clock_timestamp() - interval '1 s'")


def test_a_claim_whose_lease_ran_out_becomes_unknown(node, engine, account):
    run = make_run(engine, account, [phone(1), phone(2)])
    calls = claim(node, account)
    assert sweep(node, "stale_claims").rows == 0
    lease_ran_out(engine)
    assert sweep(node, "stale_claims").unknown == 2
    assert {call_of(engine, c.call_id)["state"] for c in calls} == {"unknown"}
    assert sweep(node, "stale_claims").rows == 0
    assert counters_of(engine, run) == counted_from_rows(engine, run)


def an_old_unknown(node, engine, account, **columns):
    policy = {"on_unknown": "redial", "on_unknown_after": 900, "max_attempts": 2}
    make_run(engine, account, [phone(1)], **(policy | columns))
    (call,) = claim(node, account)
    record(node, call.attempt_id, Kind.AMBIGUOUS)
    do(
        engine,
        "UPDATE attempts SET empty_lookups = 3,"
        " claimed_at = clock_timestamp() - interval '20 minutes'",
    )
    return call


def test_an_unknown_is_redialled_as_the_runs_author_decided(node, engine, account):
    call = an_old_unknown(node, engine, account)
    assert sweep(node, "redial_unknowns").redialled == 1
    assert attempt_of(engine, call.attempt_id)["decided_by"] == "on_unknown"
    (again,) = claim(node, account)
    assert again.number == 2
    assert sweep(node, "redial_unknowns").rows == 0


@pytest.mark.parametrize(
    "unless",
    [
        "UPDATE runs SET on_unknown = 'hold'",
        "UPDATE runs SET max_attempts = 1",
        "UPDATE runs SET cancel_requested = true",
        "UPDATE runs SET expires_at = clock_timestamp()",
        "UPDATE runs SET on_unknown_after = 3600",
        "UPDATE attempts SET empty_lookups = 2",
        "UPDATE attempts SET heard_at = clock_timestamp()",
        "UPDATE attempts SET carrier_call_id = 'CA1'",
    ],
)
def test_an_unknown_is_redialled_only_when_every_condition_holds(node, engine, account, unless):
    an_old_unknown(node, engine, account)
    do(engine, unless)
    assert sweep(node, "redial_unknowns").rows == 0


def test_a_run_waits_for_an_unknown_that_it_will_redial(node, engine, account):
    an_old_unknown(node, engine, account)
    assert one(engine, "SELECT status FROM runs")["status"] == "running"
    do(engine, "UPDATE runs SET on_unknown = 'hold'")
    assert len(sweep(node, "end_runs").ended) == 1


def test_an_unknown_gives_its_phone_back_after_a_day(node, engine, account):
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    record(node, call.attempt_id, Kind.AMBIGUOUS)
    make_run(engine, account, [phone(1)])
    assert claim(node, account) == ()
    assert sweep(node, "give_phones_back").rows == 0
    do(engine, "UPDATE attempts SET unknown_at = clock_timestamp() - interval '25 hours'")
    sweep(node, "give_phones_back")
    assert attempt_of(engine, call.attempt_id)["state"] == "unknown"
    assert len(claim(node, account)) == 1


def test_a_scheduled_run_becomes_pending_at_its_time(node, engine, account):
    run = make_run(engine, account, [phone(1)], status="scheduled")
    do(engine, "UPDATE runs SET start_at = clock_timestamp() + interval '1 minute'")
    assert sweep(node, "start_scheduled").rows == 0
    do(engine, "UPDATE runs SET start_at = clock_timestamp()")
    assert sweep(node, "start_scheduled").rows == 1
    assert run_of(engine, run)["status"] == "pending"


def test_a_run_whose_last_call_ended_is_completed(node, engine, account):
    run = make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    assert sweep(node, "end_runs").rows == 0
    say(node, call.attempt_id, Progress.ANSWERED, "CA1")
    do(engine, "UPDATE runs SET status = 'running', ended_at = NULL")  # as if the worker had died
    assert sweep(node, "end_runs").ended[0][0].new_status == "completed"
    assert run_of(engine, run)["ended_at"] is not None


def rung(node, actor, account):
    return bool(node.doorbell._redis.delete(doorbell.ring_key(actor, account)))


def test_due_work_that_nobody_claims_is_rung(node, engine, account):
    make_run(engine, account, [phone(1)])
    sweep(node, "ring_due")
    assert rung(node, doorbell.DIAL, account)


def messages(node):
    return node.doorbell._redis.llen(f"{doorbell.NAMESPACE}:{doorbell.QUEUE}")


def test_an_account_whose_ring_still_waits_is_not_rung_again(node, engine, account):
    make_run(engine, account, [phone(1)])
    before = messages(node)
    node.doorbell.ring(account)
    for _ in range(3):
        assert sweep(node, "ring_due").rows == 1
    assert messages(node) == before + 1


def test_a_ring_with_which_a_worker_died_is_made_again(node, engine, account):
    make_run(engine, account, [phone(1)])
    node.doorbell.ring(account)
    node.doorbell._redis.delete(f"{doorbell.NAMESPACE}:{doorbell.QUEUE}")  # a worker fetched it
    assert not node.doorbell.ring(account)
    sweep(node, "ring_due")
    assert messages(node) == 1


def test_who_waits_longest_is_rung_first(node, engine):
    waiting = [make_account(engine) for _ in range(3)]
    for account, ago in zip(waiting, ("1 minute", "1 hour", None), strict=True):
        make_run(engine, account, [phone(1)])
        last = "UPDATE account_pace SET last_claim_at = now() - CAST(:ago AS interval)"
        do(engine, f"{last} WHERE account_id = :account", ago=ago, account=account)
    rung = [account for _, account, _ in sweep(node, "ring_due").rings]
    assert rung == waiting[::-1]


@pytest.mark.parametrize(
    "unless",
    [
        "UPDATE account_pace SET last_claim_at = clock_timestamp()",
        "UPDATE account_pace SET stopped = true",
        "UPDATE account_pace SET max_live_calls = 0",
        "UPDATE account_pace SET not_before = clock_timestamp() + interval '1 minute'",
        "UPDATE runs SET next_send_at = clock_timestamp() + interval '1 minute'",
        "UPDATE runs SET status = 'paused'",
        "UPDATE calls SET next_attempt_at = clock_timestamp() + interval '1 minute'",
    ],
)
def test_work_that_no_claim_would_take_is_not_rung(node, engine, account, unless):
    make_run(engine, account, [phone(1)])
    do(engine, unless)
    assert sweep(node, "ring_due").rows == 0


@pytest.mark.parametrize(
    "why",
    [
        "cancel_requested = true",
        "expires_at = clock_timestamp()",
        "status = 'paused', cancel_requested = true",
    ],
)
def test_queued_calls_of_a_cancelled_or_expired_run_are_rung(node, engine, account, why):
    make_run(engine, account, [phone(1)])
    assert sweep(node, "ring_ending").rows == 0
    do(engine, f"UPDATE runs SET {why}")
    sweep(node, "ring_ending")
    assert rung(node, doorbell.DIAL, account)


def test_what_is_due_for_look_up_is_rung(node, engine, account):
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    assert sweep(node, "ring_look_ups").rows == 0
    record(node, call.attempt_id, Kind.AMBIGUOUS)
    sweep(node, "ring_look_ups")
    assert rung(node, doorbell.RESOLVE, account)


def test_hang_ups_that_are_due_are_rung(node, engine, account):
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    say(node, call.attempt_id, Progress.RINGING, "CA1")
    assert sweep(node, "ring_hang_ups").rows == 0
    do(engine, "UPDATE runs SET hang_up = true")
    sweep(node, "ring_hang_ups")
    assert rung(node, doorbell.HANG_UP, account)


def test_keys_older_than_a_day_are_purged(node, engine, account):
    add = (
        "INSERT INTO idempotency_keys VALUES (:a, :k, '', 202, '{}', '',"
        " clock_timestamp() - CAST(:age AS interval))"
    )
    do(engine, add, a=account, k="old", age="25 hours")
    do(engine, add, a=account, k="young", age="23 hours")
    sweep(node, "purge_keys")
    assert one(engine, "SELECT key FROM idempotency_keys")["key"] == "young"


def become_leader(engine):
    with engine.begin() as connection:
        connection.execute(sweeps.SWEEP_LOCK)
        return connection.execute(_BECOME, {"holder": "x:1"}).scalar_one()


def test_a_deposed_leader_writes_nothing(node, engine, account):
    make_run(engine, account, [phone(1)])
    (call,) = claim(node, account)
    lease_ran_out(engine)
    mine = become_leader(engine)
    become_leader(engine)
    with pytest.raises(Deposed):
        sweep(node, "stale_claims", Scope(epoch=mine))
    assert attempt_of(engine, call.attempt_id)["state"] == "sending"


def test_nobody_becomes_leader_while_a_sweep_is_writing(node, engine, account):
    with engine.connect() as sweeping:
        sweeping.execute(sweeps.SWEEP_LOCK)
        with ThreadPoolExecutor(1) as pool:
            becoming = pool.submit(become_leader, engine)
            waiting = "SELECT count(*) AS n FROM pg_locks WHERE locktype='advisory' AND NOT granted"
            while not one(engine, waiting)["n"]:
                pass
            sweeping.commit()
            assert becoming.result(10) == 1


def test_two_parallel_sweeps_redial_an_unknown_once(node, engine, account):
    an_old_unknown(node, engine, account)
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: sweep(node, "redial_unknowns"), range(4)))
    assert sum(report.redialled for report in reports) == 1


def test_the_leader_rests_between_two_batches_and_not_after_the_last(
    node, engine, account, monkeypatch
):
    monkeypatch.setattr(sweeps, "BATCH", 2)
    make_run(engine, account, [phone(n) for n in range(5)])
    claim(node, account, most=5)
    lease_ran_out(engine)
    leader = Reconciler(node, doorbell.client(node.settings, read_seconds=2))
    assert leader._lock.acquire()
    rests = []
    monkeypatch.setattr(leader._stop, "wait", rests.append)
    try:
        leader._tick(leader._become_leader())
    finally:
        leader._lock.resign()
    assert one(engine, "SELECT count(*) AS n FROM attempts WHERE state = 'unknown'")["n"] == 5
    assert len(rests) == 2
    assert all(0 < seconds <= MOST_REST for seconds in rests)


class TestOnDemand:
    def test_it_repairs_stale_claims_and_stuck_runs_of_its_account_alone(
        self, node, engine, account
    ):
        run = make_run(engine, account, [phone(1)])
        other = make_account(engine)
        make_run(engine, other, [phone(2)])
        claim(node, account)
        (foreign,) = claim(node, other)
        lease_ran_out(engine)

        report = on_demand.reconcile(node, account)

        assert report["success"] is True
        assert report["unknown"] == 1
        assert report["reconciled_count"] == 1
        (listed,) = report["runs"]
        assert listed["run_id"] == str(run)
        assert (listed["old_status"], listed["new_status"]) == ("running", "completed")
        assert listed["total_leads"] == 1
        assert report["more"] is False
        assert attempt_of(engine, foreign.attempt_id)["state"] == "sending"

    def test_once_a_minute_whatever_becomes_of_redis(self, node, engine, account):
        on_demand.reconcile(node, account)
        node.doorbell._redis.flushdb()
        with pytest.raises(Refused) as refused:
            on_demand.reconcile(node, account)
        assert refused.value.status == 429
        assert 50 < refused.value.retry_after <= 60

    def test_twenty_at_once_are_one_and_nineteen_refusals(self, node, account):
        def ask(_):
            try:
                return on_demand.reconcile(node, account)["success"]
            except Refused as refused:
                return refused.status

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(ask, range(20)))
        assert sorted(answers) == [True, *[429] * 19]

    def test_another_sweep_in_the_way_gives_the_minute_back(self, node, engine, account):
        with engine.connect() as other:
            other.execute(sweeps.SWEEP_LOCK)
            with pytest.raises(Unavailable):
                on_demand.reconcile(node, account)
            other.rollback()
        assert on_demand.reconcile(node, account)["success"] is True

    def test_the_number_of_statements_does_not_grow_with_the_runs(self, node, engine):
        def counted(runs):
            account = make_account(engine)
            for run in range(runs):
                make_run(engine, account, [phone(1000 + run)])
                claim(node, account)
            lease_ran_out(engine)
            with statements(node.engine) as seen:
                report = on_demand.reconcile(node, account)
            assert report["reconciled_count"] == runs
            return len(seen)

        assert counted(1) == counted(20)


class TestLookUps:
    def unknown(self, node, engine, account, n=1):
        make_run(engine, account, [phone(n)])
        (call,) = claim(node, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        return call

    def carrier_call(self, engine, call, sid="CA1", progress=Progress.ANSWERED, **known):
        at = attempt_of(engine, call.attempt_id)["claimed_at"]
        values = {"to": call.phone, "caller_id": call.caller_id, "created_at": at, "duration": 3}
        return CarrierCall(sid, progress, **(values | known))

    def test_a_record_that_carries_our_attempt_id_settles_it(self, node, engine, account):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        carrier.calls["CA1"] = self.carrier_call(engine, call)
        carrier.tags["CA1"] = call.attempt_id
        assert unknowns.look_up_due(node, carrier, account) == 1
        assert call_of(engine, call.call_id)["outcome"] == "answered"

    def test_the_only_call_with_our_numbers_in_the_window_settles_it(self, node, engine, account):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        carrier.calls["CA1"] = self.carrier_call(engine, call, progress=Progress.RINGING)
        unknowns.look_up_due(node, carrier, account)
        assert call_of(engine, call.call_id)["state"] == "live"

    @pytest.mark.parametrize(
        "known",
        [
            {"to": "+12025559999"},
            {"caller_id": "+12025559998"},
            {"placed_by_api": False},
            {"created_at": None},
        ],
    )
    def test_a_call_that_does_not_fit_settles_nothing(self, node, engine, account, known):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        carrier.calls["CA1"] = self.carrier_call(engine, call, **known)
        carrier.find = lambda **_: list(carrier.calls.values())
        unknowns.look_up_due(node, carrier, account)
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["state"], attempt["empty_lookups"]) == ("unknown", 1)

    def test_two_calls_with_our_numbers_settle_nothing(self, node, engine, account):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        for sid in ("CA1", "CA2"):
            carrier.calls[sid] = self.carrier_call(engine, call, sid)
        unknowns.look_up_due(node, carrier, account)
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["state"], attempt["empty_lookups"]) == ("unknown", 0)

    def test_numbers_prove_nothing_while_another_unresolved_attempt_has_them(
        self, node, engine, account
    ):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        self.unknown(node, engine, make_account(engine))
        carrier.calls["CA1"] = self.carrier_call(engine, call)
        unknowns.look_up_due(node, carrier, account)
        assert attempt_of(engine, call.attempt_id)["state"] == "unknown"

    def test_finding_nothing_is_counted_and_changes_nothing(self, node, engine, account):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        unknowns.look_up_due(node, carrier, account)
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["state"], attempt["empty_lookups"]) == ("unknown", 1)
        wait = attempt["next_lookup_at"] - attempt["unknown_at"]
        assert 9 < wait.total_seconds() < 11
        assert unknowns.look_up_due(node, carrier, account) == 0

    def test_of_two_calls_that_carry_our_attempt_id_the_older_one_is_adopted(
        self, node, engine, account
    ):
        call, carrier = self.unknown(node, engine, account), FakeCarrier()
        at = attempt_of(engine, call.attempt_id)["claimed_at"]
        for sid, seconds in (("CA-younger", 5), ("CA-older", 1)):
            created = at + timedelta(seconds=seconds)
            carrier.calls[sid] = self.carrier_call(engine, call, sid, created_at=created)
            carrier.tags[sid] = call.attempt_id
        unknowns.look_up_due(node, carrier, account)
        assert attempt_of(engine, call.attempt_id)["carrier_call_id"] == "CA-older"

    def old_unknown(self, node, engine, account):
        call = self.unknown(node, engine, account)
        do(engine, "UPDATE attempts SET unknown_at = unknown_at - interval '2 days'")
        return call

    def seconds_to_the_next(self, engine, call):
        wait = "SELECT extract(epoch FROM next_lookup_at - clock_timestamp()) AS s FROM attempts"
        return one(engine, f"{wait} WHERE id = :id", id=call.attempt_id)["s"]

    def test_a_look_up_that_got_no_answer_comes_again_within_a_minute(self, node, engine, account):
        call, carrier = self.old_unknown(node, engine, account), FakeCarrier()

        def away(**_):
            raise CarrierUnavailable("away")

        carrier.find = away
        unknowns.look_up_due(node, carrier, account)
        assert 55 < self.seconds_to_the_next(engine, call) < 61

    def test_an_answered_look_up_of_an_old_unknown_comes_again_in_a_day(
        self, node, engine, account
    ):
        call, carrier = self.old_unknown(node, engine, account), FakeCarrier()
        unknowns.look_up_due(node, carrier, account)
        assert 86_000 < self.seconds_to_the_next(engine, call) < 86_401

    def test_an_undecided_look_up_keeps_its_pace(self, node, engine, account):
        call, carrier = self.old_unknown(node, engine, account), FakeCarrier()
        for sid in ("CA1", "CA2"):
            carrier.calls[sid] = self.carrier_call(engine, call, sid)
        unknowns.look_up_due(node, carrier, account)
        assert 86_000 < self.seconds_to_the_next(engine, call) < 86_401

    def test_a_placed_call_whose_callbacks_were_lost_is_looked_up(self, node, engine, account):
        make_run(engine, account, [phone(1)])
        (call,) = claim(node, account)
        record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
        attempt = attempt_of(engine, call.attempt_id)
        assert (attempt["next_lookup_at"] - attempt["placed_at"]).total_seconds() == 45
        do(engine, "UPDATE attempts SET next_lookup_at = clock_timestamp()")
        carrier = FakeCarrier()
        carrier.calls["CA1"] = self.carrier_call(engine, call, progress=Progress.NO_ANSWER)
        unknowns.look_up_due(node, carrier, account)
        assert call_of(engine, call.call_id)["outcome"] == "no_answer"

    def test_a_placed_call_becomes_unknown_when_its_look_ups_failed_for_ten_minutes(
        self, node, engine, account
    ):
        make_run(engine, account, [phone(1)])
        (call,) = claim(node, account)
        record(node, call.attempt_id, Kind.WORD, carrier_call_id="CA1", progress=Progress.QUEUED)
        carrier = FakeCarrier()
        for since in ("0 s", "11 minutes"):
            do(
                engine,
                "UPDATE attempts SET next_lookup_at = clock_timestamp(),"
                " lookups_fail_since = lookups_fail_since - CAST(:s AS interval)",
                s=since,
            )
            unknowns.look_up_due(node, carrier, account)
        assert attempt_of(engine, call.attempt_id)["state"] == "unknown"
