"""Suppressed numbers are never called: the claim is the judge."""

from functools import partial

import falcon.testing
import pytest

from factories import (
    FakeCarrier,
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
    rows,
    run_of,
    say,
)
from outbound import accounts, claims, runs, suppressions
from outbound.api import quiet
from outbound.api.app import create_app
from outbound.carriers.base import Progress
from outbound.dialer import Dialer
from outbound.states import Kind
from plans import explained
from processes import wait_until
from races import claim_under_way, held_before_its_commit, in_background, wait_for_a_waiter

API = "/api/outbound"


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def key(engine, account):
    with engine.begin() as connection:
        return accounts.create_key(connection, account, "operator", "Dana's key")


@pytest.fixture
def who(account, key):
    return accounts.Caller(account, key[0], "operator", "req-1")


@pytest.fixture
def carrier():
    return FakeCarrier()


@pytest.fixture
def ask(node, key, carrier):
    http = falcon.testing.TestClient(create_app(node, carrier))

    def send(method, path, body=None, query=None):
        headers = {"Authorization": f"Bearer {key[1]}"}
        known = {} if body is None else {"json": body}
        return http.simulate_request(method, API + path, headers=headers, params=query, **known)

    return send


@pytest.fixture
def suppress(node, account, who):
    return lambda *phones: suppressions.add(node, account, phones, None, who)


class TestTheClaim:
    def test_a_suppressed_call_ends_cancelled_and_the_others_are_claimed(
        self, node, engine, account, suppress
    ):
        run = make_run(engine, account, [phone(n) for n in range(3)])
        suppress(phone(1))
        assert [call.phone for call in claim(node, account)] == [phone(0), phone(2)]
        call = one(engine, "SELECT * FROM calls WHERE phone = :phone", phone=phone(1))
        assert (call["state"], call["outcome"]) == ("cancelled", "cancelled")
        assert (call["last_error"], call["attempts"], call["waiting_for"]) == (
            "suppressed",
            0,
            None,
        )
        assert counters_of(engine, run) == counted_from_rows(engine, run)
        event = one(engine, "SELECT * FROM events WHERE event = 'call_suppressed'")
        assert (event["run_id"], event["call_id"]) == (run, call["id"])

    def test_a_call_that_was_busy_before_keeps_that_outcome(self, node, engine, account, suppress):
        run = make_run(engine, account, [phone(1)], max_attempts=2, retry_delay=0)
        (call,) = claim(node, account)
        say(node, call.attempt_id, Progress.BUSY, "CA1")
        suppress(phone(1))
        assert claim(node, account) == ()
        ended = call_of(engine, call.call_id)
        assert (ended["state"], ended["outcome"]) == ("completed", "busy")
        assert ended["last_error"] == "suppressed"
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_suppressed_and_held_phones_of_one_pass_are_told_apart(
        self, node, engine, account, suppress
    ):
        make_run(engine, account, [phone(1), phone(2)])
        assert len(claim(node, account)) == 2
        run = make_run(engine, account, [phone(1), phone(2), phone(3)])
        suppress(phone(1))
        found = claims.claim(node, "twilio", account, 100, 0)
        assert ([call.phone for call in found.calls], found.aside) == ([phone(3)], 2)
        states = "SELECT phone, state, waiting_for FROM calls WHERE run_id = :run ORDER BY phone"
        assert [tuple(row.values()) for row in rows(engine, states, run=run)] == [
            (phone(1), "cancelled", None),
            (phone(2), "queued", "phone"),
            (phone(3), "dialing", None),
        ]
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_another_accounts_suppression_holds_nobody_back(self, node, engine, account, suppress):
        other = make_account(engine)
        make_run(engine, other, [phone(1)])
        suppress(phone(1))
        assert len(claim(node, other)) == 1

    def test_a_run_whose_last_calls_are_suppressed_ends_and_nobody_is_dialled(
        self, node, engine, account, carrier, suppress
    ):
        run = make_run(engine, account, [phone(n) for n in range(30)])
        suppress(*(phone(n) for n in range(30)))
        dialer = Dialer(node, carrier)
        assert dialer.dial(account) == 0
        assert dialer.close(20)
        assert carrier.requests == []
        assert run_of(engine, run)["status"] == "completed"
        assert counters_of(engine, run)["cancelled"] == 30

    def test_suppressed_calls_in_front_do_not_keep_the_pass_from_the_others(
        self, node, engine, account, carrier, suppress
    ):
        make_run(engine, account, [phone(n) for n in range(60)])
        suppress(*(phone(n) for n in range(50)))
        dialer = Dialer(node, carrier)
        assert dialer.dial(account) == 10
        assert dialer.close(20)
        assert sorted(one.to for one in carrier.requests) == [phone(n) for n in range(50, 60)]

    def test_a_late_word_takes_the_reason_back(self, node, engine, account, suppress):
        run = make_run(engine, account, [phone(1)], max_attempts=2, retry_delay=0)
        (call,) = claim(node, account)
        record(node, call.attempt_id, Kind.AMBIGUOUS)
        record(
            node,
            call.attempt_id,
            Kind.DECISION,
            source="operator",
            decision="redial",
            by="someone",
        )
        suppress(phone(1))
        claim(node, account)
        assert call_of(engine, call.call_id)["last_error"] == "suppressed"
        runs.advance(node, {run})
        say(node, call.attempt_id, Progress.ANSWERED, "CA1")
        ended = call_of(engine, call.call_id)
        assert (ended["outcome"], ended["last_error"]) == ("answered", None)
        assert counters_of(engine, run) == counted_from_rows(engine, run)

    def test_the_look_up_is_one_probe_of_an_index(self, node, engine, account):
        do(
            engine,
            "INSERT INTO suppressions (account_id, phone, actor)"
            " SELECT :account, '+1' || n, 'x' FROM generate_series(2020000000, 2020050000) n",
            account=account,
        )
        do(engine, "ANALYZE suppressions")
        make_run(engine, account, [phone(n) for n in range(20)])
        with explained(node.engine) as plans:
            claim(node, account)
        (plan,) = [plan for plan in plans if plan.name == "claims._CLAIM"]
        assert "suppressions_pkey" in plan.indexes
        assert "suppressions" not in plan.whole


