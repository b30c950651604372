"""What only a real web process can show: raw bodies, restarts, and the database away."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from twilio.request_validator import RequestValidator

from factories import phone
from outbound.embedded import EmbeddedPostgres
from processes import Process, wait_until


@pytest.fixture
def web(world, engine):
    world.start_web()
    world.key = world.account(engine)
    return world


def exchange(web, data):
    """Send bytes as they are, and read until the server closes; returns each answer's status."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer.decode()


def raw(web, head, body=b"", close=True):
    """Send bytes as they are; returns the status and the body."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=20) as connection:
        head = f"{head}\r\nHost: x\r\nAuthorization: Bearer {web.key}\r\n\r\n"
        connection.sendall(head.encode() + body)
        if close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if not close and b"\r\n\r\n" in answer:
                break
    status = int(answer.split()[1])
    return status, answer.partition(b"\r\n\r\n")[2]


POST = "POST /api/outbound/runs HTTP/1.1\r\nContent-Type: application/json"


def test_a_chunked_body_is_411(web):
    status, body = raw(
        web, POST + "\r\nTransfer-Encoding: chunked\r\nConnection: close", b"2\r\n{}\r\n0\r\n\r\n"
    )
    assert (status, json.loads(body)["status"]) == (411, 411)


def test_a_body_shorter_than_it_says_is_400(web):
    status, _ = raw(web, POST + "\r\nContent-Length: 50\r\nConnection: close", b'{"leads": []}')
    assert status == 400


def test_two_gigabytes_are_refused_before_they_are_sent(web):
    status, _ = raw(web, POST + "\r\nContent-Length: 2147483648\r\nConnection: close", close=False)
    assert status == 413


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /canary-9f2" + "a" * 9000 + " HTTP/1.1", 414),
        ("GET / HTTP/1.1\r\nX-Canary-9f2: " + "a" * 9000, 431),
        ("GET / HTTP/1.1" + "".join(f"\r\nX-Canary-9f2-{n}: a" for n in range(120)), 431),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: canary-9f2", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4", 400),
        ("POST / HTTP/1.1\r\nContent-Length: canary-9f2", 400),
        ("POST / HTTP/1.1\r\nContent-Length: -1", 400),
        ("POST / HTTP/1.1\r\nExpect: canary-9f2\r\nContent-Length: 2", 417),
        ("canary-9f2 / HTTP/1.1", 400),
        ("canary-9f2", 400),
        ("GET / HTTP/9.9", 400),
    ],
)
def test_what_is_no_readable_request_is_a_problem_too_and_not_echoed(web, head, status):
    before = len(web.web.has_logged("request_unreadable"))
    answer = exchange(web, f"{head}\r\nHost: x\r\n\r\n".encode())
    told, _, body = answer.partition("\r\n\r\n")
    problem = json.loads(body)
    assert told.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/problem+json" in told
    assert f"X-Request-Id: {problem['request_id']}" in told
    assert problem["status"] == status
    assert "canary" not in answer.lower()
    wait_until(lambda: len(web.web.has_logged("request_unreadable")) > before)
    assert "canary" not in "\n".join(web.web.lines).lower()
    assert web.web.has_logged("request_unreadable")[-1]["request_id"] == problem["request_id"]


def test_rubbish_behind_a_refused_body_is_not_answered_a_second_time(web):
    head = f"{POST}\r\nHost: x\r\nAuthorization: Bearer {web.key}\r\nTransfer-Encoding: chunked"
    answer = exchange(web, f"{head}\r\n\r\nZZ\r\n".encode())
    assert answer.startswith("HTTP/1.1 411 ")
    assert answer.count("HTTP/1.1") == 1


def test_two_gigabytes_are_refused_on_a_connection_that_would_be_kept_too(web):
    status, _ = raw(web, POST + "\r\nContent-Length: 2147483648", close=False)
    assert status == 413


def test_a_callback_is_verified_against_what_was_sent_to_the_last_byte(web, stack):
    form = {"CallSid": "CA" + "1" * 32, "CallStatus": "ringing", "Blank": ""}
    target = f"/webhooks/twilio/{uuid4()}?blank=&plus=a+b&escaped=%7e"
    validator = RequestValidator(stack.environment["TWILIO_AUTH_TOKEN"])
    signature = validator.compute_signature(web.base + target, form)

    def send(target):
        headers = {
            "Host": "x",
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(urlencode(form))),
            "X-Twilio-Signature": signature,
            "X-Forwarded-Proto": "https",
            "Connection": "close",
        }
        lines = [f"POST {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        answer = exchange(web, ("\r\n".join(lines) + "\r\n\r\n" + urlencode(form)).encode())
        return answer.split()[1]

    assert send(target) == "404"  # genuine, for an attempt that nobody made
    assert send(target.replace("%7e", "~")) == "403"
    assert send(target.replace("blank=&", "")) == "403"


def test_each_worker_says_that_it_is_there_and_every_line_is_json_with_its_source(web):
    started = wait_until(lambda: len(web.web.has_logged("WORKER_START")) >= 2 and web.web.events)
    workers = [line["worker_id"] for line in started if line["event"] == "WORKER_START"]
    assert len(set(workers)) == len(workers) == 2
    (ready,) = web.web.has_logged("web_ready")
    assert (ready["port"], ready["worker_id"] in workers) == (web.port, False)
    exchange(web, b"GET /api/outbound/account HTTP/1.0\r\nX-Request-Id: mine-1\r\n\r\n")
    line = web.web.wait_for("http_request", request_id="mine-1")
    assert (line["status"], line["route"]) == (401, "/api/outbound/account")
    for text in web.web.lines:
        told = json.loads(text)
        assert {"timestamp", "level", "event", "worker_id", "consumer_source"} <= told.keys()
        assert told["consumer_source"] == "api"


def test_a_gunicorn_that_somebody_else_starts_serves_and_logs_the_same(stack, world):
    config = Path(__file__).parents[2] / "deploy" / "gunicorn.conf.py"
    popen = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", str(config), "outbound.api.wsgi:app"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **stack.environment},
    )
    process = Process("gunicorn", popen)
    threading.Thread(target=process.read, daemon=True).start()
    stack.started.append(process)
    wait_until(lambda: len(process.has_logged("WORKER_START")) == 2, 30, str(process.lines[-5:]))
    assert process.has_logged("web_ready")
    assert world.http.get(f"{world.base}/health/ready", timeout=5).status_code == 200
    assert process.terminate() == 0
    assert [line for line in process.lines if not line.startswith("{")] == []


def test_a_run_is_503_while_the_database_is_away_and_taken_when_it_is_back(stack, world, tmp_path):
    from sqlalchemy import create_engine

    from outbound import migrations

    (tmp_path / "pg").mkdir()
    tmp_path.chmod(0o755)
    database = EmbeddedPostgres(tmp_path / "pg")
    database.start()
    stack.environment["DATABASE_URL"] = database.url
    engine = create_engine(database.url.replace("postgresql://", "postgresql+psycopg2://"))
    migrations.migrate(engine)
    workers = world.start(workers=1)
    key = world.account(engine)
    body = {"leads": [{"lead_id": "a", "phone": phone(1)}]}
    engine.dispose()
    database.kill()
    answer = world.ask("POST", "/runs", key, json=body)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert world.http.get(f"{world.base}/health/ready", timeout=5).status_code == 503
    assert world.http.get(f"{world.base}/health/live", timeout=5).status_code == 200
    database.start()
    posted = wait_until(
        lambda: (a := world.ask("POST", "/runs", key, json=body)).status_code == 202 and a, 30
    )
    assert world.wait_for_run(key, posted.json()["run_id"])["outcomes"]["answered"] == 1
    assert [p.popen.poll() for p in (*workers, *stack.started)] == [None] * (1 + len(stack.started))
    stack.stop()
    database.stop()


def test_a_hundred_thousand_leads_go_in_with_one_request_and_little_memory(web, engine):
    leads = [
        {
            "lead_id": f"crm-{n}",
            "phone": f"+1202{200 + n // 10_000:03d}{n % 10_000:04d}",
            "variables": {"name": f"Person {n}"},
        }
        for n in range(100_000)
    ]
    answer = web.http.post(
        f"{web.base}/api/outbound/runs",
        json={"leads": leads},
        timeout=110,
        headers={"Authorization": f"Bearer {web.key}"},
    )
    assert answer.status_code == 202, answer.text[:500]
    assert answer.json()["accepted"] == 100_000
    assert web.run(web.key, answer.json()["run_id"])["queued"] == 100_000
    assert max(peak_memory(web.web.popen.pid)) < 400 * 1024 * 1024


def peak_memory(master: int) -> list[int]:
    """The most memory that each web worker ever had, in bytes."""
    pids = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    peaks = []
    for pid in pids:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        peaks += [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")]
    return peaks


def test_twenty_parallel_reconciles_over_two_processes_are_one_and_nineteen_refusals(
    web, stack, tmp_path
):
    from concurrent.futures import ThreadPoolExecutor

    from processes import World

    second = World(stack, tmp_path / "unused")
    second.start_web()
    first_url, second_url = web.base, second.base

    def ask(n):
        url = (first_url, second_url)[n % 2]
        return web.http.post(
            f"{url}/api/outbound/runs/reconcile",
            timeout=20,
            headers={"Authorization": f"Bearer {web.key}"},
        ).status_code

    with ThreadPoolExecutor(20) as pool:
        assert sorted(pool.map(ask, range(20))) == [200] + [429] * 19


def test_a_web_process_told_to_stop_ends_cleanly(web):
    assert web.web.terminate() == 0
