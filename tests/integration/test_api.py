"""The HTTP API against the contract: names, codes, roles, bad input, and other people's objects."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import falcon.testing
import pytest

from factories import FakeCarrier, claim, do, make_run, one, phone, record, rows, run_of, say
from outbound import accounts
from outbound.api.app import ROUTES, create_app
from outbound.carriers.base import Progress
from outbound.states import Kind

API = "/api/outbound"


class Client:
    def __init__(self, app, key=None):
        self.http = falcon.testing.TestClient(app)
        self.key = key

    def ask(self, method, path, body=None, headers=None, **known):
        headers = {"Authorization": f"Bearer {self.key}"} | (headers or {})
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            known["body"] = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.http.simulate_request(
            method,
            path if path[:7] in ("/health", "/webhoo") else API + path,
            headers=headers,
            **known,
        )

    def get(self, path, **known):
        return self.ask("GET", path, **known)

    def post(self, path, body=None, **known):
        return self.ask("POST", path, body, **known)


@pytest.fixture
def app(node):
    return create_app(node, FakeCarrier())


def make(engine, name="acme", role="admin", **fields):
    generous = {"caller_ids": ["+97231234567"], "default_twiml": "<Response/>"}
    with engine.begin() as connection:
        account = accounts.create(connection, name, **(generous | fields))
        return account, accounts.create_key(connection, account, role)[1]


@pytest.fixture
def account(engine):
    return make(engine)


@pytest.fixture
def client(app, account):
    return Client(app, account[1])


def body(n=2, **fields):
    return {"leads": [{"lead_id": f"l{i}", "phone": phone(i)} for i in range(n)]} | fields


def codes(answer):
    return {(e["pointer"], e["code"]) for e in answer.json.get("errors", [])}


class TestRuns:
    def test_a_run_is_taken_and_shown(self, client, engine):
        answer = client.post("/runs", body(3, name="November", metadata={"owner": "42"}))
        assert answer.status_code == 202
        made = answer.json
        assert made.keys() == {
            "run_id",
            "status",
            "accepted",
            "duplicates",
            "rejected",
            "rejections",
        }
        assert (made["status"], made["accepted"]) == ("pending", 3)
        assert answer.headers["location"] == f"{API}/runs/{made['run_id']}"
        shown = client.get(f"/runs/{made['run_id']}").json
        expected = {
            "name": "November",
            "status": "pending",
            "total_leads": 3,
            "queued": 3,
            "in_progress": 0,
            "completed": 0,
            "failed": 0,
            "cancelled": 0,
            "unknown": 0,
            "outcomes": {"answered": 0, "busy": 0, "no_answer": 0, "failed": 0, "cancelled": 0},
            "attempts": 0,
            "concurrency": 10,
            "calls_per_second": 1.0,
            "metadata": {"owner": "42"},
            "caller_id": "+97231234567",
            "started_at": None,
            "ended_at": None,
            "last_error": None,
            "cancel_requested": False,
            "can_pause": True,
            "can_resume": False,
            "can_cancel": True,
        }
        assert expected.items() <= shown.items()
        assert shown["created_at"].endswith("Z")
        assert (
            one(engine, "SELECT request_id FROM runs")["request_id"]
            == (answer.headers["x-request-id"])
        )

    def test_defaults_are_those_of_the_contract(self, client, engine):
        client.post("/runs", body())
        run = one(engine, "SELECT * FROM runs")
        assert (
            run["ring_timeout"],
            run["max_call_duration"],
            run["max_attempts"],
            run["retry_delay"],
            run["retry_on"],
            run["on_unknown"],
        ) == (30, 3600, 1, 600, ["busy", "no_answer"], "hold")
        assert (
            client.get("/account").json.items()
            >= {
                "max_live_calls": 20,
                "calls_per_second": 1.0,
                "min_seconds_between_calls": 3600,
            }.items()
        )

    def test_bad_leads_do_not_sink_the_others(self, client, engine):
        leads = [
            {"lead_id": "a", "phone": "+972502345678"},
            {"lead_id": "b", "phone": "nobody"},
            {"lead_id": "a", "phone": "+12025550101"},
            {"lead_id": "c", "phone": "+972-50-234-5678"},
            {"lead_id": "d", "phone": "9.72E+11"},
            {"lead_id": "e", "phone": "050-234-5679"},
            {"phone": "+12025550102"},
            "x",
            {"lead_id": "f", "phone": "+12025550103", "fone": 1},
            {"lead_id": "g", "phone": "+12025550104", "variables": {"k": ["no"]}},
            {"lead_id": "h", "phone": "+12025550105", "variables": {"k": "v"}},
        ]
        answer = client.post("/runs", {"leads": leads}).json
        assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (2, 2, 7)
        assert [(r["index"], r["code"]) for r in answer["rejections"]] == [
            (1, "invalid_phone"),
            (2, "duplicate_lead_id"),
            (3, "duplicate_phone"),
            (4, "phone_mangled"),
            (5, "phone_needs_region"),
            (6, "missing_lead_id"),
            (7, "invalid_lead"),
            (8, "unknown_field"),
            (9, "invalid_variables"),
        ]
        page = client.get(f"/runs/{answer['run_id']}/rejections?limit=4").json
        rest = client.get(f"/runs/{answer['run_id']}/rejections?cursor={page['next_cursor']}").json
        assert [r["index"] for r in page["items"] + rest["items"]] == list(range(1, 10))
        assert rest["next_cursor"] is None

    def test_a_national_number_belongs_to_the_accounts_region(self, app, engine):
        client = Client(app, make(engine, "il", default_region="IL")[1])
        client.post("/runs", {"leads": [{"lead_id": "a", "phone": "050-234-5678"}]})
        assert one(engine, "SELECT phone FROM calls")["phone"] == "+972502345678"

    def test_calls_keep_the_order_of_the_body(self, client, engine):
        client.post("/runs", body(50))
        found = rows(engine, "SELECT phone FROM calls ORDER BY next_attempt_at, id")
        assert [row["phone"] for row in found] == [phone(i) for i in range(50)]

    def test_strange_characters_arrive_as_they_were(self, client, engine):
        lead = {"lead_id": "a\tb\nc\\d\r", "phone": phone(1), "variables": {"n": "\\N \u202e דנה"}}
        client.post("/runs", {"leads": [lead]})
        call = one(engine, "SELECT lead_id, variables FROM calls")
        assert call == {"lead_id": lead["lead_id"], "variables": lead["variables"]}

    @pytest.mark.parametrize(
        ("fields", "pointer", "code"),
        [
            ({"concurrency": -1}, "#/concurrency", "greater_than_equal"),
            ({"concurrency": 1001}, "#/concurrency", "less_than_equal"),
            ({"concurrency": "5"}, "#/concurrency", "int_type"),
            ({"concurrency": True}, "#/concurrency", "int_type"),
            ({"calls_per_second": 0}, "#/calls_per_second", "greater_than_equal"),
            ({"ring_timeout": 601}, "#/ring_timeout", "less_than_equal"),
            ({"retry": {"max_attempts": 21}}, "#/retry/max_attempts", "less_than_equal"),
            ({"retry": {"on": ["answered"]}}, "#/retry/on/0", "unknown_word"),
            ({"concurency": 5}, "#/concurency", "unknown_field"),
            ({"on_unknown": {"action": "redial"}}, "#/on_unknown", "after_goes_with_redial"),
            (
                {"on_unknown": {"action": "redial", "after": 60}},
                "#/on_unknown/after",
                "greater_than_equal",
            ),
            ({"start_at": "tomorrow"}, "#/start_at", "invalid_time"),
            ({"start_at": "2026-01-01T00:00:00"}, "#/start_at", "invalid_time"),
            ({"expires_at": "2020-01-01T00:00:00Z"}, "#/expires_at", "too_early"),
            ({"caller_id": "+12025550199"}, "#/caller_id", "caller_id_not_allowed"),
            ({"caller_id": "me"}, "#/caller_id", "caller_id_not_allowed"),
            ({"answer_url": "http://10.0.0.1/x"}, "#/answer_url", "url_not_allowed"),
            ({"answer_url": "ftp://example.com"}, "#/answer_url", "invalid_url"),
            ({"answer_url": "https://example.com", "twiml": "<R/>"}, "#/twiml", "one_of"),
            ({"metadata": {"x": "y" * 5000}}, "#", "metadata_too_large"),
            ({"leads": []}, "#/leads", "too_short"),
            ({"leads": {}}, "#/leads", "list_type"),
        ],
    )
    def test_what_is_wrong_is_pointed_at_and_nothing_is_stored(
        self, client, engine, fields, pointer, code
    ):
        answer = client.post("/runs", body() | fields)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert (pointer, code) in codes(answer)
        assert rows(engine, "SELECT * FROM runs") == []

    def test_a_hundred_thousand_and_one_leads_are_too_many(self, client, engine):
        answer = client.post("/runs", {"leads": [0] * 100_001})
        assert (answer.status_code, codes(answer)) == (422, {("#/leads", "too_long")})

    def test_no_acceptable_lead_is_no_run(self, client, engine):
        answer = client.post("/runs", {"leads": [{"lead_id": "a", "phone": "1"}] * 150})
        assert answer.status_code == 422
        assert answer.json["type"] == "urn:outbound:problem:no_acceptable_leads"
        assert (len(answer.json["errors"]), answer.json["errors_total"]) == (100, 150)
        assert answer.json["errors"][0]["pointer"] == "#/leads/0/phone"
        assert rows(engine, "SELECT * FROM runs") == []

    def test_duplicates_sink_the_request_if_asked(self, client):
        twice = body()["leads"] * 2
        answer = client.post("/runs", {"leads": twice, "on_duplicate": "reject"})
        assert answer.status_code == 422
        assert ("#/leads/2/lead_id", "duplicate_lead_id") in codes(answer)

    def test_an_account_without_caller_ids_is_told_what_to_do(self, app, engine):
        client = Client(app, make(engine, "new", caller_ids=[])[1])
        answer = client.post("/runs", body())
        assert ("#/caller_id", "no_caller_id") in codes(answer)

    def test_templates_are_checked_lead_by_lead(self, client):
        leads = [
            {"lead_id": "a", "phone": phone(1), "variables": {"name": "Dana"}},
            {"lead_id": "b", "phone": phone(2)},
            {"lead_id": "c", "phone": phone(3), "variables": {"name": "&" * 1000}},
        ]
        answer = client.post("/runs", {"leads": leads, "twiml": "<Say>{{ name }}</Say>"}).json
        assert [r["code"] for r in answer["rejections"]] == ["missing_variable", "twiml_too_long"]

    def test_a_run_may_start_later_and_a_past_start_means_now(self, client, engine):
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert client.post("/runs", body(start_at=later)).json["status"] == "scheduled"
        past = client.post("/runs", body(start_at="2020-01-01T00:00:00Z", name="p"))
        assert past.json["status"] == "pending"

    def test_the_double_clicked_button_makes_one_run(self, client, engine):
        first = client.post("/runs", body())
        second = client.post("/runs", body())
        assert second.status_code == 409
        assert second.json["type"] == "urn:outbound:problem:duplicate_run"
        assert second.json["run_id"] == first.json["run_id"]
        assert client.post("/runs", body(allow_duplicate=True)).status_code == 202
        assert client.post("/runs", body(allow_duplicate=True)).status_code == 202
        do(engine, "UPDATE runs SET created_at = created_at - interval '11 minutes'")
        assert client.post("/runs", body()).status_code == 202

    def test_twenty_parallel_twins_make_one_run(self, client, engine):
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: client.post("/runs", body()), range(20)))
        assert sorted(a.status_code for a in answers) == [202] + [409] * 19
        kinds = {a.json["type"].rpartition(":")[2] for a in answers if a.status_code == 409}
        assert kinds <= {"duplicate_run", "in_progress"}
        assert len(rows(engine, "SELECT * FROM runs")) == 1

    def test_twenty_parallel_posts_with_one_key_make_one_run(self, client, engine):
        headers = {"Idempotency-Key": "k-1"}
        with ThreadPoolExecutor(10) as pool:
            answers = list(
                pool.map(lambda _: client.post("/runs", body(), headers=headers), range(20))
            )
        assert {a.status_code for a in answers} <= {202, 409}
        assert len({a.text for a in answers if a.status_code == 202}) == 1
        assert len(rows(engine, "SELECT * FROM runs")) == 1

    def test_one_key_with_many_bodies_makes_one_run(self, client, engine):
        headers = {"Idempotency-Key": "k-1"}
        with ThreadPoolExecutor(10) as pool:
            answers = list(
                pool.map(
                    lambda n: client.post("/runs", body(name=str(n)), headers=headers), range(20)
                )
            )
        assert {a.status_code for a in answers} <= {202, 409, 422}
        assert len(rows(engine, "SELECT * FROM runs")) == 1

    def test_a_key_gives_the_first_answer_again_and_refuses_another_body(self, client, engine):
        headers = {"Idempotency-Key": "k-1"}
        first = client.post("/runs", body(), headers=headers)
        again = client.post("/runs", body(), headers=headers)
        assert (again.status_code, again.text) == (202, first.text)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]
        other = client.post("/runs", body(3), headers=headers)
        assert other.status_code == 422
        assert other.json["type"].endswith(":idempotency_key_reused")

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é"])
    def test_a_key_that_is_none_is_refused(self, client, key):
        assert client.post("/runs", body(), headers={"Idempotency-Key": key}).status_code == 400

    def test_an_etag_spares_what_did_not_change(self, client, engine, node, account):
        run = client.post("/runs", body()).json["run_id"]
        first = client.get(f"/runs/{run}")
        same = client.get(f"/runs/{run}", headers={"If-None-Match": first.headers["etag"]})
        assert (same.status_code, same.text) == (304, "")
        claim(node, account[0], most=1)
        changed = client.get(f"/runs/{run}", headers={"If-None-Match": first.headers["etag"]})
        assert changed.status_code == 200

    def test_lists_are_newest_first_and_stable_while_new_ones_come(self, client):
        made = [client.post("/runs", body(name=str(n))).json["run_id"] for n in range(5)]
        page = client.get("/runs?limit=2").json
        client.post("/runs", body(name="new"))
        rest = client.get(f"/runs?limit=5&cursor={page['next_cursor']}").json
        assert [r["run_id"] for r in page["items"] + rest["items"]] == made[::-1]
        assert rest["next_cursor"] is None
        assert client.get("/runs?status=paused").json["items"] == []

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=501",
            "limit=x",
            "limit=-1",
            "cursor=x",
            "cursor=YWJj",
            "status=nope",
        ],
    )
    def test_a_bad_query_is_told(self, client, query):
        assert client.get(f"/runs?{query}").status_code == 422

    def test_pause_resume_and_cancel(self, client):
        run = client.post("/runs", body()).json["run_id"]
        assert client.post(f"/runs/{run}/pause").json["status"] == "paused"
        assert client.post(f"/runs/{run}/pause").status_code == 200
        assert client.post(f"/runs/{run}/resume").json["status"] == "pending"
        cancelled = client.post(f"/runs/{run}/cancel", {"hang_up": False})
        assert (cancelled.status_code, cancelled.json["cancel_requested"]) == (200, True)
        assert client.post(f"/runs/{run}/resume").status_code == 409
        assert client.post(f"/runs/{run}/pause", {"x": 1}).status_code == 422

    def test_pause_answers_202_while_a_request_is_on_its_way(self, client, node, account):
        run = client.post("/runs", body()).json["run_id"]
        claim(node, account[0], most=1)
        answer = client.post(f"/runs/{run}/pause")
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        assert answer.json["status"] == "paused"

    def test_reconcile_once_a_minute(self, client):
        first = client.post("/runs/reconcile")
        assert first.status_code == 200
        assert first.json.keys() == {
            "success",
            "reconciled_count",
            "runs",
            "redialled",
            "unknown",
            "settled",
            "rung",
            "more",
            "duration_ms",
        }
        second = client.post("/runs/reconcile")
        assert second.status_code == 429
        assert 0 < int(second.headers["retry-after"]) <= 60


class TestCalls:
    @pytest.fixture
    def run(self, client):
        return client.post("/runs", body(3, concurrency=1)).json["run_id"]

    def test_a_call_tells_its_attempts_and_what_happened_when(self, client, run, node, account):
        (claimed,) = claim(node, account[0], most=1)
        say(node, claimed.attempt_id, Progress.RINGING, "CA1")
        say(node, claimed.attempt_id, Progress.ANSWERED, "CA1", duration=7)
        shown = client.get(f"/runs/{run}/calls/{claimed.call_id}").json
        (attempt,) = shown["attempts"]
        assert {
            "number": 1,
            "state": "ended",
            "outcome": "answered",
            "carrier": "twilio",
            "carrier_call_id": "CA1",
            "duration": 7,
            "error": None,
        }.items() <= attempt.items()
        told = [entry["event"] for entry in shown["timeline"]]
        assert {
            "run_created",
            "attempt_claimed",
            "carrier_said_ringing",
            "carrier_said_answered",
        } <= set(told)
        assert [e["at"] for e in shown["timeline"]] == sorted(e["at"] for e in shown["timeline"])

    def test_calls_are_filtered_and_paged(self, client, run, node, account):
        (claimed,) = claim(node, account[0], most=1)
        say(node, claimed.attempt_id, Progress.BUSY, "CA1")
        assert len(client.get(f"/runs/{run}/calls?state=queued").json["items"]) == 2
        (busy,) = client.get(f"/runs/{run}/calls?outcome=busy").json["items"]
        assert busy["state"] == "completed"
        page = client.get(f"/runs/{run}/calls?limit=2").json
        rest = client.get(f"/runs/{run}/calls?limit=2&cursor={page['next_cursor']}").json
        assert len({c["call_id"] for c in page["items"] + rest["items"]}) == 3
        assert client.get(f"/runs/{run}/calls?state=nope").status_code == 422

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ("UPDATE runs SET status = 'paused'", "paused"),
            ("UPDATE runs SET status = 'scheduled'", "start_at"),
            (
                """INSERT INTO breakers
                   SELECT id, 'twilio', now(), now() + '1 hour', 'x' FROM accounts""",
                "breaker",
            ),
            ("UPDATE account_pace SET stopped = true", "stopped"),
            ("UPDATE runs SET next_send_at = now() + interval '1 hour'", "pace"),
            ("UPDATE calls SET next_attempt_at = now() + '1 hour', waiting_for = 'retry'", "retry"),
            ("UPDATE calls SET next_attempt_at = now() + '1 hour', waiting_for = 'phone'", "phone"),
            ("UPDATE runs SET name = name", None),
        ],
    )
    def test_each_waiting_call_says_why(self, client, run, engine, change, why):
        do(engine, change)
        items = client.get(f"/runs/{run}/calls").json["items"]
        assert {call["waiting_for"] for call in items} == {why}

    def test_a_call_that_waits_for_a_slot_says_so(self, client, run, node, account, engine):
        claim(node, account[0], most=1)
        do(engine, "UPDATE runs SET next_send_at = NULL")
        do(engine, "UPDATE account_pace SET next_send_at = NULL")
        items = client.get(f"/runs/{run}/calls?state=queued").json["items"]
        assert {call["waiting_for"] for call in items} == {"slots"}

    def test_the_export_is_harmless_in_a_spreadsheet(self, client):
        leads = [{"lead_id": '=HYPERLINK("x")', "phone": phone(1)}]
        run = client.post("/runs", {"leads": leads}).json["run_id"]
        answer = client.get(f"/runs/{run}/calls.csv")
        assert answer.content.startswith(b"\xef\xbb\xbf")
        header, row = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
        assert row[header.index("lead_id")] == '\'=HYPERLINK("x")'
        assert row[header.index("phone")] == "'" + phone(1)

    def test_a_persons_decision(self, client, run, node, account, engine):
        (claimed,) = claim(node, account[0], most=1)
        record(node, claimed.attempt_id, Kind.AMBIGUOUS)
        path = f"/runs/{run}/calls/{claimed.call_id}/resolve"
        assert client.post(path, {"decision": "placed"}).status_code == 422
        assert client.post(path, {"decision": "redial"}).status_code == 409
        assert (
            client.post(path, {"decision": "placed", "outcome": "busy"}).json["outcome"] == "busy"
        )
        assert client.post(path, {"decision": "placed", "outcome": "busy"}).status_code == 409
        told = one(engine, "SELECT * FROM events WHERE event = 'decided_placed'")
        assert told["actor"] is not None
        assert told["request_id"] is not None

    def test_not_placed_is_refused_for_a_call_that_the_carrier_named(
        self, client, run, node, account
    ):
        (claimed,) = claim(node, account[0], most=1)
        say(node, claimed.attempt_id, Progress.RINGING, "CA1")
        record(node, claimed.attempt_id, Kind.SILENT, source="look_up")
        answer = client.post(
            f"/runs/{run}/calls/{claimed.call_id}/resolve",
            {"decision": "not_placed", "force": True},
        )
        assert answer.status_code == 409

    def test_all_old_unknowns_are_decided_at_once(self, client, node, engine, account):
        run = client.post("/runs", body(3, name="all")).json["run_id"]
        do(engine, "UPDATE account_pace SET calls_per_second = 1000")
        do(engine, "UPDATE runs SET calls_per_second = 1000")
        for claimed in claim(node, account[0]):
            record(node, claimed.attempt_id, Kind.AMBIGUOUS)
        assert client.post(f"/runs/{run}/resolve", {"decision": "not_placed"}).json == {
            "resolved": 0
        }
        do(engine, "UPDATE attempts SET claimed_at = claimed_at - interval '16 minutes'")
        assert client.post(f"/runs/{run}/resolve", {"decision": "not_placed"}).json == {
            "resolved": 3
        }
        assert client.get(f"/runs/{run}").json["queued"] == 3


class TestWhoMayAsk:
    """Generated from the route table, so that a new route cannot be forgotten."""

    KEYED = [route for route in ROUTES if route.role is not None]
    IDS = [f"{route.method} {route.path}" for route in KEYED]

    def fill(self, route, run):
        return route.path.removeprefix(API).format(
            run_id=run, call_id="1", key_id=run, suppressed=run
        )

    @pytest.fixture
    def run(self, engine, account):
        return make_run(engine, account[0], [phone(1)])

    @pytest.mark.parametrize("route", KEYED, ids=IDS)
    def test_without_a_good_key_it_is_401(self, app, run, engine, account, route):
        with engine.begin() as connection:
            key_id, revoked = accounts.create_key(connection, account[0], "admin")
            accounts.revoke_key(connection, account[0], key_id)
        for key in ("", "ob_wrong", "ob_é".encode().decode("latin-1"), revoked):
            answer = Client(app, key).ask(route.method, self.fill(route, run))
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"

    @pytest.mark.parametrize("route", KEYED, ids=IDS)
    def test_with_too_small_a_role_it_is_403(self, app, run, engine, account, route):
        for role in accounts.Role:
            if role < route.role:
                with engine.begin() as connection:
                    key = accounts.create_key(connection, account[0], role.word)[1]
                assert Client(app, key).ask(route.method, self.fill(route, run)).status_code == 403

    @pytest.mark.parametrize(
        "route",
        [r for r in KEYED if "{" in r.path],
        ids=[f"{r.method} {r.path}" for r in KEYED if "{" in r.path],
    )
    def test_another_accounts_object_does_not_exist(self, app, run, engine, route):
        stranger = Client(app, make(engine, "stranger")[1])
        given = {"decision": "placed", "outcome": "busy"} if "resolve" in route.path else None
        for name in (run, "00000000-0000-7000-8000-000000000000", "nonsense"):
            answer = stranger.ask(route.method, self.fill(route, name), given)
            assert (answer.status_code, answer.json["type"]) == (
                404,
                "urn:outbound:problem:not_found",
            )
        assert run_of(engine, run)["status"] == "pending"


class TestBodies:
    BAD = [
        (b"{", 400),
        (b"\xff", 400),
        (b"[1,]", 400),
        (b"nul", 400),
        (b"NaN", 400),
        (b'{"name": 1e999}', 400),
        (b'{"a": 1, "a": 2}', 400),
        (b'{"name": "\\u0000"}', 400),
        (b'{"name": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 12 + b"1" + b"}" * 12, 400),
        (b"1" * 5000, 400),
        (b"[]", 422),
        (b"1", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b"{}", 422),
        (b'{"leads": [{"lead_id": "a", "phone": "\\u0000"}]}', 400),
    ]

    @pytest.mark.parametrize(("raw", "status"), BAD, ids=[str(b[0][:20]) for b in BAD])
    def test_a_bad_body_is_the_clients_and_stores_nothing(self, client, engine, raw, status):
        answer = client.post("/runs", raw)
        assert answer.status_code == status
        assert answer.json["status"] == status
        assert answer.json["request_id"] == answer.headers["x-request-id"]
        assert rows(engine, "SELECT * FROM runs") == []

    def test_another_content_type_is_415(self, client):
        answer = client.post("/runs", "a=b", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415

    def test_the_input_is_never_echoed(self, client):
        for fields in ({"canary-9f2": 1}, {"name": ["canary-9f2"]}, {"caller_id": "canary-9f2"}):
            answer = client.post("/runs", body() | fields)
            assert answer.status_code == 422
            assert "canary-9f2" not in json.dumps(
                [{k: v for k, v in e.items() if k != "pointer"} for e in answer.json["errors"]]
            )

    def test_unknown_paths_and_methods_are_problems_too(self, client):
        for method, path, status in (("GET", "/nope", 404), ("DELETE", "/runs", 405)):
            answer = client.ask(method, path)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"

    def test_a_sane_request_id_is_kept_and_another_one_is_not(self, client):
        assert (
            client.get("/runs", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"]
            == "abc-1"
        )
        for bad in ("x" * 200, "a b", "a\u00e9"):
            headers = {"X-Request-Id": bad}
            assert client.get("/runs", headers=headers).headers["x-request-id"] != bad


class TestAccount:
    def test_limits_are_changed_and_checked(self, client, engine):
        changed = client.ask("PATCH", "/account", {"max_live_calls": 5, "calls_per_second": 2.5})
        assert (changed.status_code, changed.json["max_live_calls"]) == (200, 5)
        assert changed.json["min_seconds_between_calls"] == 3600
        for bad in (
            {"max_live_calls": 0},
            {"caller_ids": ["x"]},
            {"default_region": "XX"},
            {"nope": 1},
            {"default_answer_url": "https://example.com"},
            {"max_live_calls": None},
            {"default_answer_url": "http://10.0.0.1/x"},
        ):
            assert client.ask("PATCH", "/account", bad).status_code == 422
        assert client.get("/account").json["max_live_calls"] == 5

    def test_a_key_is_shown_once_listed_without_its_secret_and_revoked_at_once(self, app, client):
        made = client.post("/keys", {"role": "viewer", "name": "wall"})
        assert made.status_code == 201
        secret = made.json["key"]
        assert Client(app, secret).get("/runs").status_code == 200
        listed = client.get("/keys?limit=")  # as a form sends it that was not filled in
        assert secret not in listed.text
        assert len(listed.json["items"]) == 2
        assert client.ask("DELETE", f"/keys/{made.json['key_id']}").status_code == 204
        assert Client(app, secret).get("/runs").status_code == 401

    def test_a_replayed_key_is_the_same_key_without_its_secret(self, client, engine):
        headers = {"Idempotency-Key": "k"}
        first = client.post("/keys", {"role": "viewer"}, headers=headers).json
        again = client.post("/keys", {"role": "viewer"}, headers=headers).json
        assert again == first | {"key": None}
        stored = one(engine, "SELECT body FROM idempotency_keys")["body"]
        assert first["key"].encode() not in bytes(stored)


class TestHealth:
    def test_live_and_ready(self, client):
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").json == {
            "database": "ok",
            "redis": "ok",
            "migrations": "ok",
        }

    def test_missing_migrations_are_not_ready(self, client, engine):
        do(engine, "ALTER TABLE alembic_version RENAME TO away")
        answer = client.get("/health/ready")
        do(engine, "ALTER TABLE away RENAME TO alembic_version")
        assert (answer.status_code, answer.json["migrations"]) == (503, "pending")