class TestRace:
    def test_a_claim_that_came_first_is_waited_for_and_told_as_in_flight(
        self, ask, node, engine, account, monkeypatch
    ):
        monkeypatch.setattr(quiet, "SETTLE_SECONDS", 0.0)
        make_run(engine, account, [phone(1)])
        with (
            claim_under_way(node, account) as (claimed, commit),
            in_background(ask, "POST", "/suppressions", {"phones": [phone(1)]}) as suppress,
        ):
            assert len(claimed.calls) == 1
            wait_for_a_waiter(engine)
            assert not suppress.done()
            commit()
            answer = suppress.result(60)
        assert (answer.status_code, answer.json["in_flight"]) == (202, 1)

    def test_a_claim_that_comes_later_sees_the_suppression(
        self, node, engine, account, who, monkeypatch
    ):
        make_run(engine, account, [phone(1)])
        add = partial(suppressions.add, node, account, [phone(1)], None, who)
        with (
            held_before_its_commit(monkeypatch, add) as (_, go_on),
            in_background(claim, node, account) as claimed,
        ):
            wait_for_a_waiter(engine)
            go_on()
            assert claimed.result(60) == ()
        assert one(engine, "SELECT state FROM calls")["state"] == "cancelled"


class TestTheApi:
    def test_added_listed_found_and_removed(self, ask, key):
        added = ask(
            "POST", "/suppressions", {"phones": [phone(1), phone(2)], "reason": "asked us to"}
        )
        assert (added.status_code, added.json) == (
            200,
            {"suppressed": 2, "added": 2, "rejected": 0, "rejections": [], "in_flight": 0},
        )
        page = ask("GET", "/suppressions", query={"limit": "1"}).json
        assert page["items"][0]["phone"] == phone(2)
        query = {"cursor": page["next_cursor"]}
        (item,) = ask("GET", "/suppressions", query=query).json["items"]
        assert item | {"created_at": None} == {
            "phone": phone(1),
            "reason": "asked us to",
            "actor": str(key[0]),
            "actor_name": "Dana's key",
            "created_at": None,
        }
        for spelled in (phone(1), "+1 (202) 555-0001"):
            found = ask("GET", "/suppressions", query={"phone": spelled}).json["items"]
            assert [one["phone"] for one in found] == [phone(1)]
        assert ask("DELETE", f"/suppressions/{phone(1)}").status_code == 204
        assert ask("DELETE", f"/suppressions/{phone(1)}").status_code == 404
        assert ask("DELETE", "/suppressions/nonsense").status_code == 404
        assert ask("GET", "/suppressions", query={"phone": phone(1)}).json["items"] == []

    def test_a_plus_that_nobody_escaped_is_understood(self, node, key, ask):
        ask("POST", "/suppressions", {"phones": [phone(1)]})
        http = falcon.testing.TestClient(create_app(node, FakeCarrier()))
        found = http.simulate_get(
            f"{API}/suppressions",
            query_string=f"phone={phone(1)}",
            headers={"Authorization": f"Bearer {key[1]}"},
        )
        assert len(found.json["items"]) == 1

    def test_twice_is_no_error_and_the_first_reason_stays(self, ask, engine):
        for reason in ("first", "second"):
            answer = ask("POST", "/suppressions", {"phones": [phone(1)], "reason": reason})
        assert (answer.status_code, answer.json["suppressed"], answer.json["added"]) == (200, 1, 0)
        assert one(engine, "SELECT reason FROM suppressions")["reason"] == "first"
        assert len(rows(engine, "SELECT * FROM events")) == 1

    def test_numbers_are_written_as_leads_are_and_bad_ones_are_reported(self, ask, engine, account):
        do(engine, "UPDATE accounts SET default_region = 'IL'")
        given = ["050-234-5678", "+972 50 234 5678", "9.72E+11", None, "abc", phone(1)]
        answer = ask("POST", "/suppressions", {"phones": given}).json
        assert (answer["suppressed"], answer["added"], answer["rejected"]) == (2, 2, 3)
        assert answer["rejections"] == [
            {"index": 2, "code": "phone_mangled"},
            {"index": 3, "code": "missing_phone"},
            {"index": 4, "code": "invalid_phone"},
        ]
        found = [row["phone"] for row in rows(engine, "SELECT phone FROM suppressions")]
        assert sorted(found) == [phone(1), "+972502345678"]

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"phones": ["abc"]}, "#/phones/0"),
            ({"phones": []}, "#/phones"),
            ({}, "#/phones"),
            ({"phones": [phone(1)], "note": "x"}, "#/note"),
            ({"phones": [phone(1)] * 10_001}, "#/phones"),
        ],
    )
    def test_a_body_that_suppresses_nobody_is_refused(self, ask, engine, body, pointer):
        answer = ask("POST", "/suppressions", body)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer)
        assert rows(engine, "SELECT * FROM suppressions") == []

    def test_ten_thousand_at_once_are_taken(self, ask, engine):
        phones = [f"+1202{n:07d}" for n in range(5_550_000, 5_560_000)]
        answer = ask("POST", "/suppressions", {"phones": phones})
        assert (answer.status_code, answer.json["added"]) == (200, 10_000)

    def test_it_waits_for_a_request_to_that_phone_and_for_no_other(
        self, ask, node, engine, account, monkeypatch
    ):
        monkeypatch.setattr(quiet, "SETTLE_SECONDS", 0.0)
        make_run(engine, account, [phone(1)])
        (call,) = claim(node, account)
        assert ask("POST", "/suppressions", {"phones": [phone(2)]}).status_code == 200
        waiting = ask("POST", "/suppressions", {"phones": [phone(1)]})
        assert (waiting.status_code, waiting.headers["retry-after"]) == (202, "1")
        say(node, call.attempt_id, Progress.RINGING, "CA1")
        placed = ask("POST", "/suppressions", {"phones": [phone(1)]})
        assert (placed.status_code, placed.json["in_flight"]) == (200, 1)
        say(node, call.attempt_id, Progress.ANSWERED, "CA1")
        over = ask("POST", "/suppressions", {"phones": [phone(1)]})
        assert (over.status_code, over.json["in_flight"]) == (200, 0)

    def test_the_call_shows_why_it_ended(self, ask, node, engine, account, suppress):
        run = make_run(engine, account, [phone(1)])
        suppress(phone(1))
        claim(node, account)
        (call,) = ask("GET", f"/runs/{run}/calls").json["items"]
        assert (call["state"], call["last_error"]) == ("cancelled", "suppressed")
        shown = ask("GET", f"/runs/{run}/calls/{call['call_id']}").json
        assert [entry["event"] for entry in shown["timeline"]] == ["call_suppressed"]


