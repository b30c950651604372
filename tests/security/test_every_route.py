"""Every route, asked by everybody about everything: own, another account's, and nobody's.

Generated from the route table. A route that is not among the examples fails.
"""

import json
from dataclasses import dataclass, field
from uuid import uuid4

import falcon.inspect
import falcon.testing
import pytest

from factories import claim as claim_calls
from factories import do, make_run, one, phone
from factories import record as record_word
from outbound import accounts
from outbound.accounts import Role
from outbound.api.app import ROUTES, UNDESCRIBED, create_app
from outbound.api.routing import PREFIX
from outbound.carriers import base
from outbound.states import Kind

PROBLEM = "application/problem+json"
FOREIGN_NUMBER, OWN_NUMBER = "+12025550199", "+12025550188"
PLACED = {"decision": "placed", "outcome": "busy"}
NEW_RUN = {"leads": [{"lead_id": "new", "phone": phone(900)}]}


@dataclass(frozen=True)
class Example:
    """How a route is asked about something of one's own, and what is answered.

    Attributes:
        instead: parts of the path that are another object of the tenant's than usual.
    """

    status: int = 200
    body: dict = field(default_factory=dict)
    instead: dict = field(default_factory=dict)


RUN = f"{PREFIX}/runs/{{run_id}}"
EXAMPLES = {
    ("POST", f"{PREFIX}/runs"): Example(202, NEW_RUN),
    ("GET", f"{PREFIX}/runs"): Example(),
    ("POST", f"{PREFIX}/runs/reconcile"): Example(),
    ("GET", RUN): Example(),
    ("POST", f"{RUN}/pause"): Example(),
    ("POST", f"{RUN}/resume"): Example(),
    ("POST", f"{RUN}/cancel"): Example(body={"hang_up": True}),
    ("POST", f"{RUN}/resolve"): Example(body=PLACED | {"force": True}),
    ("GET", f"{RUN}/rejections"): Example(),
    ("GET", f"{RUN}/calls.csv"): Example(),
    ("GET", f"{RUN}/calls"): Example(),
    ("GET", f"{RUN}/calls/{{call_id}}"): Example(),
    ("POST", f"{RUN}/calls/{{call_id}}/resolve"): Example(body=PLACED),
    ("POST", f"{RUN}/calls/{{call_id}}/cancel"): Example(instead={"call_id": "queued_call"}),
    ("POST", f"{PREFIX}/account/stop"): Example(body={"hang_up": True}),
    ("POST", f"{PREFIX}/account/start"): Example(),
    ("GET", f"{PREFIX}/suppressions"): Example(),
    ("POST", f"{PREFIX}/suppressions"): Example(body={"phones": [phone(901)]}),
    ("DELETE", f"{PREFIX}/suppressions/{{suppressed}}"): Example(204),
    ("GET", f"{PREFIX}/actions"): Example(),
    ("GET", f"{PREFIX}/account"): Example(),
    ("PATCH", f"{PREFIX}/account"): Example(body={"max_live_calls": 5}),
    ("GET", f"{PREFIX}/keys"): Example(),
    ("POST", f"{PREFIX}/keys"): Example(201, {"role": "admin"}),
    ("DELETE", f"{PREFIX}/keys/{{key_id}}"): Example(204),
    ("GET", f"{PREFIX}/system"): Example(),
    # Without a key: a callback is known by its signature alone (test_forgeries.py).
    ("POST", "/webhooks/{carrier_name}/{attempt_id}"): Example(403),
    ("GET", "/health/live"): Example(),
    ("GET", "/health/ready"): Example(),
    ("GET", "/metrics"): Example(404),  # on this port (test_metrics.py)
    ("GET", "/"): Example(),
    ("GET", "/static/{version}/{name}"): Example(404),
    ("GET", "/api/docs"): Example(),
    ("GET", "/session"): Example(401),
    ("POST", "/session"): Example(422),
    ("DELETE", "/session"): Example(403),
    ("GET", "/api/openapi.json"): Example(),
}
ALL = [*ROUTES, *UNDESCRIBED]
TABLE = {(route.method, route.path): route for route in ALL}
KEYED = [route for route in ALL if route.role is not None]
ENOUGH = [(route, role) for route in KEYED for role in Role if role >= route.role]
STRANGERS = ["no key", "garbage", "another scheme", "half a key", "revoked"]
COOKIES = ["garbage", "expired", "of a revoked key", "signed out"]


