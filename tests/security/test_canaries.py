"""Secrets and phone numbers are planted everywhere; none comes out where it should not.

Every planted text has the word CANARY in it, and every planted phone begins with NUMBERS.
"""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from outbound import cli
from processes import Stack, World, wait_until

CANARY, NUMBERS = "canary", "1212555"
KEY = f"ob_Xy7q-{CANARY}-key"
TOKEN = f"{CANARY}-token-of-the-carrier"
PASSWORD = f"{CANARY}-password"
DEAD = {
    "DATABASE_URL": f"postgresql://outbound:{PASSWORD}@127.0.0.1:1/nowhere",
    "REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
}
RAISING = """
from factories import FakeCarrier


class Raising(FakeCarrier):
    def __init__(self, settings):
        super().__init__()
        self.token = settings.twilio_auth_token

    def place(self, request):
        said = f"{request.to}: refused; sip:{request.to[1:]}@carrier; {{'token': {self.token!r}}}"
        sent = f"Authorization: Basic {self.token}, Bearer ob_Xy7q-canary-key\\n{request.twiml}"
        raise ConnectionAbortedError(f"{said} {sent}")
"""


def lead(number, **more):
    name = {"name": f"{CANARY}-name", f"{CANARY}_variable": CANARY}
    return {"lead_id": f"{CANARY}-{number}", "phone": f"+{NUMBERS}{number:04d}"} | (
        more or {"variables": name}
    )


def run(*numbers, **fields):
    return {
        "name": f"{CANARY}-run",
        "leads": [lead(number) for number in numbers],
        "twiml": f"<Response><Say>{CANARY} {{{{name}}}}</Say></Response>",
        "metadata": {"note": f"{CANARY}-metadata", "phone": f"+{NUMBERS}9999"},
        "concurrency": 100,
        "calls_per_second": 100.0,
    } | fields


@pytest.fixture
def url(fresh_database_url):
    """A database of this test alone, since the test breaks it; with a password in its URL."""
    given = make_url(fresh_database_url)
    given = given if given.password else given.set(password=PASSWORD)
    return given.render_as_string(hide_password=False)


@pytest.fixture
def database(url):
    made = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
    yield made
    made.dispose()


@pytest.fixture
def stack(url, redis_url, tmp_path):
    (tmp_path / "raising.py").write_text(RAISING)
    built = Stack(
        {
            "DATABASE_URL": url,
            "REDIS_URL": redis_url,
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": TOKEN,
            "OUTBOUND_LOG_LEVEL": "DEBUG",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
        }
    )
    yield built
    built.stop()


@pytest.fixture
def world(stack, tmp_path):
    built = World(stack, tmp_path / "ledger.ndjson")
    built._emulator.remove("--no-endings")
    return built


def spoil(database, statement):
    with database.begin() as connection:
        connection.execute(text(statement))


def honest_work(world, key):
    """Answered, busy, nobody there, refused with the number in the carrier's own words."""
    headers = {
        "Idempotency-Key": f"{CANARY}-idempotency",
        "X-Request-Id": KEY,
        "Cookie": CANARY,
        "User-Agent": f"{CANARY}/1 +{NUMBERS}9998",
        "Referer": f"http://{CANARY}/?phone=+{NUMBERS}9997",
    }
    answer = world.ask("POST", "/runs", key, json=run(300, 301, 302, 307, 308), headers=headers)
    assert answer.status_code == 202, answer.text
    made = answer.json()["run_id"]
    world.wait_for_run(key, made, 20)
    for path in (f"/runs/{made}", f"/runs/{made}/calls", f"/runs/{made}/calls.csv", "/keys"):
        assert world.ask("GET", path, key, headers=headers).status_code == 200
    return made


def decisions(world, key, made):
    """Errors of the carrier, what they leave unknown, and a person's note on it."""
    world.faults(accept_then_rubbish=40, accept_then_500=40, lookup_500=100, callbacks_lost=100)
    broken = world.ask("POST", "/runs", key, json=run(*range(400, 406))).json()["run_id"]
    unknown = wait_until(
        lambda: world.ask("GET", f"/runs/{broken}/calls?state=unknown", key).json()["items"], 20
    )
    note = {"decision": "placed", "outcome": "busy", "note": f"{CANARY}-note +{NUMBERS}9996"}
    path = f"/runs/{broken}/calls/{unknown[0]['call_id']}/resolve"
    assert world.ask("POST", path, key, json=note).status_code == 200
    world.ask("POST", f"/runs/{made}/resolve", key, json=note)


