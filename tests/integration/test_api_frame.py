"""What surrounds every route: ids, log lines, methods, health, and servers that are away."""

import json
from dataclasses import replace

import falcon.testing
import pytest
import structlog

from factories import FakeCarrier, do, make_run, phone
from outbound import accounts, node, progress
from outbound.api.app import create_app
from outbound.carriers.base import Callback, ForgedCallback, Progress
from outbound.doorbell import NAMESPACE, QUEUE, client

API = "/api/outbound"


class Trusting(FakeCarrier):
    """Takes every callback for genuine, and remembers what it was asked to verify."""

    def read_callback(self, *, url, headers, body):
        self.asked = url, headers, body
        return Callback("CA1", Progress.RINGING)


class Distrusting(FakeCarrier):
    def read_callback(self, *, url, headers, body):
        raise ForgedCallback("no")


@pytest.fixture
def account(engine):
    with engine.begin() as connection:
        account = accounts.create(connection, "acme", caller_ids=["+97231234567"])
        return account, accounts.create_key(connection, account, "admin")[1]


@pytest.fixture
def headers(account):
    return {"Authorization": f"Bearer {account[1]}"}


@pytest.fixture
def http(node):
    return falcon.testing.TestClient(create_app(node, FakeCarrier()))


@pytest.fixture
def away(settings):
    """An API whose servers do not answer."""
    here = replace(
        settings,
        database_url="postgresql://127.0.0.1:1/nowhere",
        redis_url="redis://127.0.0.1:1/0",
    )
    built = node.build(here, "api")
    yield falcon.testing.TestClient(create_app(built, Trusting()))
    built.engine.dispose()
    built.doorbell.close()


class TestLogLines:
    def test_each_request_has_one_line_that_tells_the_route_and_not_the_query(
        self, http, headers, account, lines
    ):
        http.simulate_get(
            f"{API}/runs", query_string="status=paused", headers=headers | {"X-Request-Id": "r-1"}
        )
        (line,) = lines("http_request")
        assert {
            "method": "GET",
            "route": f"{API}/runs",
            "status": 200,
            "request_id": "r-1",
            "account_id": str(account[0]),
        }.items() <= line.items()
        assert line["duration_ms"] >= 0
        assert "paused" not in json.dumps(line)

    def test_a_refused_method_still_tells_its_route_and_an_unknown_path_has_none(self, http, lines):
        http.simulate_delete(f"{API}/runs/42")
        http.simulate_get("/canary-9f2")
        told = lines("http_request")
        assert [(line["status"], line["route"]) for line in told] == [
            (405, f"{API}/runs/{{run_id}}"),
            (404, None),
        ]
        assert "canary" not in json.dumps(told)

    def test_nothing_of_the_last_request_is_left_for_the_next(self, http, headers, lines):
        structlog.contextvars.bind_contextvars(run_id="of somebody else")
        http.simulate_get(f"{API}/runs", headers=headers)
        http.simulate_get(f"{API}/runs")
        known, unknown = lines("http_request")
        assert "run_id" not in known
        assert "account_id" not in unknown

    def test_a_callbacks_lines_are_the_webhooks(self, node, lines):
        http = falcon.testing.TestClient(create_app(node, Distrusting()))
        assert http.simulate_post("/webhooks/twilio/x").status_code == 403
        (refused,) = lines("webhook_refused")
        (request,) = lines("http_request")
        assert refused["consumer_source"] == request["consumer_source"] == "webhook"

    def test_a_bug_is_500_and_one_line_with_its_traceback(self, http, headers, lines, monkeypatch):
        monkeypatch.setattr(progress, "runs", lambda *_: {}["SELECT canary"])
        answer = http.simulate_get(f"{API}/runs", headers=headers | {"X-Request-Id": "r-2"})
        assert answer.status_code == 500
        assert answer.json["type"] == "urn:outbound:problem:internal_error"
        assert "canary" not in answer.text
        (line,) = lines("request_failed")
        assert line["request_id"] == answer.json["request_id"] == "r-2"
        assert line["exception"]


class TestMethodsAndPaths:
    def test_head_answers_as_get_does_but_without_a_body(self, http, engine, headers, account):
        run = make_run(engine, account[0], [phone(1)])
        for path in ("/runs", f"/runs/{run}", f"/runs/{run}/calls", "/account"):
            get = http.simulate_get(API + path, headers=headers)
            head = http.simulate_head(API + path, headers=headers)
            assert (head.status_code, head.text) == (200, "")
            assert head.headers["content-length"] == str(len(get.content))

    def test_head_of_the_export_leaves_no_connection_behind(
        self, http, node, engine, headers, account
    ):
        run = make_run(engine, account[0], [phone(1)])
        for _ in range(20):
            path = f"{API}/runs/{run}/calls.csv"
            assert http.simulate_head(path, headers=headers).status_code == 200
        assert node.engine.pool.checkedout() == 0

    def test_a_trailing_slash_changes_nothing(self, http, headers):
        assert http.simulate_get(f"{API}/runs/", headers=headers).status_code == 200

    def test_a_method_that_a_path_does_not_have_is_405_and_says_which_it_has(self, http):
        answer = http.simulate_get(f"{API}/runs/reconcile")
        assert (answer.status_code, answer.json["status"]) == (405, 405)
        assert "POST" in answer.headers["allow"]

    @pytest.mark.parametrize("bad", ["%00", "%ff", "..%2f", "{run_id}", "%F0%9F%98%80", "a" * 3000])
    def test_a_strange_id_is_an_id_that_nobody_has(self, http, headers, account, engine, bad):
        run = make_run(engine, account[0], [phone(1)])
        for path in (f"/runs/{bad}", f"/runs/{run}/calls/{bad}"):
            assert http.simulate_get(API + path, headers=headers).status_code == 404
        assert http.simulate_delete(f"{API}/keys/{bad}", headers=headers).status_code == 404