def name(value):
    return value.word if isinstance(value, Role) else f"{value.method} {value.path}"


class Tenant:
    """An account with a key of each role, a run, and a call that a person may decide on."""

    def __init__(self, node, engine, called, number, first_phone):
        with engine.begin() as connection:
            self.account = accounts.create(
                connection,
                called,
                caller_ids=[number],
                default_twiml=f"<Response><Say>{called}</Say></Response>",
                calls_per_second=1000.0,
            )
            made = {
                role.word: accounts.create_key(connection, self.account, role.word) for role in Role
            }
            spare, _ = accounts.create_key(connection, self.account, "viewer", f"spare of {called}")
            gone, revoked = accounts.create_key(connection, self.account, "admin")
            accounts.revoke_key(connection, self.account, gone)
        self.keys = {role: secret for role, (_, secret) in made.items()} | {"revoked": revoked}
        phones = [phone(first_phone + n) for n in range(2)]
        run = make_run(engine, self.account, phones, name=called, caller_id=number)
        do(
            engine,
            "INSERT INTO rejections (run_id, index, lead_id, code)"
            " VALUES (:run, 7, :lead, 'invalid_phone')",
            run=run,
            lead=f"rejected of {called}",
        )
        never = [phone(first_phone + n) for n in (50, 51)]
        for one_phone in never:
            values = {"account": self.account, "phone": one_phone, "called": called}
            do(
                engine,
                "INSERT INTO suppressions (account_id, phone, reason, actor)"
                " VALUES (:account, :phone, :called, 'x')",
                **values,
            )
            do(
                engine,
                "INSERT INTO events (account_id, event, source, worker_id, actor, details)"
                " VALUES (:account, 'x', 'api', 'w', 'x',"
                " jsonb_build_object('phone', CAST(:phone AS text), 'by', CAST(:called AS text)))",
                **values,
            )
        (claimed,) = claim_calls(node, self.account, most=1)
        record_word(node, claimed.attempt_id, Kind.AMBIGUOUS)
        do(
            engine,
            "INSERT INTO breakers VALUES (:account, 'twilio', now(), now() + '1 hour', 'x')",
            account=self.account,
        )
        self.ids = {
            "run_id": run,
            "call_id": claimed.call_id,
            "queued_call": one(
                engine, "SELECT id FROM calls WHERE run_id = :run AND state = 'queued'", run=run
            )["id"],
            "key_id": spare,
            "suppressed": never[0],
            "attempt_id": claimed.attempt_id,
            "carrier_name": "twilio",
            "version": "1",
            "name": "nobody.js",
        }
        self.marks = [called, number, *phones, *never, str(self.account), *self.keys.values()]
        self.marks += [str(self.ids[one]) for one in ("run_id", "key_id", "attempt_id")]

    def session(self, engine, role):
        """Sign the key of this role in; returns the cookie's token."""
        from outbound import sessions

        with engine.begin() as connection:
            caller = accounts.authenticate(connection, self.keys[role], "sign-in")
            return sessions.start(connection, caller)


@pytest.fixture
def own(node, engine):
    return Tenant(node, engine, "own-tenant", OWN_NUMBER, 4100)


@pytest.fixture
def foreign(node, engine):
    return Tenant(node, engine, "foreign-tenant", FOREIGN_NUMBER, 4200)


@pytest.fixture
def http(node):
    return falcon.testing.TestClient(create_app(node, base.load(node.settings)))


@pytest.fixture
def ask(http):
    def send(route, ids, headers, body=None, method=None, query=""):
        example = EXAMPLES[route.method, route.path]
        body = json.dumps(example.body if body is None else body)
        ids = ids | {part: ids[other] for part, other in example.instead.items() if other in ids}
        return http.simulate_request(
            method or route.method,
            route.path.format(**{part: str(value) for part, value in ids.items()}),
            headers={"Content-Type": "application/json"} | headers,
            body=body if route.method != "GET" else None,
            query_string=query,
        )

    return send


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def headers_of(stranger, tenant):
    admin = tenant.keys["admin"]
    return {
        "no key": {},
        "garbage": bearer("ob_" + "x" * 43),
        "another scheme": {"Authorization": f"Basic {admin}"},
        "half a key": bearer(admin[:-1]),
        "revoked": bearer(tenant.keys["revoked"]),
    }[stranger]


