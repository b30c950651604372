"""What the routes of runs add to the verbs: waiting, ETags, parameters, streams."""

import csv
import io
import json

import falcon.testing
import pytest

from factories import CALLER_ID, FakeCarrier, claim, make_account, make_run, phone
from outbound import accounts, calls, sessions
from outbound import runs as runs_module
from outbound.api import auth, quiet
from outbound.api.app import create_app
from plans import statements

RUNS = "/api/outbound/runs"


class Client:
    def __init__(self, app, engine, account):
        with engine.begin() as connection:
            self.key = accounts.create_key(connection, account, "operator")[1]
        self.http = falcon.testing.TestClient(app)

    def ask(self, method, path, body=None, **headers):
        headers = {"Authorization": f"Bearer {self.key}"} | headers
        known = {} if body is None else {"json": body}
        return self.http.simulate_request(method, RUNS + path, headers=headers, **known)

    def get(self, path, **headers):
        return self.ask("GET", path, **headers)

    def post(self, path, body=None):
        return self.ask("POST", path, body)


@pytest.fixture
def app(node):
    return create_app(node, FakeCarrier())


@pytest.fixture
def account(engine):
    return make_account(engine)


@pytest.fixture
def client(app, engine, account):
    return Client(app, engine, account)


@pytest.fixture
def run(engine, account):
    return make_run(engine, account, map(phone, range(5)))


@pytest.mark.parametrize("by", ["key", "session"])
def test_a_run_is_read_together_with_who_asks_for_it(client, run, node, by):
    known = {"Authorization": f"Bearer {client.key}"}
    if by == "session":
        with node.engine.begin() as connection:
            caller = accounts.authenticate(connection, client.key, "sign-in")
            known = {"Cookie": f"{auth.COOKIE}={sessions.start(connection, caller)}"}
    with statements(node.engine) as seen:
        answer = client.http.simulate_get(f"{RUNS}/{run}", headers=known)
    assert (answer.status_code, answer.json["run_id"]) == (200, str(run))
    assert len(seen) == 1


@pytest.mark.parametrize("run_id", ["0190f3a4-0000-7000-8000-000000000000", "no-such", "'"])
def test_what_is_no_run_is_404_once_it_is_known_who_asks(client, run_id):
    assert client.get(f"/{run_id}").status_code == 404
    assert client.get(f"/{run_id}", Authorization="Bearer ob_nobody").status_code == 401


class TestEtags:
    def test_a_proxys_weak_mark_and_a_list_are_understood(self, client, run):
        tag = client.get(f"/{run}").headers["etag"]
        for given in (tag, f"W/{tag}", f'"x", W/{tag}', "*"):
            answer = client.get(f"/{run}", **{"If-None-Match": given})
            assert (answer.status_code, answer.headers["etag"]) == (304, tag)

    def test_another_tag_gets_the_run(self, client, run):
        tag = client.get(f"/{run}").headers["etag"]
        for given in ("", '"x"', tag.strip('"'), f"w/{tag}"):
            assert client.get(f"/{run}", **{"If-None-Match": given}).status_code == 200


class TestParameters:
    @pytest.mark.parametrize(
        ("path", "names"),
        [
            ("", ("status", "limit", "cursor")),
            ("/{run}/calls", ("state", "outcome", "limit", "cursor")),
            ("/{run}/rejections", ("limit", "cursor")),
        ],
    )
    def test_an_empty_one_is_as_good_as_none(self, client, run, path, names):
        path = path.format(run=run)
        blank = "&".join(f"{name}=" for name in names)
        answer = client.get(f"{path}?{blank}")
        assert answer.status_code == 200
        assert len(answer.json["items"]) == len(client.get(path).json["items"])

    def test_the_cursor_of_another_list_is_refused(self, client, engine, account, run):
        make_run(engine, account)
        of_runs = client.get("?limit=1").json["next_cursor"]
        of_calls = client.get(f"/{run}/calls?limit=1").json["next_cursor"]
        for path in (f"/{run}/calls?cursor={of_runs}", f"?cursor={of_calls}"):
            answer = client.get(path)
            assert answer.status_code == 422
            assert answer.json["errors"][0]["code"] == "bad_cursor"