def refused_requests(world, key):
    """Whatever is wrong with a request; returns the problems."""
    bad_run = run(500)
    answers = [
        world.ask("POST", "/runs", key, data=f'{{"leads": "{CANARY} +{NUMBERS}0501', headers=JSON),
        world.ask("POST", "/runs", key, data=f'"{CANARY}\\ud800"', headers=JSON),
        world.ask("POST", "/runs", key, data=f'{{"{CANARY}": 1, "{CANARY}": 2}}', headers=JSON),
        world.ask("POST", "/runs", key, data=f"a={CANARY}", headers={"Content-Type": CANARY}),
        world.ask("POST", "/runs", key, data=b"\xff" + CANARY.encode(), headers=JSON),
        world.ask("POST", "/runs", key, json=bad_run | {"name": [CANARY]}),
        world.ask("POST", "/runs", key, json=bad_run | {"caller_id": f"+{NUMBERS}0502"}),
        world.ask("POST", "/runs", key, json=bad_run | {"caller_id": CANARY}),
        world.ask("POST", "/runs", key, json=bad_run | {"start_at": CANARY}),
        world.ask("POST", "/runs", key, json=bad_run | {"metadata": {"m": CANARY * 1000}}),
        world.ask("POST", "/runs", key, json=bad_run | {"retry": {"on": [CANARY]}}),
        world.ask("POST", "/runs", key, json=bad_run | {"twiml": f"{{{{{CANARY}}}}}"}),
        world.ask(
            "POST",
            "/runs",
            key,
            json=bad_run | {"twiml": None, "answer_url": f"ftp://u:{CANARY}@{CANARY}"},
        ),
        world.ask("POST", "/runs", key, json=bad_run, headers={"Idempotency-Key": f"{CANARY} é"}),
        world.ask("PATCH", "/account", key, json={"caller_ids": [CANARY, f"+{NUMBERS}"]}),
        world.ask("PATCH", "/account", key, json={"default_region": "ca"}),
        world.ask("POST", "/keys", key, json={"role": CANARY}),
        world.ask("GET", f"/runs?status={CANARY}", key),
        world.ask("GET", f"/runs?limit={CANARY}", key),
        world.ask("GET", f"/runs?cursor={CANARY}", key),
        world.ask("GET", f"/runs/{CANARY}?phone=+{NUMBERS}0503", key),
        world.ask("GET", f"/{CANARY}/{KEY}", key),
        world.ask("PUT", f"/runs/{CANARY}", key),
        world.ask("GET", "/runs", KEY),
        world.ask("GET", "/runs", f"{CANARY} {TOKEN}"),
        world.ask("GET", "/runs", key, headers={"Authorization": f"Basic {TOKEN}"}),
        world.ask("GET", "/runs", KEY, headers={"X-Request-Id": f"{NUMBERS}0504"}),
    ]
    answers += [
        world.http.post(
            f"{world.base}/webhooks/twilio/{CANARY}?token={TOKEN}",
            data={"CallSid": CANARY, "To": f"+{NUMBERS}0505", "CallStatus": CANARY},
            headers={"X-Twilio-Signature": signature},
            timeout=10,
        )
        for signature in (f"{CANARY}-signature", "")
    ]
    assert {answer.status_code for answer in answers} <= {400, 401, 403, 404, 405, 415, 422}
    return answers


JSON = {"Content-Type": "application/json"}


