"""The console's session, and whose requests it takes; and the system."""

import json
from datetime import timedelta

import falcon.testing
import pytest
from sqlalchemy import text

from factories import FakeCarrier, claim, do, make_run, phone, record
from outbound import accounts
from outbound.api import auth
from outbound.api.app import create_app
from outbound.states import Kind

API = "/api/outbound"
HERE = {"Host": "outbound.example", "Origin": "https://outbound.example"}
GENEROUS = {"caller_ids": ["+97231234567"], "calls_per_second": 1000.0}
SAME = HERE | {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def keys(engine):
    with engine.begin() as connection:
        account = accounts.create(connection, "acme", **GENEROUS)
        made = {r: accounts.create_key(connection, account, r) for r in ("viewer", "operator")}
    return account, made


@pytest.fixture
def account(keys):
    return keys[0]


@pytest.fixture
def http(node):
    return falcon.testing.TestClient(create_app(node, FakeCarrier()))


@pytest.fixture
def sign_in(http, keys):
    def send(role="operator", key=None, **headers):
        body = {"key": key or keys[1][role][1]}
        return http.simulate_post("/session", json=body, headers=SAME | headers)

    return send


def cookie_of(answer):
    (made,) = answer.cookies.values()
    return {"Cookie": f"{made.name}={made.value}"}


def pause(http, headers):
    path = f"{API}/runs/01936f7a-5b1e-7c44-9c0f-3a7d6f0e2b11/pause"
    return http.simulate_post(path, headers=headers).status_code


class TestSessions:
    def test_over_https_the_cookie_is_bound_to_this_host_and_unreadable(self, sign_in):
        (made,) = sign_in().cookies.values()
        assert made.name == "__Host-outbound_session"
        assert (made.secure, made.http_only, made.same_site, made.path) == (
            True,
            True,
            "Strict",
            "/",
        )

    def test_the_answer_tells_who_is_signed_in_and_no_secret(self, sign_in, keys):
        answer = sign_in("viewer")
        assert answer.json["role"] == "viewer"
        assert answer.json["account_name"] == "acme"
        assert keys[1]["viewer"][1] not in answer.text

    def test_the_database_has_a_hash_of_the_token_only(self, sign_in, engine):
        (made,) = sign_in().cookies.values()
        with engine.connect() as connection:
            (stored,) = connection.execute(text("SELECT hash FROM sessions")).scalars()
        assert made.value.encode() not in bytes(stored)
        assert len(bytes(stored)) == 32

    def test_a_session_has_the_role_of_its_key(self, http, sign_in):
        viewer, operator = cookie_of(sign_in("viewer")), cookie_of(sign_in("operator"))
        assert pause(http, SAME | viewer) == 403
        assert pause(http, SAME | operator) == 404

    def test_a_page_that_names_another_key_than_the_cookies_is_refused(self, http, sign_in, keys):
        signed_in = sign_in("operator")
        cookie = SAME | cookie_of(signed_in)
        assert signed_in.json["key_id"] == str(keys[1]["operator"][0])
        assert pause(http, cookie | {auth.SIGNED_IN_AS: signed_in.json["key_id"]}) == 404
        assert pause(http, cookie | {auth.SIGNED_IN_AS: str(keys[1]["viewer"][0])}) == 401

    def test_a_revoked_key_ends_its_session(self, http, sign_in, keys, engine):
        cookie = cookie_of(sign_in())
        assert http.simulate_get("/session", headers=cookie).status_code == 200
        with engine.begin() as connection:
            accounts.revoke_key(connection, keys[0], keys[1]["operator"][0])
        assert http.simulate_get("/session", headers=cookie).status_code == 401
        assert http.simulate_get(f"{API}/runs", headers=cookie).status_code == 401

    def test_a_session_that_is_over_is_none_and_the_next_sign_in_forgets_it(
        self, http, sign_in, engine
    ):
        cookie = cookie_of(sign_in())
        do(engine, "UPDATE sessions SET expires_at = clock_timestamp() - interval '1 second'")
        assert http.simulate_get(f"{API}/runs", headers=cookie).status_code == 401
        sign_in()
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM sessions")).scalar() == 1

    def test_signing_out_ends_it_on_the_server_and_twice_is_no_error(self, http, sign_in):
        cookie = cookie_of(sign_in())
        for _ in range(2):
            assert http.simulate_delete("/session", headers=SAME | cookie).status_code == 204
        assert http.simulate_get(f"{API}/runs", headers=cookie).status_code == 401

    def test_a_key_beside_a_cookie_decides_alone(self, http, sign_in):
        both = cookie_of(sign_in()) | {"Authorization": "Bearer ob_wrong"}
        assert http.simulate_get(f"{API}/runs", headers=both).status_code == 401

    @pytest.mark.parametrize("token", ["", "x", "x" * 5000, "é", "ob_"])
    def test_a_made_up_token_is_nobodys(self, http, token):
        cookie = {"Cookie": f"{auth.COOKIE}={token}"}
        assert http.simulate_get(f"{API}/runs", headers=cookie).status_code == 401

    @pytest.mark.parametrize("key", ["ob_wrong", "x", "ob_\u05d0"])
    def test_a_wrong_key_opens_no_session(self, sign_in, key):
        answer = sign_in(key=key)
        assert answer.status_code == 401
        assert answer.cookies == {}


class TestOtherSites:
    """Whoever has the cookie sent along must be a page of ours, also without the browser's word."""

    OURS = [
        {"Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://outbound.example"},
        {"Origin": "http://127.0.0.1:8000"},  # PUBLIC_BASE_URL, before a proxy that renames
    ]
    THEIRS = [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Origin": "https://outbound.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "https://outbound.example.evil.example"},
        {"Origin": "null"},
        {},
    ]

    @pytest.mark.parametrize("headers", OURS, ids=str)
    def test_a_write_of_our_page_is_taken(self, http, sign_in, headers):
        host = {"Host": "outbound.example"}
        assert pause(http, cookie_of(sign_in()) | host | headers) == 404

    @pytest.mark.parametrize("headers", THEIRS, ids=str)
    def test_a_write_of_another_page_is_refused(self, http, sign_in, headers):
        host = {"Host": "outbound.example"}
        assert pause(http, cookie_of(sign_in()) | host | headers) == 403

    @pytest.mark.parametrize("headers", THEIRS, ids=str)
    @pytest.mark.parametrize("method", ["POST", "DELETE"])
    def test_nobody_else_signs_our_browser_in_or_out(self, http, keys, headers, method):
        body = json.dumps({"key": keys[1]["operator"][1]})
        known = {"Host": "outbound.example", "Content-Type": "application/json"} | headers
        answer = http.simulate_request(method, "/session", body=body, headers=known)
        assert answer.status_code == 403
        assert answer.cookies == {}

    def test_a_form_cannot_sign_in(self, http, keys):
        known = SAME | {"Content-Type": "application/x-www-form-urlencoded"}
        body = f"key={keys[1]['operator'][1]}"
        assert http.simulate_post("/session", body=body, headers=known).status_code == 415

    def test_a_key_needs_no_origin(self, http, keys):
        bearer = {"Authorization": f"Bearer {keys[1]['operator'][1]}"}
        assert pause(http, bearer) == 404

    def test_plain_http_is_refused_with_the_reason_but_this_machine_is_not_the_network(
        self, sign_in
    ):
        refused = sign_in(Origin="http://outbound.example")
        assert refused.status_code == 403
        assert "plain http" in refused.json["detail"]
        assert refused.cookies == {}
        for origin in ("http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"):
            (made,) = sign_in(Origin=origin).cookies.values()
            assert (made.name, made.secure) == ("outbound_session", False)


class TestSystem:
    @pytest.fixture
    def read(self, http, keys):
        bearer = {"Authorization": f"Bearer {keys[1]['viewer'][1]}"}
        return lambda: http.simulate_get(f"{API}/system", headers=bearer).json

    def test_a_new_system_has_no_leader_and_this_process_alone(self, read):
        seen = read()
        assert seen["leader"] is None
        assert {one["kind"] for one in seen["processes"]} == {"dramatiq_worker"}
        assert seen["redis"] == "ok"
        assert (seen["unknown"], seen["occupying"], seen["repairs"]) == (0, 0, [])

    def test_a_leader_is_alive_as_long_as_the_database_hears_of_it(self, read, node, engine):
        lead = "INSERT INTO leader_epoch (name, epoch, holder) VALUES ('reconciler', 7, :holder)"
        do(engine, lead, holder=node.worker_id)
        assert read()["leader"]["is_alive"] is True
        do(engine, "UPDATE leader_epoch SET holder = 'gone:1'")
        assert (read()["leader"]["epoch"], read()["leader"]["is_alive"]) == (7, False)

    def test_what_is_unknown_and_who_found_it_is_told_to_its_account_alone(
        self, read, node, engine, account
    ):
        strangers = accounts_other(engine)
        for owner in (account, strangers):
            make_run(engine, owner, [phone(1)])
            (one,) = claim(node, owner)
            record(node, one.attempt_id, Kind.AMBIGUOUS, source="sweep", error="it died")
        seen = read()
        assert seen["unknown"] == 1
        (repair,) = seen["repairs"]
        assert (repair["found_by"], repair["error"]) == ("sweep", "it died")

    def test_an_open_breaker_is_told_with_its_reason(self, read, engine, account):
        opened = """INSERT INTO breakers (account_id, carrier, opened_at, next_trial_at, last_error)
                    VALUES (:account, 'twilio', clock_timestamp(), clock_timestamp(), '20003')"""
        do(engine, opened, account=account)
        (breaker,) = read()["breakers"]
        assert breaker["last_error"] == "20003"


def accounts_other(engine):
    with engine.begin() as connection:
        return accounts.create(connection, "other", **GENEROUS)


class TestLists:
    @pytest.fixture
    def get(self, http, keys):
        bearer = {"Authorization": f"Bearer {keys[1]['viewer'][1]}"}
        return lambda path, **known: http.simulate_get(f"{API}{path}", headers=bearer | known)

    def names(self, answer):
        return [item["name"] for item in answer.json["items"]]

    @pytest.mark.parametrize("asked", ["needle", "NEEDLE", "100%25"])
    def test_runs_are_found_by_a_part_of_their_name(self, get, engine, account, asked):
        make_run(engine, account, name="A needle, 100% sharp")
        make_run(engine, account, name="Hay")
        assert self.names(get(f"/runs?q={asked}")) == ["A needle, 100% sharp"]
        assert self.names(get("/runs?q=_")) == []

    def test_a_run_is_found_by_its_id(self, get, engine, account):
        run = make_run(engine, account, name="One")
        make_run(engine, account, name="Two")
        assert self.names(get(f"/runs?q={str(run).upper()}")) == ["One"]

    def test_calls_are_found_by_lead_and_by_a_part_of_their_phone(self, get, engine, account):
        run = make_run(engine, account, [phone(1), phone(2222)])
        for asked in ("LEAD-1", "552222"):
            (call,) = get(f"/runs/{run}/calls?q={asked}").json["items"]
            assert call["lead_id"] == "lead-1"
        assert get(f"/runs/{run}/calls?q=%25").json["items"] == []

    def test_a_list_that_did_not_change_is_304(self, get, engine, account):
        run = make_run(engine, account, [phone(1)])
        for path in ("/runs", f"/runs/{run}/calls"):
            known = {"If-None-Match": get(path).headers["ETag"]}
            assert get(path, **known).status_code == 304
            do(engine, "UPDATE runs SET status = 'paused'")
            do(engine, "UPDATE calls SET state = 'failed'")
            assert get(path, **known).status_code == 200
            do(engine, "UPDATE runs SET status = 'pending'")
            do(engine, "UPDATE calls SET state = 'queued'")

    def test_calls_on_their_way_are_those_with_an_attempt_that_did_not_end(
        self, get, node, engine, account
    ):
        run = make_run(engine, account, [phone(n) for n in range(3)])
        first, second = claim(node, account, most=2)
        record(node, first.attempt_id, Kind.AMBIGUOUS)

        def found(state):
            return [one["call_id"] for one in get(f"/runs/{run}/calls?state={state}").json["items"]]

        assert found("in_progress") == [str(second.call_id)]
        assert found("unknown") == [str(first.call_id)]
        assert len(found("queued")) == 1


def test_a_session_lasts_twelve_hours(sign_in, engine):
    sign_in()
    with engine.connect() as connection:
        left = connection.execute(text("SELECT expires_at - created_at FROM sessions")).scalar()
    assert abs(left - timedelta(hours=12)).total_seconds() < 5
