"""The API's description: complete, valid, and true of every answer that it promises."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import text
from twilio.request_validator import RequestValidator

from described import Recorder, documented, validator
from factories import CALLER_ID, claim, do, make_run, one, phone, record, say
from outbound import accounts
from outbound import node as nodes
from outbound.api import openapi
from outbound.api.app import ROUTES, create_app
from outbound.carriers import base
from outbound.carriers.base import Progress
from outbound.ids import uuid7
from outbound.states import Kind

DOCUMENT = json.loads(json.dumps(openapi.document(ROUTES)))
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
BODIES = {
    name: operation["requestBody"]["content"]["application/json"]
    for name, (_, _, operation) in OPERATIONS.items()
    if "application/json" in operation.get("requestBody", {}).get("content", {})
}
EXAMPLES = [
    pytest.param(name, example["value"], id=f"{name}: {title}")
    for name, body in BODIES.items()
    for title, example in body["examples"].items()
]


class TestTheDocument:
    def test_it_describes_every_route_and_no_other(self):
        told = [(method, path) for method, path, _ in OPERATIONS.values()]
        assert sorted(told) == sorted((route.method, route.path) for route in ROUTES)
        assert openapi.OPERATIONS.keys() == OPERATIONS.keys()

    def test_it_is_valid_openapi(self):
        assert [str(error) for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []

    def test_every_operation_has_what_a_reader_needs(self):
        assert len(OPERATIONS) == len(ROUTES)  # so every id is there, and only once
        for name, (_, path, operation) in OPERATIONS.items():
            assert operation["summary"], name
            assert operation["tags"], name
            in_path = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert in_path == re.findall(r"{(\w+)}", path), name
            assert all(one["description"] for one in operation["parameters"]), name
            assert any(status < "400" for status in operation["responses"]), name

    def test_each_key_needs_the_role_of_the_route(self):
        for route in ROUTES:
            told = DOCUMENT["paths"][route.path][route.method.lower()]
            security = told["security"]
            if route.role is not None:
                assert security == [{"apiKey": [route.role.word]}]
                assert f"`{route.role.word}`" in told["description"]
            else:
                assert not any("apiKey" in one for one in security)

    def test_every_body_has_an_example(self):
        assert BODIES
        assert all(body["examples"] for body in BODIES.values())

    @pytest.mark.parametrize(("name", "example"), EXAMPLES)
    def test_every_example_of_a_body_fits_its_schema(self, name, example):
        validator(DOCUMENT, BODIES[name]["schema"]).validate(example)

    def test_every_example_of_an_answer_fits_its_schema(self):
        components = DOCUMENT["components"]
        checked = 0
        for schema in components["schemas"].values():
            for example in schema.get("examples", []):
                validator(DOCUMENT, schema).validate(example)
                checked += 1
        for response in components["responses"].values():
            content = response["content"]["application/problem+json"]
            validator(DOCUMENT, content["schema"]).validate(content["example"])
            checked += 1
        assert checked > 10

    def test_nothing_is_described_that_nothing_refers_to(self):
        whole = json.dumps(DOCUMENT)
        for kind in ("schemas", "responses", "headers"):
            for name in DOCUMENT["components"][kind]:
                assert f'"#/components/{kind}/{name}"' in whole, name

    def test_it_knows_the_problems_of_the_docs(self):
        page = (Path(__file__).parents[2] / "docs" / "problems.md").read_text()
        for code, (status, _) in openapi.PROBLEMS.items():
            assert re.search(rf"^\| `{code}` \| {status} \|", page, re.MULTILINE), code
        codes = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|(.*?)\| \d", page, re.MULTILINE)))
        elsewhere = {code for code in codes if f"`{code}`" in DOCUMENT["info"]["description"]}
        of_the_command_line = {"name_taken"}
        assert set(codes) == openapi.PROBLEMS.keys() | elsewhere | of_the_command_line


@pytest.fixture
def account(engine):
    fields = {"caller_ids": [CALLER_ID], "default_twiml": "<Response/>"}
    with engine.begin() as connection:
        return accounts.create(connection, "acme", **fields)


@pytest.fixture
def seen():
    return set()


@pytest.fixture
def http(node, seen):
    return Recorder(create_app(node, base.load(node.settings)), DOCUMENT, seen)


@pytest.fixture
def away(settings, seen):
    """The same API, whose database does not answer."""
    nowhere = {
        "database_url": "postgresql://127.0.0.1:1/nowhere",
        "redis_url": "redis://127.0.0.1:1/0",
    }
    built = nodes.build(replace(settings, **nowhere), "api")
    yield Recorder(create_app(built, base.load(settings)), DOCUMENT, seen)
    built.engine.dispose()
    built.doorbell.close()


class World:
    """An account with a run, and with everything that an operation's path may name."""

    def __init__(self, http, node, engine, account):
        self.http, self.node, self.engine, self.account = http, node, engine, account
        self.keys = {role.word: self.key(role.word)[1] for role in accounts.Role}
        self.more = 0

    def key(self, role):
        with self.engine.begin() as connection:
            return accounts.create_key(connection, self.account, role)

    def run(self, **columns):
        self.more += 1
        return make_run(self.engine, self.account, [phone(self.more)], **columns)

    def unknown(self, run):
        (claimed,) = claim(self.node, self.account)
        assert claimed.run_id == run
        record(self.node, claimed.attempt_id, Kind.AMBIGUOUS)
        return claimed

    def path(self, name, **ids):
        known = {"carrier_name": "twilio", "call_id": 1, "suppressed": phone(998)}
        known |= {one: uuid7() for one in ("run_id", "key_id", "attempt_id")}
        return OPERATIONS[name][1].format(**(known | ids))

    def ask(self, name, body=None, *, key=None, http=None, headers=None, query="", **more):
        named = [one for one in more if one.endswith("_id") or one == "suppressed"]
        ids = {one: more.pop(one) for one in named}
        headers = {"Authorization": f"Bearer {key or self.keys['admin']}"} | (headers or {})
        if body is not None:
            more["body"] = body if isinstance(body, bytes) else json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        return (http or self.http).simulate_request(
            OPERATIONS[name][0],
            self.path(name, **ids),
            headers=headers,
            query_string=query,
            **more,
        )

    def call_back(self, attempt, http=None, **fields):
        path = self.path("receive", attempt_id=attempt)
        settings = self.node.settings
        signature = RequestValidator(settings.twilio_auth_token).compute_signature(
            settings.public_base_url + path, fields
        )
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Twilio-Signature": signature,
        }
        return (http or self.http).simulate_post(path, headers=headers, body=urlencode(fields))