def objects(own, foreign):
    """Everything that one can ask about, but what is one's own."""
    nowhere = {
        "run_id": uuid4(),
        "call_id": 999_999_999,
        "key_id": uuid4(),
        "suppressed": phone(999),
    }
    return {
        "foreign": foreign.ids,
        "nowhere": nowhere,
        "nonsense": dict.fromkeys(nowhere, "nonsense"),
        "foreign call of an own run": foreign.ids | {"run_id": own.ids["run_id"]},
        "own call of a foreign run": own.ids | {"run_id": foreign.ids["run_id"]},
        "own call of no run": own.ids | {"run_id": nowhere["run_id"]},
        "no call of an own run": nowhere | {"run_id": own.ids["run_id"]},
    }


def everything(own, foreign):
    return [own.ids, *objects(own, foreign).values()]


def about_objects(role):
    return [route for route in KEYED if "{" in route.path and role >= route.role]


def meant_for(route, things):
    """Leave out what is one's own for this route, since it has no second id in its path."""
    if "{call_id}" in route.path:
        return things
    return {called: ids for called, ids in things.items() if " of " not in called}


def without_names(answer):
    """Return all of an answer but what names this one request."""
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json
    del body["request_id"], body["instance"]
    told = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "content-length")}
    return answer.status_code, body, told


def test_every_route_is_among_the_examples_and_no_example_is_stale():
    assert set(TABLE) == set(EXAMPLES)


def test_the_application_has_no_route_beside_the_table(node):
    """HEAD is GET without a body; what Falcon answers by itself (OPTIONS, 405) names methods."""
    app = create_app(node, base.load(node.settings))
    found = {
        (method.method, route.path)
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal and method.method != "HEAD"
    }
    assert found == set(TABLE)
    assert falcon.inspect.inspect_sinks(app) == []
    assert falcon.inspect.inspect_static_routes(app) == []


def test_what_takes_no_key_is_named_here():
    assert {route.path for route in ALL if route.role is None} == {
        "/webhooks/{carrier_name}/{attempt_id}",
        "/health/live",
        "/health/ready",
        "/api/openapi.json",
        "/api/docs",
        "/metrics",
        "/",
        "/static/{version}/{name}",
        "/session",
    }


@pytest.mark.parametrize("stranger", STRANGERS)
def test_whoever_has_no_good_key_is_401_whatever_they_ask_about(ask, dump, own, foreign, stranger):
    before, headers = dump(), headers_of(stranger, own)
    for route in KEYED:
        told = [without_names(ask(route, ids, headers)) for ids in everything(own, foreign)]
        assert (name(route), told[0][0]) == (name(route), 401)
        assert all(one == told[0] for one in told), name(route)
    assert dump() == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR], ids=name)
def test_too_small_a_role_is_403_whatever_it_asks_about(ask, dump, own, foreign, role):
    before, headers = dump(), bearer(own.keys[role.word])
    for route in (route for route in KEYED if role < route.role):
        told = [without_names(ask(route, ids, headers)) for ids in everything(own, foreign)]
        assert (name(route), told[0][0]) == (name(route), 403)
        assert all(one == told[0] for one in told), name(route)
    assert dump() == before


@pytest.mark.parametrize(("route", "role"), ENOUGH, ids=name)
def test_a_role_that_suffices_does_its_own_work_and_no_others(ask, dump, own, foreign, route, role):
    before = dump(foreign.account)
    answer = ask(route, own.ids, bearer(own.keys[role.word]))
    assert answer.status_code == EXAMPLES[route.method, route.path].status, answer.text
    assert [mark for mark in foreign.marks if mark in answer.text + str(answer.headers)] == []
    assert dump(foreign.account) == before


@pytest.mark.parametrize("role", Role, ids=name)
def test_anothers_object_is_404_exactly_as_if_it_did_not_exist(ask, dump, own, foreign, role):
    before, headers = dump(), bearer(own.keys[role.word])
    for route in about_objects(role):
        told = {}
        for called, ids in meant_for(route, objects(own, foreign)).items():
            told[called] = without_names(ask(route, ids, headers))
            assert (name(route), called, told[called][0]) == (name(route), called, 404)
        # A call that is missing in a run of one's own is another sentence than a missing run.
        pairs = [("foreign", "nowhere")]
        if "{call_id}" in route.path:
            pairs += [
                ("foreign call of an own run", "no call of an own run"),
                ("own call of a foreign run", "own call of no run"),
            ]
        assert [pair for pair in pairs if told[pair[0]] != told[pair[1]]] == [], name(route)
    assert dump() == before


