"""What only a real web process can show: raw bodies, restarts, and the database away."""

import json
import socket
from pathlib import Path

import pytest

from factories import phone
from outbound.embedded import EmbeddedPostgres
from processes import wait_until


@pytest.fixture
def web(world, engine):
    world.start_web()
    world.key = world.account(engine)
    return world


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