@pytest.fixture
def world(http, node, engine, account):
    return World(http, node, engine, account)


def example_of(name):
    return next(iter(BODIES[name]["examples"].values()))["value"]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_every_example_of_a_body_is_taken(world, engine, name, example):
    do(engine, "UPDATE account_pace SET calls_per_second = 1000")
    run = world.run(status="paused" if name == "resume_run" else "pending")
    ids = {"run_id": run}
    if name.startswith("resolve"):
        ids["call_id"] = world.unknown(run).call_id
    if name == "cancel_call":
        ids["call_id"] = one(engine, "SELECT id FROM calls")["id"]
    answer = world.ask(name, example, **ids)
    assert answer.status_code in (200, 201, 202), answer.text


def test_it_is_served_without_a_key(http):
    answer = http.simulate_get("/api/openapi.json")
    assert answer.status_code == 200
    assert answer.json == DOCUMENT


def _walk(world, engine):
    """One run from its creation to its end, with every success that the API knows."""
    do(engine, "UPDATE account_pace SET calls_per_second = 1000, min_seconds_between_calls = 0")
    leads = [{"lead_id": f"l{n}", "phone": phone(100 + n)} for n in range(5)] + [{"phone": "x"}]
    body = {
        "leads": leads,
        "calls_per_second": 1000,
        "metadata": {"a": [1]},
        "allow_duplicate": True,
    }
    keyed = {"headers": {"Idempotency-Key": "k-1"}}
    run = world.ask("create_run", body, **keyed).json["run_id"]
    assert "idempotent-replayed" in world.ask("create_run", body, **keyed).headers
    world.ask("list_rejections", run_id=run)
    world.ask("list_runs", query="limit=1")
    world.ask("list_calls", run_id=run)

    calls = claim(world.node, world.account)
    assert len(calls) == 5
    assert world.ask("pause_run", run_id=run).status_code == 202
    other = world.run()
    assert world.ask("cancel_run", run_id=other).status_code == 200
    words = (Progress.RINGING, Progress.ANSWERED)
    for word in words:
        say(world.node, calls[0].attempt_id, word, "CA1", duration=3)
    world.call_back(calls[1].attempt_id, CallSid="CA" + "2" * 32, CallStatus="busy")
    for call in calls[2:]:
        record(world.node, call.attempt_id, Kind.AMBIGUOUS)
    world.ask("pause_run", run_id=run)
    world.ask("resume_run", run_id=run)

    decision = {"decision": "placed", "outcome": "answered", "note": "n"}
    world.ask("resolve_call", decision, run_id=run, call_id=calls[2].call_id)
    world.ask("resolve_run", {"decision": "not_placed", "force": True}, run_id=run)
    for call in calls:
        told = world.ask("show_call", run_id=run, call_id=call.call_id).json
        assert told["timeline"]
    world.ask("list_calls", run_id=run, query="outcome=busy")
    world.ask("export_calls", run_id=run)
    for name in ("show_run", "list_runs", "list_calls"):
        tag = {"If-None-Match": world.ask(name, run_id=run).headers["etag"]}
        assert world.ask(name, run_id=run, headers=tag).status_code == 304
    (again, *_) = claim(world.node, world.account)
    assert world.ask("cancel_run", {"hang_up": True}, run_id=again.run_id).status_code == 202
    world.ask("show_run", run_id=other)
    assert world.ask("reconcile").json["success"]