class TestKeys:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_scheme_is_spelled_as_one_likes(self, http, account, scheme):
        headers = {"Authorization": f"{scheme} {account[1]}"}
        assert http.simulate_get(f"{API}/account", headers=headers).status_code == 200

    @pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer x"])
    def test_anything_else_is_401_and_says_how_to_ask(self, http, account, given):
        headers = {} if given is None else {"Authorization": given.format(account[1])}
        answer = http.simulate_get(f"{API}/account", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_keys_are_paged(self, http, engine, headers, account):
        with engine.begin() as connection:
            for _ in range(4):
                accounts.create_key(connection, account[0], "viewer")
        path = f"{API}/keys"
        first = http.simulate_get(path, headers=headers, query_string="limit=3").json
        rest = http.simulate_get(
            path, headers=headers, query_string=f"limit=3&cursor={first['next_cursor']}"
        ).json
        assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [3, 2, None]
        assert len({key["key_id"] for key in first["items"] + rest["items"]}) == 5


class TestAccount:
    def patch(self, http, headers, changes):
        headers = headers | {"Content-Type": "application/json"}
        return http.simulate_patch(f"{API}/account", body=json.dumps(changes), headers=headers)

    def queued(self, settings):
        redis = client(settings, read_seconds=1)
        try:
            return redis.llen(f"{NAMESPACE}:{QUEUE}")
        finally:
            redis.close()

    def test_a_raised_limit_rings_and_a_lowered_one_does_not(self, http, headers, settings):
        assert self.patch(http, headers, {"max_live_calls": 1}).status_code == 200
        assert self.queued(settings) == 0
        assert self.patch(http, headers, {"max_live_calls": 50}).status_code == 200
        assert self.queued(settings) > 0

    def test_a_refused_change_changes_nothing_and_rings_nobody(self, http, headers, settings):
        bad = {"max_live_calls": 50, "default_region": "XX"}
        assert self.patch(http, headers, bad).status_code == 422
        shown = http.simulate_get(f"{API}/account", headers=headers).json
        assert shown["max_live_calls"] == 20
        assert self.queued(settings) == 0


class TestServersAway:
    def test_without_the_database_every_question_is_503_and_worth_asking_again(self, away):
        headers = {"Authorization": "Bearer ob_" + "x" * 40}
        answer = away.simulate_get(f"{API}/runs", headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["type"] == "urn:outbound:problem:unavailable"
        assert "127.0.0.1" not in answer.text

    def test_without_the_database_the_carrier_is_told_to_call_again(self, away):
        path = "/webhooks/twilio/01a20d15-8a58-7d1b-a31e-9e27377c5aa5"
        assert away.simulate_post(path).status_code == 503

    def test_without_the_database_it_lives_but_is_not_ready(self, away):
        assert away.simulate_get("/health/live").status_code == 200
        answer = away.simulate_get("/health/ready")
        assert answer.status_code == 503
        assert (answer.json["database"], answer.json["redis"]) == ("down", "degraded")

    def test_without_redis_runs_can_be_taken(self, settings, engine, headers):
        here = node.build(replace(settings, redis_url="redis://127.0.0.1:1/0"), "api")
        http = falcon.testing.TestClient(create_app(here, FakeCarrier()))
        ready = http.simulate_get("/health/ready")
        assert (ready.status_code, ready.json["redis"]) == (200, "degraded")
        run = {"leads": [{"lead_id": "a", "phone": phone(1)}], "twiml": "<Response/>"}
        headers = headers | {"Content-Type": "application/json"}
        taken = http.simulate_post(f"{API}/runs", body=json.dumps(run), headers=headers)
        assert taken.status_code == 202
        here.engine.dispose()
        here.doorbell.close()

    def test_a_database_without_any_migration_is_pending_not_down(self, http, engine):
        do(engine, "ALTER TABLE alembic_version RENAME TO elsewhere")
        try:
            answer = http.simulate_get("/health/ready")
        finally:
            do(engine, "ALTER TABLE elsewhere RENAME TO alembic_version")
        assert (answer.status_code, answer.json["database"]) == (503, "ok")
        assert answer.json["migrations"] == "pending"


def test_a_callback_is_verified_against_the_public_url_and_exactly_what_was_sent(settings, node):
    carrier = Trusting()
    http = falcon.testing.TestClient(create_app(node, carrier))
    path = "/webhooks/twilio/01a20d15-8a58-7d1b-a31e-9e27377c5aa5"
    answer = http.simulate_post(
        path,
        query_string="blank=&b=2",
        body="CallSid=CA1&Blank=",
        extras={"RAW_URI": f"{path}?blank=&b=%32"},  # as gunicorn hands it on
        headers={
            "X-Twilio-Signature": "s",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
        },
    )
    assert answer.status_code == 404
    url, headers, body = carrier.asked
    assert url == f"{settings.public_base_url}{path}?blank=&b=%32"
    assert (headers["x-twilio-signature"], body) == ("s", b"CallSid=CA1&Blank=")
