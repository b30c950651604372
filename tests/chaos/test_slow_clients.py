"""A hundred clients that send a byte now and then, while the carrier's callbacks must get in."""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from chaos import report
from chaos.faults import happened
from processes import free_port, wait_until

CONFIGURATION = Path(__file__).parents[2] / "deploy/nginx/outbound.conf"
CLIENTS = 100


@contextlib.contextmanager
def slow_clients(port):
    """Half of them drip a header, half a body, a byte every 0.2 s, for as long as this lasts."""
    done, sockets = threading.Event(), []
    heads = [
        b"GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: ",
        b"POST /api/outbound/runs HTTP/1.1\r\nHost: slow\r\nContent-Length: 100000\r\n\r\n",
    ]
    for n in range(CLIENTS):
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.sendall(heads[n % 2])
        sockets.append(sock)

    def drip():
        while not done.wait(0.2):
            for sock in sockets:
                with contextlib.suppress(OSError):
                    sock.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for sock in sockets:
            sock.close()


@contextlib.contextmanager
def nginx(web_ports):
    """The documented proxy, on ports of the test."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("no nginx on this machine (Debian's package nginx-light)")
    port = free_port()
    servers = "\n".join(f"server 127.0.0.1:{p} max_fails=0;" for p in web_ports)
    text = CONFIGURATION.read_text()
    text = re.sub(r"server 127\.0\.0\.1:8000 max_fails=0;", servers, text)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    with tempfile.TemporaryDirectory() as directory:
        paths = "".join(
            f"{name}_temp_path {directory}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = Path(directory) / "nginx.conf"
        whole.write_text(
            f"daemon off; pid {directory}/pid; error_log stderr warn; worker_processes 1;"
            f"events {{ worker_connections 1024; }} http {{ access_log off; {paths} {text} }}"
        )
        process = subprocess.Popen([program, "-c", str(whole), "-e", "stderr"])
        try:
            wait_until(lambda: _listens(port), 10, "nginx")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def late(fleet, phones):
    """Seconds from each call's end to our knowing of it."""
    return sum(row["callbacks_ok"] == 0 for row in fleet.ledger() if row["to"] in phones)


@pytest.mark.timeout(180)
def test_behind_the_documented_proxy_slow_clients_keep_no_callback_waiting(fleet, judge, post):
    with nginx(fleet.web_ports) as port:
        before, fleet.front.targets = fleet.front.targets, [port]
        try:
            with slow_clients(port):
                started = time.monotonic()
                run = post(120)
                wait_until(lambda: run.last.get("status") == "completed", 15, "the run to end")
                took = time.monotonic() - started
        finally:
            fleet.front.targets = before
    judge.settle()
    assert late(fleet, set(run.phones)) == 0
    report.add(judge.verdict("100 slow clients, behind nginx", 1))
    assert took < 15


@pytest.mark.timeout(180)
def test_without_a_proxy_slow_clients_delay_callbacks_and_lose_nothing(fleet, judge, post):
    run = post(120)
    wait_until(lambda: run.last.get("attempts", 0) > 10, 30)
    with contextlib.ExitStack() as stack:
        for port in fleet.web_ports:
            stack.enter_context(slow_clients(port))
        happened(not fleet._serves(fleet.web_ports[0]), "the web process serves all the same")
        # Not waiting for a condition: this is how long they stay.
        time.sleep(2)
    fleet.ready()
    judge.settle()
    report.add(judge.verdict("100 slow clients, no proxy", 1))
