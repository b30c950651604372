"""What operators did: every action with who, when and by which request."""

import json

import click.testing
import falcon.testing
import pytest

from factories import FakeCarrier, claim, make_account, make_run, phone, record, rows
from outbound import accounts
from outbound.api.app import ROUTES, create_app
from outbound.api.routing import PREFIX
from outbound.cli import cli
from outbound.states import Kind

RUN = f"{PREFIX}/runs/{{run}}"
CALL = f"{RUN}/calls/{{call}}"
RESOLVE = {"decision": "placed", "outcome": "answered", "force": True}
LEADS = {"leads": [{"lead_id": "a", "phone": phone(9)}], "twiml": "<Response/>"}
ACTIONS = [
    ("POST", f"{PREFIX}/runs", LEADS, "run_created"),
    ("POST", f"{RUN}/pause", {}, "run_paused"),
    ("POST", f"{RUN}/resume", {}, "run_resumed"),
    ("POST", f"{CALL}/resolve", RESOLVE, "decided_placed"),
    ("POST", f"{RUN}/resolve", RESOLVE, "decided_placed"),
    ("POST", f"{PREFIX}/runs/{{run}}/calls/{{queued}}/cancel", {}, "call_cancel_requested"),
    ("POST", f"{RUN}/cancel", {"hang_up": True}, "run_cancel_requested"),
    ("PATCH", f"{PREFIX}/account", {"max_live_calls": 7}, "account_changed"),
    ("POST", f"{PREFIX}/account/stop", {}, "account_stopped"),
    ("POST", f"{PREFIX}/account/start", {}, "account_started"),
    ("POST", f"{PREFIX}/keys", {"role": "viewer", "name": "Wall"}, "key_created"),
    ("DELETE", f"{PREFIX}/keys/{{key}}", None, "key_revoked"),
    ("POST", f"{PREFIX}/suppressions", {"phones": [phone(7)]}, "suppressions_added"),
    ("DELETE", f"{PREFIX}/suppressions/{phone(7)}", None, "suppression_removed"),
]
NO_ACTION = {
    # It finds out and repairs what was decided before; each repair has events of its own.
    ("POST", f"{PREFIX}/runs/reconcile"),
}


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def key(engine, account):
    with engine.begin() as connection:
        return accounts.create_key(connection, account, "admin", "Dana's key")


@pytest.fixture
def ask(node, key):
    http = falcon.testing.TestClient(create_app(node, FakeCarrier()))

    def send(method, path, body=None, query=""):
        headers = {"Authorization": f"Bearer {key[1]}"}
        known = {} if body is None else {"json": body}
        return http.simulate_request(method, path, headers=headers, query_string=query, **known)

    return send


@pytest.fixture
def ids(node, engine, account):
    """A run with two unknown calls and two queued ones; a key."""
    run = make_run(engine, account, [phone(n) for n in range(4)])
    unknown = claim(node, account, most=2)
    for call in unknown:
        record(node, call.attempt_id, Kind.AMBIGUOUS)
    queued = rows(engine, "SELECT id FROM calls WHERE state = 'queued' ORDER BY id")
    with engine.begin() as connection:
        spare, _ = accounts.create_key(connection, account, "viewer")
    return {"run": run, "call": unknown[0].call_id, "queued": queued[0]["id"], "key": spare}


def listed(ask, query=""):
    return ask("GET", f"{PREFIX}/actions", query=query).json


def test_every_action_is_listed_with_who_and_when_and_by_which_request(ask, key, ids):
    requests = []
    for method, path, body, action in ACTIONS:
        answer = ask(method, path.format(**ids), body)
        assert answer.status_code in (200, 201, 202, 204), (path, answer.text)
        requests.append((action, answer.headers["x-request-id"]))
    items = listed(ask)["items"]
    assert [(item["action"], item["request_id"]) for item in reversed(items)] == requests
    for item in items:
        assert (item["actor"], item["actor_name"]) == (str(key[0]), "Dana's key")
        assert item["at"].endswith("Z")
    by_action = {item["action"]: item for item in items}
    assert by_action["account_changed"]["details"] == {"changed": {"max_live_calls": 7}}
    assert by_action["run_paused"]["run_id"] == str(ids["run"])
    assert by_action["call_cancel_requested"]["call_id"] == str(ids["queued"])
    assert by_action["suppression_removed"]["details"] == {"phone": phone(7)}


def test_no_route_that_changes_something_is_missing_above():
    def shape(path):
        return [part if part[0] != "{" else "{}" for part in path.strip("/").split("/")]

    known = [(method, shape(path.replace(phone(7), "{x}"))) for method, path, _, _ in ACTIONS]
    changing = [
        route
        for route in ROUTES
        if route.role is not None
        and route.method != "GET"
        and (route.method, route.path) not in NO_ACTION
    ]
    missing = [one for one in changing if (one.method, shape(one.path)) not in known]
    assert [(one.method, one.path) for one in missing] == []


def test_pages_are_newest_first_and_stable(ask, ids):
    for _ in range(3):
        ask("POST", f"{PREFIX}/account/stop")
        ask("POST", f"{PREFIX}/account/start")
    first = listed(ask, "limit=4")
    ask("POST", f"{PREFIX}/account/stop")
    second = listed(ask, f"limit=4&cursor={first['next_cursor']}")
    found = [item["action"] for item in first["items"] + second["items"]]
    assert found == ["account_started", "account_stopped"] * 3
    assert second["next_cursor"] is None


def test_another_accounts_actions_and_what_policies_did_are_not_listed(
    ask, node, engine, account, ids
):
    other = make_account(engine)
    event = {
        "account_id": other,
        "event": "account_stopped",
        "source": "api",
        "worker_id": "w",
        "actor": "x",
    }
    from outbound import settling

    with engine.begin() as connection:
        settling.write_events(
            connection,
            [event, event | {"account_id": account, "actor": "on_unknown"}],
        )
    assert listed(ask)["items"] == []


def test_an_action_that_was_refused_is_not_listed(ask, ids):
    ask("POST", f"{PREFIX}/runs/{ids['run']}/calls/{ids['call']}/cancel")
    ask("PATCH", f"{PREFIX}/account", {"max_live_calls": 0})
    assert listed(ask)["items"] == []


def test_what_is_done_at_the_machine_itself_is_listed_too(ask, engine, account, settings):
    def run(*arguments):
        env = {"DATABASE_URL": settings.database_url}
        done = click.testing.CliRunner().invoke(cli, [*arguments, "--json"], env=env)
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    made = run("key", "create", "--account", str(account), "--role", "viewer")
    run("key", "revoke", made["key_id"])
    items = listed(ask)["items"]
    assert [item["action"] for item in items] == ["key_revoked", "key_created"]
    assert all(item["actor"].startswith("cli:") and item["source"] == "cli" for item in items)
    assert items[0]["details"] == {"key_id": made["key_id"]}
