"""`outbound up`: everything on one machine, a first run by hand, and nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from processes import free_port, wait_until

OURS = ("DATABASE_URL", "REDIS_URL", "PUBLIC_BASE_URL", "TWILIO_", "OUTBOUND_", "PORT")
BARE = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
OUTBOUND = [sys.executable, "-m", "outbound"]


class Up:
    def __init__(self, directory, **environment):
        self.directory, self.port = directory, free_port()
        self.out, self.err = directory.with_suffix(".out"), directory.with_suffix(".err")
        with self.out.open("w") as out, self.err.open("w") as err:
            self.popen = subprocess.Popen(
                [*OUTBOUND, "up", "--dir", str(directory), "--port", str(self.port)],
                env=BARE | environment,
                stdout=out,
                stderr=err,
            )

    def wait(self):
        def is_up():
            assert self.popen.poll() is None, self.err.read_text()
            return "Outbound is up" in self.err.read_text()

        wait_until(is_up, 60, "outbound up")
        return self

    @property
    def environment(self):
        """What another shell has that read the file."""
        command = ["bash", "-c", f". {self.directory}/env && env -0"]
        out = subprocess.run(command, env=BARE, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in out.split("\0") if line)

    def outbound(self, *arguments, code=0, **environment):
        done = subprocess.run(
            [*OUTBOUND, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def children(self):
        return descendants(self.popen.pid)

    def stop(self, number=signal.SIGTERM):
        self.popen.send_signal(number)
        return self.popen.wait(60)


def descendants(pid):
    try:
        direct = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [*map(int, direct), *(below for child in direct for below in descendants(child))]


def living(pids):
    def state(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "Z"

    return [pid for pid in pids if state(pid) != "Z"]


def process_named(pids, word):
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if word.encode() in words:
            return pid
    raise AssertionError(word)


@pytest.fixture
def start():
    started = []
    # Not tmp_path: root's PostgreSQL runs as nobody, who must reach it.
    with tempfile.TemporaryDirectory(prefix="outbound-test-") as place:
        Path(place).chmod(0o755)

        def up(name="one", **environment):
            started.append(Up(Path(place) / name, **environment))
            return started[-1]

        yield up
        for one in started:
            if one.popen.poll() is None:
                one.stop()


def make_key(up):
    account = up.outbound(
        *("account", "create", "first", "--caller-id", "+97231234567", "--json"),
        *("--calls-per-second", "20"),
    )
    key = up.outbound("key", "create", "--account", account["account_id"], "--role=admin", "--json")
    return key["key"]


def place_behind_our_back(up, attempt, to):
    """Have the carrier make a second call of one attempt, as a repeated request would."""
    known = up.environment
    sid = known["TWILIO_ACCOUNT_SID"]
    back = f"{known['PUBLIC_BASE_URL']}/webhooks/twilio/{attempt}"
    answer = requests.post(
        f"{known['TWILIO_API_BASE_URL']}/2010-04-01/Accounts/{sid}/Calls.json",
        auth=(sid, known["TWILIO_AUTH_TOKEN"]),
        data={
            "To": to,
            "From": "+97231234567",
            "Twiml": "<Response/>",
            "StatusCallback": back,
            "StatusCallbackEvent": "completed",
        },
        timeout=10,
    )
    assert answer.status_code == 201, answer.text
    return answer.json()["sid"]


def test_a_first_run_by_hand_and_then_nothing_is_left_running(start, tmp_path):
    up = start().wait()
    file = tmp_path / "leads.csv"
    file.write_text("lead_id,phone\na,+12025550100\nb,+12025550201\nc,+12025550307\n")
    key = {"OUTBOUND_API_KEY": make_key(up)}
    run = up.outbound(
        *("run", "create", str(file), "--twiml", "<Response/>", "--max-attempts=1", "--json"),
        *("--calls-per-second", "20"),
        **key,
    )["run_id"]
    ended = up.outbound("run", "watch", run, "--json", **key)
    # The number that ends in 07 is refused by the carrier, and so no call of its own.
    assert ended["outcomes"] | {"answered": 1, "busy": 1, "failed": 1} == ended["outcomes"]

    assert up.outbound("audit", run, "--json") == {"attempts": 3, "differences": []}
    (call,) = up.outbound("calls", "list", run, "--outcome=answered", "--json", **key)["items"]
    attempt = call["attempts"][0]["attempt_id"]
    double = place_behind_our_back(up, attempt, call["phone"])
    (found,) = up.outbound("audit", run, "--json", code=1)["differences"]
    assert (found["kind"], found["attempt_id"]) == ("double", attempt)
    assert found["carrier_call_id"] == double
    assert "double" in up.outbound("audit", run, code=1)

    checks = {one["check"]: one["result"] for one in up.outbound("doctor", "--json")}
    assert checks.pop("public url") == "warn"
    assert set(checks.values()) == {"ok"}, checks
    assert {"redis memory", "redis persistence", "leader", "worker", "clock"} <= set(checks)

    children = up.children()
    assert len(children) > 6
    assert up.stop() == 0
    assert not living(children)


def test_two_at_once_in_two_places_do_not_meet(start):
    first, second = start("one"), start("two")
    urls = {one.wait().environment["DATABASE_URL"] for one in (first, second)}
    assert len(urls) == 2
    third = Up(first.directory)  # the same place, and a port of its own
    assert third.popen.wait(60) == 1
    (line,) = [one for one in third.err.read_text().splitlines() if one.startswith("error:")]
    assert "is in use" in line
    assert requests.get(f"http://127.0.0.1:{first.port}/health/ready", timeout=5).ok
    assert (first.stop(signal.SIGINT), second.stop()) == (0, 0)


def test_a_child_that_dies_by_itself_ends_everything(start):
    up = start().wait()
    children = up.children()
    os.kill(process_named(children, "reconciler"), signal.SIGKILL)
    assert up.popen.wait(60) == 1
    (line,) = [one for one in up.err.read_text().splitlines() if one.startswith("error:")]
    assert line.startswith("error: reconciler-")
    assert "ended by itself" in line
    assert not living(children)


def test_killed_it_takes_everything_with_it(start):
    up = start().wait()
    children = up.children()
    up.popen.kill()
    up.popen.wait(10)
    wait_until(lambda: not living(children), 30, "the children's end")


def test_its_data_outlives_it_and_the_same_place_starts_again(start):
    up = start().wait()
    make_key(up)
    assert up.stop() == 0
    again = start().wait()
    assert [one["name"] for one in again.outbound("account", "list", "--json")] == ["first"]
    assert (again.directory / "env").stat().st_mode & 0o077 == 0


def test_a_port_in_use_is_one_line_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))  # noqa: S104 - as a web process of somebody else's
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [*OUTBOUND, "up", "--dir", str(tmp_path / "new"), "--port", str(port)],
            env=BARE,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is in use; choose another one with --port\n"
    assert not (tmp_path / "new").exists()