@pytest.mark.parametrize("route", [r for r in KEYED if r.method == "GET"], ids=name)
def test_head_tells_no_more_than_get(ask, dump, own, foreign, route):
    before = dump()
    for headers, status in (({}, 401), (bearer(foreign.keys["admin"]), 404)):
        if status == 404 and "{" not in route.path:
            continue
        answer = ask(route, own.ids, headers, method="HEAD")
        assert (answer.status_code, answer.text) == (status, "")
    assert dump() == before


@pytest.mark.parametrize("route", [r for r in ALL if r.role is None], ids=name)
def test_what_takes_no_key_tells_nothing_of_any_account(ask, dump, own, foreign, route):
    before = dump()
    for headers in ({}, bearer(own.keys["admin"]), bearer("ob_garbage")):
        answer = ask(route, own.ids, headers)
        assert answer.status_code == EXAMPLES[route.method, route.path].status
        told = answer.text
        if answer.headers["content-type"] == PROBLEM:
            told = told.replace(answer.json["instance"], "")
        assert [mark for mark in own.marks + foreign.marks if mark in told] == []
    assert dump() == before


OF_LISTS = ("/runs", "/keys", "/calls", "/rejections", "/suppressions", "/actions")
LISTS = [r for r in KEYED if r.path.endswith(OF_LISTS)]


@pytest.mark.parametrize("route", [r for r in LISTS if r.method == "GET"], ids=name)
def test_a_cursor_of_another_account_leads_nowhere_near_it(ask, engine, node, own, foreign, route):
    with engine.begin() as connection:
        for _ in range(2):
            accounts.create_key(connection, foreign.account, "viewer")
    make_run(engine, foreign.account, [phone(4300)])
    do(
        engine,
        "INSERT INTO rejections (run_id, index, code) VALUES (:run, 9, 'x')",
        run=foreign.ids["run_id"],
    )
    theirs = ask(route, foreign.ids, bearer(foreign.keys["admin"]), query="limit=1")
    cursor = theirs.json["next_cursor"]
    assert cursor
    answer = ask(route, own.ids, bearer(own.keys["admin"]), query=f"cursor={cursor}")
    assert answer.status_code == 200
    assert [mark for mark in foreign.marks if mark in answer.text] == []


def cookie(token, *more):
    return {"Cookie": f"outbound_session={token}", **dict(more)}


OURS = ("Sec-Fetch-Site", "same-origin")


class TestTheConsolesCookie:
    """It stands for a key, and for no more; and another site's page cannot use it."""

    @pytest.mark.parametrize("kind", COOKIES)
    def test_one_that_is_no_good_is_401(self, ask, dump, engine, own, kind):
        token = self.spoiled(engine, own, kind)
        before = dump()
        for route in KEYED:
            answer = ask(route, own.ids, cookie(token, OURS))
            assert (name(route), answer.status_code) == (name(route), 401)
        assert dump() == before

    def spoiled(self, engine, own, kind):
        from outbound import sessions

        token = own.session(engine, "admin")
        if kind == "garbage":
            return token[:-1]
        if kind == "expired":
            do(engine, "UPDATE sessions SET expires_at = now()")
        elif kind == "of a revoked key":
            do(engine, "UPDATE api_keys SET revoked_at = now()")
        else:
            with engine.begin() as connection:
                sessions.end(connection, token)
        return token

    @pytest.mark.parametrize("role", Role, ids=name)
    def test_it_may_do_what_its_key_may(self, ask, dump, engine, own, foreign, role):
        headers = cookie(own.session(engine, role.word), OURS)
        before = dump()
        for route in (route for route in KEYED if role < route.role):
            answer = ask(route, own.ids, headers)
            assert (name(route), answer.status_code) == (name(route), 403)
        for route in about_objects(role):
            answer = ask(route, foreign.ids, headers)
            assert (name(route), answer.status_code) == (name(route), 404)
        assert dump() == before

    @pytest.mark.parametrize("route", [r for r in KEYED if r.method != "GET"], ids=name)
    def test_no_write_of_another_sites_page_passes(self, ask, dump, engine, own, route):
        token = own.session(engine, "admin")
        before = dump()
        for more in (
            [],
            [("Sec-Fetch-Site", "cross-site")],
            [("Sec-Fetch-Site", "same-site")],
            [("Sec-Fetch-Site", "none")],
            [("Sec-Fetch-Site", "cross-site"), ("Origin", "http://127.0.0.1:8000")],
            [("Origin", "https://evil.example")],
            [("Origin", "http://127.0.0.1:8001")],
            [("Origin", "null")],
            [("Origin", "https://evil.example"), ("X-Forwarded-Host", "evil.example")],
            [("Referer", "http://127.0.0.1:8000/")],
        ):
            answer = ask(route, own.ids, cookie(token, *more))
            assert (more, answer.status_code) == (more, 403)
        assert dump() == before
        assert ask(route, own.ids, cookie(token, OURS)).status_code < 300