class TestWaiting:
    @pytest.fixture
    def sending(self, monkeypatch):
        """Makes requests seem to be on their way for that many looks."""
        looks = []

        def seem(times):
            def is_sending(connection, account_id, **about):
                looks.append(connection)
                return len(looks) <= times

            monkeypatch.setattr(runs_module, "is_sending", is_sending)
            return looks

        return seem

    @pytest.mark.parametrize("verb", ["pause", "cancel"])
    def test_the_answer_comes_once_nothing_is_on_its_way(self, client, run, sending, verb):
        looks = sending(3)
        answer = client.post(f"/{run}/{verb}")
        assert (answer.status_code, len(looks)) == (200, 4)
        assert "retry-after" not in answer.headers

    def test_no_connection_is_held_between_two_looks(self, client, run, node, sending, monkeypatch):
        sending(2)
        held = []
        monkeypatch.setattr(
            quiet.time, "sleep", lambda _: held.append(node.engine.pool.checkedout())
        )
        client.post(f"/{run}/pause")
        assert held == [0, 0]

    def test_resume_does_not_wait(self, client, run, node, account, sending):
        client.post(f"/{run}/pause")
        looks = sending(1000)
        assert client.post(f"/{run}/resume").status_code == 200
        assert looks == []


class TestExport:
    def rows(self, answer):
        return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))

    @pytest.mark.parametrize("page", [1, 2, 5, 6])
    def test_every_call_is_there_once_in_order_whatever_a_page_holds(
        self, client, run, monkeypatch, page
    ):
        monkeypatch.setattr(calls, "CSV_ROWS", page)
        answer = client.get(f"/{run}/calls.csv")
        assert [row["lead_id"] for row in self.rows(answer)] == [f"lead-{n}" for n in range(5)]
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert f"run-{run}-calls.csv" in answer.headers["content-disposition"]

    def test_a_strangers_export_is_no_empty_file(self, app, engine, run):
        stranger = Client(app, engine, make_account(engine))
        assert stranger.get(f"/{run}/calls.csv").status_code == 404


class TestBodies:
    @pytest.mark.parametrize("verb", ["pause", "resume", "cancel", "resolve", "calls/1/resolve"])
    @pytest.mark.parametrize("given", [[], "x", 1, None, {"surprise": 1}])
    def test_what_a_route_does_not_take_is_told(self, client, run, verb, given):
        answer = client.http.simulate_post(
            f"{RUNS}/{run}/{verb}",
            body=json.dumps(given),
            headers={
                "Authorization": f"Bearer {client.key}",
                "Content-Type": "application/json",
            },
        )
        assert answer.status_code == 422
        assert client.get(f"/{run}").json["status"] == "pending"

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"decision": "guess"},
            {"decision": "placed"},
            {"decision": "placed", "outcome": "gone"},
            {"decision": "redial", "outcome": "busy"},
            {"decision": "redial", "force": "true"},
            {"decision": "redial", "force": 1},
            {"decision": "redial", "note": "x" * 1001},
        ],
    )
    def test_a_decision_must_be_one(self, client, run, given):
        for path in (f"/{run}/resolve", f"/{run}/calls/1/resolve"):
            assert client.post(path, given).status_code == 422


def test_a_run_that_was_posted_can_be_watched_at_its_location(client):
    lead = {"lead_id": "a", "phone": phone(1)}
    made = client.post("", {"leads": [lead], "twiml": "<Response/>", "caller_id": CALLER_ID})
    shown = client.http.simulate_get(
        made.headers["location"], headers={"Authorization": f"Bearer {client.key}"}
    )
    assert shown.json["run_id"] == made.json["run_id"]


def test_head_is_answered_as_get_without_a_body(client, run, node, account):
    claim(node, account, most=1)
    for path in ("", f"/{run}", f"/{run}/calls", f"/{run}/calls.csv"):
        answer = client.ask("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")
