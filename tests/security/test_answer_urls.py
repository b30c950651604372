"""No private address goes in through the API, whatever its spelling, and nothing is stored."""

import json
from urllib.parse import urlsplit

import falcon.testing
import pytest

from factories import FakeCarrier, claim, one, phone
from outbound import accounts
from outbound.api.app import create_app
from outbound.leads import fill_answer_url
from security.addresses import INVALID, PUBLIC, REFUSED

RUNS, ACCOUNT = "/api/outbound/runs", "/api/outbound/account"
DEFAULT = "default_answer_url"
CODES = {"url_not_allowed", "invalid_url"}


@pytest.fixture
def key(engine):
    with engine.begin() as connection:
        account = accounts.create(connection, "acme", caller_ids=["+97231234567"])
        return accounts.create_key(connection, account, "admin")[1]


@pytest.fixture
def ask(node, key):
    http = falcon.testing.TestClient(create_app(node, FakeCarrier()))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def send(method, path, body, other=None):
        return http.simulate_request(
            method, path, body=json.dumps(body), headers=headers | (other or {})
        )

    return send


def run(**fields):
    return {"leads": [{"lead_id": "a", "phone": phone(1)}], "allow_duplicate": True} | fields


def said(answer):
    return answer.status_code, [(e["pointer"], e["code"]) for e in answer.json.get("errors", [])]


def is_refused(answer, pointer):
    status, ((where, code),) = said(answer)
    return status == 422 and where == pointer and code in CODES


def test_a_run_is_refused_for_each_of_them(ask, dump):
    before = dump()
    taken = [
        url
        for url in REFUSED + INVALID
        if not is_refused(ask("POST", RUNS, run(answer_url=url)), "#/answer_url")
    ]
    assert taken == []
    assert dump() == before


def test_an_accounts_default_is_refused_for_each_of_them(ask, dump):
    before = dump()
    taken = [
        url
        for url in REFUSED + INVALID
        if not is_refused(
            ask("PATCH", ACCOUNT, {"default_answer_url": url}), "#/default_answer_url"
        )
    ]
    assert taken == []
    assert dump() == before


def test_public_ones_are_taken_in_both_places(ask):
    assert [
        url for url in PUBLIC if ask("POST", RUNS, run(answer_url=url)).status_code != 202
    ] == []
    given = [ask("PATCH", ACCOUNT, {"default_answer_url": url}) for url in PUBLIC]
    assert [answer.json["default_answer_url"] for answer in given] == PUBLIC


def test_a_default_that_was_never_checked_is_checked_when_a_run_takes_it(ask, engine):
    with engine.begin() as connection:
        account = accounts.create(
            connection,
            "private",
            caller_ids=["+97231234567"],
            default_answer_url="http://169.254.169.254/latest",
        )
        key = accounts.create_key(connection, account, "operator")[1]
    headers = {"Authorization": f"Bearer {key}"}
    assert is_refused(ask("POST", RUNS, run(), headers), "#/answer_url")


def test_a_leads_variables_cannot_move_the_url_to_another_host(ask, node, engine):
    evil = {"@127.0.0.1/": "@127.0.0.1", "\\": "//127.0.0.1", "#": "?", "a": "\r\nHost: x"}
    lead = {"lead_id": "a", "phone": phone(1), "variables": evil}
    url = "https://example.com"
    assert ask("POST", RUNS, run(answer_url=url, leads=[lead])).status_code == 202
    (claimed,) = claim(node, one(engine, "SELECT id FROM accounts")["id"])
    sent = fill_answer_url(claimed.answer_url, claimed.variables)
    assert (urlsplit(sent).hostname, urlsplit(sent).fragment) == ("example.com", "")
    assert set(sent) & set("\r\n\\@") == set()