class TestCallerNumbers:
    @pytest.mark.parametrize("role", ["operator", "admin"])
    @pytest.mark.parametrize(
        "spelled",
        [FOREIGN_NUMBER, "+1 202-555-0199", "+1 (202) 555 0199", "＋１２０２５５５０１９９"],
    )
    def test_another_accounts_number_is_refused_and_no_run_is_made(
        self, ask, dump, own, foreign, role, spelled
    ):
        before = dump()
        route = TABLE["POST", f"{PREFIX}/runs"]
        answer = ask(route, {}, bearer(own.keys[role]), NEW_RUN | {"caller_id": spelled})
        assert answer.status_code == 422
        assert [(e["pointer"], e["code"]) for e in answer.json["errors"]] == [
            ("#/caller_id", "caller_id_not_allowed")
        ]
        assert dump() == before

    def test_the_refusal_is_the_one_for_a_number_that_nobody_has(self, ask, own, foreign):
        route = TABLE["POST", f"{PREFIX}/runs"]
        theirs, nobodys = (
            ask(route, {}, bearer(own.keys["admin"]), NEW_RUN | {"caller_id": number})
            for number in (FOREIGN_NUMBER, "+12025550177")
        )
        assert without_names(theirs) == without_names(nobodys)


class TestIdempotency:
    KEY = {"Idempotency-Key": "the-same"}

    def test_another_accounts_key_replays_nothing(self, ask, engine, own, foreign):
        route = TABLE["POST", f"{PREFIX}/runs"]
        theirs = ask(route, {}, bearer(foreign.keys["admin"]) | self.KEY)
        ours = ask(route, {}, bearer(own.keys["admin"]) | self.KEY)
        assert (theirs.status_code, ours.status_code) == (202, 202)
        assert "idempotent-replayed" not in ours.headers
        assert ours.json["run_id"] != theirs.json["run_id"]

    def test_an_operator_cannot_ask_for_the_answer_that_an_admins_route_gave(self, ask, own):
        """One key, one body, two routes: the answer of the one is none of the other."""
        made = ask(TABLE["POST", f"{PREFIX}/keys"], {}, bearer(own.keys["admin"]) | self.KEY).json
        answer = ask(
            TABLE["POST", f"{PREFIX}/runs"],
            {},
            bearer(own.keys["operator"]) | self.KEY,
            EXAMPLES["POST", f"{PREFIX}/keys"].body,
        )
        assert (answer.status_code, answer.json["type"].split(":")[-1]) == (
            422,
            "idempotency_key_reused",
        )
        assert made["key_id"] not in answer.text


def test_a_key_is_worth_nothing_the_moment_it_is_revoked(ask, own):
    route = TABLE["DELETE", f"{PREFIX}/keys/{{key_id}}"]
    admin = bearer(own.keys["admin"])
    listed = ask(TABLE["GET", f"{PREFIX}/keys"], {}, admin).json["items"]
    viewer = bearer(own.keys["viewer"])
    assert ask(TABLE["GET", f"{PREFIX}/account"], {}, viewer).status_code == 200
    (key_id,) = [k["key_id"] for k in listed if k["hint"] == own.keys["viewer"][-4:]]
    assert ask(route, {"key_id": key_id}, admin).status_code == 204
    assert ask(TABLE["GET", f"{PREFIX}/account"], {}, viewer).status_code == 401


def test_no_secret_of_a_key_is_stored_or_shown_again(ask, dump, own, engine):
    stored = json.dumps(dump())
    listed = ask(TABLE["GET", f"{PREFIX}/keys"], {}, bearer(own.keys["admin"])).text
    assert one(engine, "SELECT count(*) AS n FROM api_keys")["n"] == 5
    assert [key for key in own.keys.values() if key in stored + listed or key[3:] in stored] == []
