"""The supervisor: children that die, linger or are orphaned, and the order in which all stops."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from outbound import config
from outbound.cli import supervisor as module
from outbound.cli.errors import CommandError
from outbound.cli.supervisor import Child, Supervisor, free_port, is_free
from processes import wait_until

SAYS_WHEN_ENDED = """
import signal, sys
def end(*_):
    with open(sys.argv[1], "a") as log:
        log.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
signal.pause()
"""
LINGERS = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
STARTS_AN_EMULATOR = """
import sys
from pathlib import Path
from outbound import config
from outbound.cli.supervisor import Supervisor
system = Supervisor(Path(sys.argv[1]), config.read(environ={}), 1, logs_to_files=True)
system.start_carrier()
print(system.children[0].process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def system(tmp_path, monkeypatch):
    for name in ("DATABASE_URL", "REDIS_URL"):  # the tests' own servers are not the system's
        monkeypatch.delenv(name, raising=False)
    built = Supervisor(tmp_path, config.read(environ={}), free_port(), logs_to_files=True)
    yield built
    built.stop()


def script(name, text, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", text, *arguments], stdout=subprocess.PIPE, start_new_session=True
    )
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return Child(name, process, None)


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Server:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def stop(self):
        with self.log.open("a") as log:
            log.write(f"{self.name}\n")


def test_web_stops_first_then_workers_reconciler_carrier_redis_and_postgres(system, tmp_path):
    log = tmp_path / "ended"
    system._servers += [Server("postgres", log), Server("redis", log)]
    for name in ("emulator-0", "reconciler-4", "worker-2", "web-1"):
        system.children.append(script(name, SAYS_WHEN_ENDED, str(log), name))
    system.stop()
    assert log.read_text().split() == [
        *("web-1", "worker-2", "reconciler-4", "emulator-0"),
        *("redis", "postgres"),
    ]


def test_a_child_that_ignores_the_request_to_stop_is_killed(system, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.2)
    child = script("worker-0", LINGERS)
    system.children.append(child)
    system.stop()
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_dies_by_itself_is_noticed(system):
    system.start_carrier()
    assert system.first_dead() is None
    (carrier,) = system.children
    carrier.kill()
    assert system.first_dead() is carrier


def test_a_child_that_never_becomes_ready_is_told_with_the_end_of_its_log(system):
    child = system.start("emulator", "--port", "0", "--ledger", "/dev/null/ledger")
    with pytest.raises(CommandError, match=r"emulator-0 did not become ready.*/dev/null/ledger"):
        system.wait_for(child, lambda: False)


def test_a_child_that_is_too_slow_is_not_waited_for_forever(system, monkeypatch):
    monkeypatch.setattr(module, "READY_SECONDS", 0.2)
    system.children.append(script("web-0", SAYS_WHEN_ENDED, "/dev/null", "web"))
    with pytest.raises(CommandError, match="web-0 did not become ready"):
        system.wait_for(system.children[0], lambda: False)


def test_a_command_that_fails_is_told_with_the_end_of_its_log(system):
    with pytest.raises(CommandError, match=r"migrate failed.*DATABASE_URL is not set"):
        system.run("migrate")
    assert system.first_dead() is None


def test_a_command_that_takes_too_long_is_ended_and_told(system, monkeypatch):
    monkeypatch.setattr(module, "READY_SECONDS", 0.2)
    with pytest.raises(CommandError, match="emulator took too long"):
        system.run("emulator", "--port", "0", "--ledger", str(system.directory / "slow.ndjson"))
    assert not system.children


def test_children_end_with_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_AN_EMULATOR, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent.stdin, parent.stdout:
        child = int(parent.stdout.readline())
        assert not is_gone(child)
        parent.kill()
        parent.wait(10)
        wait_until(lambda: is_gone(child), 10, "the child's end")


def test_the_emulator_is_the_carrier_whatever_the_environment_names(system, monkeypatch):
    monkeypatch.setenv("OUTBOUND_CARRIER", "somebody.elses:carrier")
    monkeypatch.setenv("TWILIO_API_BASE_URL", "https://api.twilio.com")
    monkeypatch.setenv("PUBLIC_BASE_URL", "https://outbound.example.com")
    system.start_carrier()
    seen = config.read(environ={**os.environ, **system.environment})
    assert (seen.carrier, seen.twilio_api_base_url) == ("twilio", system.carrier_url)
    assert seen.public_base_url == f"http://127.0.0.1:{system.port}"


def test_a_port_in_use_is_not_free():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert not is_free(other.getsockname()[1])
    assert is_free(free_port())