def unreadable_requests(world):
    """What is no HTTP; returns the answers."""
    answers = []
    heads = (
        f"{CANARY} / HTTP/1.1",
        f"GET /{CANARY}?to=+{NUMBERS}0506 HTTP/9.9",
        f"GET / HTTP/1.1\r\nAuthorization {KEY}",
        f"GET / HTTP/1.1\r\nX-{CANARY}: " + CANARY * 2000,
        f"POST / HTTP/1.1\r\nContent-Length: {CANARY}",
        f"POST / HTTP/1.1\r\nTransfer-Encoding: {CANARY}",
    )
    for head in heads:
        with socket.create_connection(("127.0.0.1", world.port), timeout=10) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode())
            connection.shutdown(socket.SHUT_WR)
            answers.append(b"".join(iter(lambda: connection.recv(65536), b"")).decode())
    return answers


def deep_errors(world, database, key):
    """Statements that fail with people's data in their parameters, and in the server's words."""
    spoil(database, "ALTER TABLE calls ADD CONSTRAINT c1 CHECK (phone !~ '0600$') NOT VALID")
    spoil(database, "ALTER TABLE runs ADD CONSTRAINT c2 CHECK (concurrency <> 61) NOT VALID")
    spoil(database, "ALTER TABLE attempts ADD CONSTRAINT c3 CHECK (phone !~ '0602$') NOT VALID")
    answers = [
        world.ask("POST", "/runs", key, json=run(600)),
        world.ask("POST", "/runs", key, json=run(601, concurrency=61)),
    ]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert world.ask("POST", "/runs", key, json=run(602)).status_code == 202
    return answers


def without_servers(stack, world):
    """Every process with its servers away, and passwords in their URLs; returns a 503."""
    other = World(Stack(dict(stack.environment)), Path("unused"))
    dead = {**DEAD, "PORT": str(other.port)}
    web = stack.start("web", **dead)
    stack.start("worker", **dead)
    stack.start("reconciler", **dead).wait_for("reconciler_waits")
    wait_until(lambda: web.has_logged("WORKER_START"))
    (answer,) = wait_until(lambda: _asked(other))
    assert answer.status_code == 503
    web.wait_for("database_away")
    return answer


def _asked(world):
    try:
        return [world.ask("GET", "/runs", KEY)]
    except OSError:
        return []


def leaks(lines):
    return [line for line in lines if CANARY in line or NUMBERS in line]


def body_of(answer):
    """Return the problem but for what says where: the path, and pointers into the body."""
    problem = answer.json()
    problem.pop("instance")
    for fault in problem.get("errors", []):
        fault.pop("pointer")
    return json.dumps(problem)


def test_no_process_tells_a_secret_or_a_phone(stack, world, database):
    (worker,) = world.start(workers=1)
    key = world.account(database, caller_ids=["+97231234567"])
    made = honest_work(world, key)
    refused = refused_requests(world, key)
    broken = unreadable_requests(world)
    decisions(world, key, made)
    failed = deep_errors(world, database, key)
    wait_until(lambda: _failures(worker), 20, "the claim that its constraint refuses")
    worker.kill()
    spoil(database, "ALTER TABLE attempts DROP CONSTRAINT c3")
    raising = stack.start("worker", OUTBOUND_CARRIER="raising:Raising")
    raised = raising.wait_for("carrier_raised")
    failed.append(without_servers(stack, world))

    lines = [line for process in stack.started for line in list(process.lines)]
    assert leaks(lines) == []
    assert leaks(map(body_of, refused + failed)) == []
    assert leaks(broken) == []
    # It did happen, and it is in the logs, as far as it may be.
    assert len(world.web.has_logged("request_failed")) == len(failed) - 1
    assert len(world.web.has_logged("http_request")) > len(refused)
    assert "******" in json.dumps(raised["exception"])


def _failures(worker):
    return [line for line in worker.events if "exception" in line]


