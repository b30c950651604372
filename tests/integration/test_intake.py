"""Taking a run in: all of it or nothing, once, whatever else happens at the same time."""

import hashlib
import json
import weakref
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from factories import (
    CALLER_ID,
    counted_from_rows,
    counters_of,
    do,
    make_account,
    one,
    phone,
    rows,
    run_of,
)
from outbound import checking, db, idempotency, intake, strict_json
from outbound.accounts import Caller
from outbound.doorbell import Doorbell
from outbound.errors import Refused
from outbound.ids import uuid7


class Bell:
    """A doorbell that only remembers."""

    def __init__(self):
        self.rung = []

    def ring(self, account_id, actor="dial_batch", messages=1):
        self.rung.append((account_id, messages))


@pytest.fixture
def bell():
    return Bell()


@pytest.fixture
def home(node, bell):
    return replace(node, doorbell=bell)


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def caller(account):
    return caller_of(account)


def caller_of(account):
    return Caller(account, uuid7(), "operator", "req-1")


def body(n=2, **fields):
    leads = [{"lead_id": f"l{i}", "phone": phone(i)} for i in range(n)]
    return {"leads": leads, "twiml": "<Response/>"} | fields


def post(node, caller, data, key=None):
    raw = json.dumps(data).encode()
    return intake.create(node, caller, raw, hashlib.sha256(raw).digest(), key)


def refusal(node, caller, data, key=None):
    with pytest.raises(Refused) as refused:
        post(node, caller, data, key)
    return refused.value


def answer(stored):
    return json.loads(stored.body)


def is_empty(engine):
    tables = ("runs", "calls", "run_counters", "rejections", "events", "idempotency_keys")
    return all(rows(engine, f"SELECT FROM {table}") == [] for table in tables)


class TestStoring:
    def test_a_run_is_stored_with_its_calls_counters_and_event(self, home, engine, caller):
        stored = post(home, caller, body(3))
        run = answer(stored)["run_id"]
        assert (stored.status, stored.replayed) == (202, False)
        assert stored.headers == {"Location": f"/api/outbound/runs/{run}"}
        assert counters_of(engine, run) == counted_from_rows(engine, run)
        assert counters_of(engine, run)["queued"] == 3
        event = one(engine, "SELECT * FROM events")
        assert (event["event"], event["actor"], event["request_id"]) == (
            "run_created",
            str(caller.key_id),
            "req-1",
        )

    def test_what_breaks_in_the_middle_leaves_nothing(self, home, engine, caller, monkeypatch):
        def breaks(run_id, rejections):
            raise OSError("out of luck")
            yield

        monkeypatch.setattr(intake, "_rejection_lines", breaks)
        with pytest.raises(DBAPIError, match="out of luck"):
            post(home, caller, body(), "k")
        assert is_empty(engine)
        assert home.doorbell.rung == []
        monkeypatch.undo()
        assert post(home, caller, body(), "k").status == 202

    def test_a_database_lost_in_the_middle_of_the_leads_is_away(
        self, home, engine, caller, monkeypatch
    ):
        copy_lines = intake.copy_lines

        def cut_off(leads):
            do(
                engine,
                """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND state = 'active'
                      AND query LIKE 'COPY%'""",
            )
            yield from copy_lines(leads)

        monkeypatch.setattr(intake, "copy_lines", cut_off)
        with pytest.raises(DBAPIError) as lost:
            post(home, caller, body(), "k")
        assert db.is_away(lost.value)
        monkeypatch.undo()
        assert is_empty(engine)
        assert post(home, caller, body(), "k").status == 202

    def test_long_lines_of_many_bytes_arrive_whole(self, home, engine, caller):
        leads = [
            {
                "lead_id": f"{i}\\\t\n\r" + "ד" * 100,
                "phone": phone(i),
                "variables": {"n": "🙂\\" * 150, "i": i},
            }
            for i in range(200)
        ]
        post(home, caller, {"leads": leads, "twiml": "<Response/>"})
        stored = rows(engine, "SELECT lead_id, phone, variables FROM calls ORDER BY id")
        assert [dict(row) for row in stored] == leads

    def test_all_rejections_are_kept_and_the_first_thousand_told(self, home, engine, caller):
        leads = [{"lead_id": "a", "phone": "1"}] * 1200 + body(1)["leads"]
        told = answer(post(home, caller, body() | {"leads": leads}))
        assert (told["accepted"], told["rejected"], len(told["rejections"])) == (1, 1200, 1000)
        kept = rows(engine, "SELECT index FROM rejections ORDER BY index")
        assert [row["index"] for row in kept] == list(range(1200))

    def test_the_memory_of_the_leads_is_given_back_before_they_are_stored(
        self, home, caller, monkeypatch
    ):
        class Data(dict):
            """A body that can be seen to go."""

        parsed, seen = [], []
        parse, store = strict_json.parse, intake._store

        def watched(raw):
            data = Data(parse(raw))
            parsed.append(weakref.ref(data))
            return data

        def look(*given):
            seen.append(parsed[0]())
            return store(*given)

        monkeypatch.setattr(strict_json, "parse", watched)
        monkeypatch.setattr(intake, "_store", look)
        post(home, caller, body(5))
        assert seen == [None]

    def test_storing_has_more_time_than_other_statements(self, home, caller, monkeypatch):
        seen = []
        store = intake._store

        def look(connection, *given):
            seen.append(connection.exec_driver_sql("SHOW statement_timeout").scalar())
            return store(connection, *given)

        monkeypatch.setattr(intake, "_store", look)
        post(home, caller, body())
        assert seen == ["1min"]
        with home.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "10s"