def _operate(world, engine):
    """What operators do beside runs, with every success."""
    do(engine, "UPDATE attempts SET state = 'placed' WHERE state = 'sending'")
    run = world.run()
    (call,) = claim(world.node, world.account)
    ids = {"run_id": run, "call_id": call.call_id}
    assert world.ask("stop_account").status_code == 202
    assert world.ask("cancel_call", {"hang_up": True}, **ids).status_code == 202
    never = {"phones": [call.phone, "x"], "reason": "asked"}
    assert world.ask("add_suppressions", never).status_code == 202
    say(world.node, call.attempt_id, Progress.ANSWERED, "CA7")
    assert world.ask("cancel_call", {"hang_up": True}, **ids).status_code == 200
    assert world.ask("add_suppressions", never).status_code == 200
    assert world.ask("stop_account", {"hang_up": True}).status_code == 200
    world.ask("show_account")
    world.ask("start_account")
    world.ask("list_suppressions", query="limit=1")
    assert world.ask("remove_suppression", suppressed=call.phone).status_code == 204
    assert world.ask("list_actions", query="limit=3").json["next_cursor"]


def _refuse_moves(world, engine):
    """Every refusal that depends on how things stand."""
    ended = world.run(status="completed")
    do(engine, "UPDATE runs SET ended_at = now() WHERE id = :run", run=ended)
    for name in ("pause_run", "resume_run", "cancel_run"):
        assert world.ask(name, run_id=ended).status_code == 409
    world.ask("reconcile")  # the second one within a minute

    run = world.run()
    call = world.unknown(run)
    ids = {"run_id": run, "call_id": call.call_id}
    assert world.ask("resolve_call", {"decision": "redial"}, **ids).status_code == 409
    assert world.ask("cancel_call", **ids).status_code == 409
    say(world.node, call.attempt_id, Progress.RINGING, "CA9")
    assert world.ask("resolve_call", {"decision": "redial"}, **ids).status_code == 409
    record(world.node, call.attempt_id, Kind.SILENT, source="look_up")
    decision = {"decision": "not_placed", "force": True}
    assert world.ask("resolve_call", decision, **ids).status_code == 409