def test_nothing_is_fetched_for_a_script_or_an_answer_url(stack, world, database):
    """The carrier reads them. We never do, so that no URL can make us ask inside our network."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.05)
        inside = f"http://127.0.0.1:{trap.getsockname()[1]}/{CANARY}"
        world.start(workers=1)
        key = world.account(database)
        script = f"<Response><Play>{inside}</Play><Redirect>{inside}</Redirect></Response>"
        runs = [
            world.ask("POST", "/runs", key, json=run(700, twiml=script)),
            world.ask("POST", "/runs", key, json=run(800, twiml=None, answer_url=inside)),
        ]
        for answer in runs:
            ended = world.wait_for_run(key, answer.json()["run_id"], 20)
            assert ended["outcomes"]["answered"] == 1
        with contextlib.suppress(TimeoutError):
            asked.append(trap.accept())
    assert asked == []


COMMANDS = [
    (["run", "list"], {"OUTBOUND_URL": f"http://me:{PASSWORD}@127.0.0.1:1"}),
    (["run", "list", KEY], {}),
    (["run", "list", f"--key={KEY} x"], {}),
    (["run", "list", f"--kee={KEY}"], {}),
    (["run", "list", "--url", f"http://me:{PASSWORD}@127.0.0.1:x"], {}),
    (["run", "list", "--url", f"gopher://me:{PASSWORD}@h"], {}),
    (["run", "show", f"+{NUMBERS}0900"], {}),
    (["key", "create", "--account", KEY, "--role", "admin"], {}),
    (["account", "create", "x", "--caller-id", f"+{NUMBERS}"], {}),
    (["account", "list"], DEAD),
    (["account", "list"], {"DATABASE_URL": f"postgresql://me:{PASSWORD}"}),
    (["account", "list"], {"DATABASE_URL": f"postgresql://me:p@{PASSWORD}@127.0.0.1/x"}),
    (["account", "list"], {"DATABASE_URL": f"postgresql://me:p/{PASSWORD}@127.0.0.1/x"}),
    (["account", "list"], {"DATABASE_URL": f"postgresql://me:p#{PASSWORD}@127.0.0.1/x"}),
    (["account", "list"], {"DATABASE_URL": f"postgresql://127.0.0.1:1/x?password={PASSWORD}"}),
    (["account", "list"], {"DATABASE_URL": f"mysql://me:{PASSWORD}@127.0.0.1/x"}),
    (["worker"], DEAD | {"OUTBOUND_CARRIER": f"{CANARY}:{PASSWORD}", "OUTBOUND_SENDERS": PASSWORD}),
    (["web"], DEAD | {"PUBLIC_BASE_URL": f"x://me:{PASSWORD}@h"}),
    (["doctor"], DEAD),
    (["doctor"], DEAD | {"REDIS_URL": f"redis://:p@{PASSWORD}@127.0.0.1:1/0"}),
    (["doctor"], {"DATABASE_URL": f"postgresql://me:p@{PASSWORD}@h.invalid/x"}),
]


@pytest.mark.parametrize(("arguments", "environment"), COMMANDS, ids=lambda v: " ".join(v)[:40])
def test_no_error_of_the_command_line_tells_one(arguments, environment, monkeypatch, capfd):
    for name in ("DATABASE_URL", "REDIS_URL", "OUTBOUND_URL", "PUBLIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTBOUND_API_KEY", KEY)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("TWILIO_API_BASE_URL", "http://127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capfd.readouterr()
    assert ended.value.code
    assert out + err
    assert leaks([out, err]) == []


def test_a_file_that_cannot_be_read_is_told_without_what_is_in_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OUTBOUND_API_KEY", KEY)
    for number, content in enumerate(
        (
            f'{{"lead_id": "{CANARY}", "phone": "+{NUMBERS}0901"',
            f'{{"twice": "{CANARY}", "twice": "{CANARY}"}}',
            f'{{"lead_id": "a"}}\n{{"{CANARY}": +{NUMBERS}0902}}',
            f"{CANARY},+{NUMBERS}0903\n",
            f"lead_id,phone,twice,twice\n{CANARY},+{NUMBERS}0906\n",
            f"lead_id,phone\n{CANARY},+{NUMBERS}0904,{CANARY}\n",
            f'lead_id,phone\n"{CANARY},+{NUMBERS}0905\n',
        )
    ):
        file = tmp_path / str(number)
        file.write_text(content)
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", "create", str(file)])
        assert ended.value.code
    out, err = capfd.readouterr()
    assert len(err.splitlines()) == 7
    assert leaks([out, err]) == []


def test_the_passwords_of_the_test_are_where_they_are_thought_to_be(url):
    assert urlsplit(url).password