class TestANewRun:
    def body(self, *phones):
        leads = [{"lead_id": f"l{n}", "phone": one} for n, one in enumerate(phones)]
        return {"leads": leads, "twiml": "<Response/>"}

    def test_suppressed_leads_are_rejected_where_they_stand(self, ask, suppress, engine):
        suppress(phone(1), phone(3))
        answer = ask("POST", "/runs", self.body(phone(0), phone(1), "bad", phone(2), phone(3)))
        assert (answer.status_code, answer.json["accepted"], answer.json["rejected"]) == (202, 2, 3)
        assert answer.json["rejections"] == [
            {"index": 1, "lead_id": "l1", "code": "suppressed"},
            {"index": 2, "lead_id": "l2", "code": "invalid_phone"},
            {"index": 4, "lead_id": "l4", "code": "suppressed"},
        ]
        found = [row["phone"] for row in rows(engine, "SELECT phone FROM calls ORDER BY id")]
        assert found == [phone(0), phone(2)]
        kept = ask("GET", f"/runs/{answer.json['run_id']}/rejections").json["items"]
        assert kept == answer.json["rejections"]

    def test_a_run_of_suppressed_leads_alone_is_no_run(self, ask, suppress, engine):
        suppress(phone(1))
        answer = ask("POST", "/runs", self.body(phone(1)))
        assert (answer.status_code, answer.json["errors"][0]["code"]) == (422, "suppressed")
        assert rows(engine, "SELECT * FROM runs") == []

    def test_the_claim_has_the_last_word_on_a_lead_that_was_accepted(
        self, ask, suppress, engine, node, account
    ):
        ask("POST", "/runs", self.body(phone(1)))
        suppress(phone(1))
        wait_until(lambda: claim(node, account) == ())
        assert one(engine, "SELECT state FROM calls")["state"] == "cancelled"