def _refuse_keys_and_twins(world, engine):
    """Every refusal of a POST that creates."""
    lead = {"lead_id": "a", "phone": phone(999)}
    world.ask("create_run", {"leads": [lead], "name": "twin"})
    world.ask("create_run", {"leads": [lead], "name": "twin"})
    world.ask("create_run", {"leads": [lead, lead], "on_duplicate": "reject"})
    world.ask("create_run", {"leads": [{"lead_id": "a"}]})
    for name in ("create_run", "create_key"):
        body = example_of(name)
        world.ask(name, body, headers={"Idempotency-Key": ""})
        world.ask(name, body, headers={"Idempotency-Key": name})
        world.ask(name, body | {"name": "other"}, headers={"Idempotency-Key": name})
        with engine.begin() as connection:
            lock = f"idempotency:{world.account}:busy"
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": lock}
            )
            world.ask(name, body, headers={"Idempotency-Key": "busy"})


def _refuse_everywhere(world, away):
    """Every refusal that any operation has, from what the document says about it."""
    bad = {
        "bad_json": {"body": b"{"},
        "bad_request": {"body": b"{}", "extras": {"CONTENT_LENGTH": "9"}},
        "length_required": {"body": b"{}", "headers": {"Transfer-Encoding": "chunked"}},
        "too_large": {"body": b"{}", "extras": {"CONTENT_LENGTH": str(2**30)}},
        "unsupported_media_type": {"body": b"{}", "headers": {"Content-Type": "text/plain"}},
        "invalid": {"body": {"surprise": 1}},
        "unauthorized": {"key": "ob_nobody"},
    }
    for name, status, code in sorted(documented(DOCUMENT), key=str):
        valid = {"body": example_of(name)} if name in BODIES else {}
        if code == "invalid" and name.startswith("list"):
            world.ask(name, query="limit=0", run_id=world.run())
        elif code in bad:
            world.ask(name, **bad[code])
        elif code == "forbidden" and name != "receive":
            world.ask(name, key=world.keys["viewer"])
        elif code == "not_found" and name != "receive":
            world.ask(name, **valid)
        elif code == "unavailable" and name != "receive":
            world.ask(name, http=away, **valid)
        elif status == 503:
            world.ask(name, http=away)


def _call_back_wrongly(world, away):
    fields = {"CallSid": "CA" + "3" * 32, "CallStatus": "busy"}
    assert world.call_back(uuid7(), **fields).status_code == 404
    assert world.call_back(uuid7(), http=away, **fields).status_code == 503
    assert world.ask("receive").status_code == 403


def test_every_answer_that_is_described_is_really_given_and_no_other(
    world, engine, away, seen, monkeypatch
):
    monkeypatch.setattr("outbound.api.quiet.SETTLE_SECONDS", 0.0)
    _walk(world, engine)
    _operate(world, engine)
    _refuse_moves(world, engine)
    _refuse_keys_and_twins(world, engine)
    _refuse_everywhere(world, away)
    _call_back_wrongly(world, away)
    for name in ("show_account", "show_system", "list_keys", "live", "ready", "show_description"):
        world.ask(name)
    world.ask("change_account", {"default_region": "IL"})
    world.ask("revoke_key", key_id=world.key("viewer")[0])
    assert seen == documented(DOCUMENT)


def test_an_answer_with_a_field_that_nobody_described_is_noticed(http, monkeypatch):
    monkeypatch.setitem(http.document["components"]["schemas"]["Readiness"], "properties", {})
    with pytest.raises(AssertionError, match="Additional properties"):
        http.simulate_get("/health/ready")