class TestRinging:
    @pytest.mark.parametrize(("leads", "messages"), [(1, 1), (8, 1), (9, 2), (60, 4)])
    def test_as_many_workers_are_woken_as_have_work(self, home, caller, bell, leads, messages):
        post(home, caller, body(leads))
        assert bell.rung == [(caller.account_id, messages)]

    def test_a_run_that_starts_later_wakes_nobody(self, home, caller, bell, engine):
        start = datetime.now(UTC) + timedelta(hours=1)
        told = answer(post(home, caller, body(3, start_at=start.isoformat())))
        assert (told["status"], bell.rung) == ("scheduled", [])
        due = rows(engine, "SELECT DISTINCT next_attempt_at FROM calls")
        assert [row["next_attempt_at"] for row in due] == [start]

    def test_a_replay_wakes_nobody(self, home, caller, bell):
        post(home, caller, body(), "k")
        post(home, caller, body(), "k")
        assert len(bell.rung) == 1

    def test_without_redis_the_run_exists_all_the_same(self, node, settings, engine, caller):
        cut_off = Doorbell(replace(settings, redis_url="redis://127.0.0.1:1/0"))
        stored = post(replace(node, doorbell=cut_off), caller, body())
        cut_off.close()
        assert run_of(engine, answer(stored)["run_id"])["status"] == "pending"


class TestKeys:
    def test_a_request_whose_first_one_is_being_stored_is_told_at_once(self, home, engine, caller):
        with engine.begin() as first:
            idempotency.lock(first, f"idempotency:{caller.account_id}:k")
            refused = refusal(home, caller, body(), "k")
        assert (refused.code, refused.status, refused.retry_after) == ("in_progress", 409, 1)
        assert is_empty(engine)
        assert post(home, caller, body(), "k").status == 202

    def test_a_known_key_is_answered_before_any_lead_is_looked_at(self, home, caller, monkeypatch):
        first = post(home, caller, body(), "k")
        monkeypatch.setattr(checking, "parse_leads", None)
        again = post(home, caller, body(), "k")
        assert (again.body, again.headers, again.replayed) == (first.body, first.headers, True)
        assert refusal(home, caller, body(3), "k").code == "idempotency_key_reused"

    def test_the_key_is_judged_before_the_twin(self, home, caller):
        first = post(home, caller, body(), "k")
        assert post(home, caller, body(), "k").body == first.body
        twin = refusal(home, caller, body(), "another")
        assert (twin.code, twin.extra) == ("duplicate_run", {"run_id": answer(first)["run_id"]})

    def test_a_refused_request_does_not_use_up_its_key(self, home, caller):
        assert refusal(home, caller, body(concurrency=0), "k").status == 422
        assert post(home, caller, body(), "k").status == 202

    def test_a_key_is_forgotten_after_a_day(self, home, engine, caller):
        post(home, caller, body(), "k")
        do(engine, "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
        assert not post(home, caller, body(3), "k").replayed
        assert post(home, caller, body(3), "k").replayed

    def test_accounts_share_neither_keys_nor_twins(self, home, engine, caller):
        other = caller_of(make_account(engine))
        first = post(home, caller, body(), "k")
        assert not post(home, other, body(), "k").replayed
        assert not post(home, other, body(3), "k2").replayed
        assert refusal(home, caller, body()).extra == {"run_id": answer(first)["run_id"]}


class TestTwins:
    def test_while_the_twin_is_being_stored_asking_again_helps(self, home, engine, caller):
        raw = json.dumps(body()).encode()
        with engine.begin() as first:
            digest = hashlib.sha256(raw).hexdigest()
            idempotency.lock(first, f"twin:{caller.account_id}:{digest}")
            refused = refusal(home, caller, body())
        assert (refused.code, refused.retry_after) == ("in_progress", 1)
        assert is_empty(engine)


class TestTimes:
    @pytest.mark.parametrize("field", ["start_at", "expires_at"])
    def test_a_time_that_could_never_be_read_back_is_refused(self, home, engine, caller, field):
        refused = refusal(home, caller, body(**{field: "9999-12-31T23:59:59-01:00"}))
        assert [(f.pointer, f.code) for f in refused.faults] == [(f"#/{field}", "invalid_time")]
        assert is_empty(engine)

    def test_times_of_other_zones_are_kept_in_utc(self, home, engine, caller):
        times = {
            "start_at": "2130-01-01T00:00:00+02:00",
            "expires_at": "2130-01-01T00:00:00-02:00",
        }
        run = run_of(engine, answer(post(home, caller, body(**times)))["run_id"])
        assert run["start_at"] == datetime(2129, 12, 31, 22, tzinfo=UTC)
        assert run["expires_at"] == datetime(2130, 1, 1, 2, tzinfo=UTC)

    @pytest.mark.parametrize("expires", ["2130-01-01T00:00:00Z", "2129-12-31T23:00:00Z"])
    def test_a_run_never_expires_before_it_starts(self, home, caller, expires):
        refused = refusal(home, caller, body(start_at="2130-01-01T00:00:00Z", expires_at=expires))
        assert [f.code for f in refused.faults] == ["too_early"]


class TestDefaults:
    def test_the_accounts_first_number_calls_unless_another_is_named(self, home, engine, caller):
        do(engine, "UPDATE accounts SET caller_ids = '{+97231234567,+12025550123}'")
        runs = [
            answer(post(home, caller, body(**fields)))["run_id"]
            for fields in ({}, {"caller_id": "+1 202-555-0123"})
        ]
        assert [run_of(engine, run)["caller_id"] for run in runs] == [CALLER_ID, "+12025550123"]

    def test_a_runs_own_script_takes_the_place_of_the_accounts(self, home, engine, caller):
        do(engine, "UPDATE accounts SET default_twiml = '<Say/>'")
        url = "https://crm.example/twiml"
        mine = answer(post(home, caller, body(twiml=None, answer_url=url)))["run_id"]
        default = answer(post(home, caller, body(twiml=None)))["run_id"]
        assert (run_of(engine, mine)["answer_url"], run_of(engine, mine)["twiml"]) == (url, None)
        assert run_of(engine, default)["twiml"] == "<Say/>"

    def test_without_any_script_there_is_nothing_to_say(self, home, caller):
        refused = refusal(home, caller, body(twiml=None))
        assert [(f.pointer, f.code) for f in refused.faults] == [("#/answer_url", "missing")]
