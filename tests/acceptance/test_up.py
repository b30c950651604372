"""`outbound up` and `outbound demo`: everything on this machine, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import requests

from processes import Up, descendants, free_port, wait_until

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("DATABASE_URL", "REDIS_URL", "PUBLIC_BASE_URL", "PORT")
}


def outbound(*arguments, **environment):
    return [sys.executable, "-m", "outbound", *arguments], {**CLEAN, **environment}


@pytest.fixture
def up(tmp_path):
    tmp_path.chmod(0o755)
    started = []

    def start(name="one"):
        port = free_port()
        command, environment = outbound("up", "--dir", str(tmp_path / name), "--port", str(port))
        process = subprocess.Popen(
            command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        started.append(process)
        for line in process.stderr:
            if "is up" in line:
                return process, tmp_path / name, port
        raise AssertionError("it did not come up")

    yield start
    for process in started:
        process.kill()
        process.wait(10)
        process.stderr.close()


def are_gone(pids):
    return not any(
        Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in pids
    )


def run_cli(env_file, *arguments):
    exports = dict(
        line.removeprefix("export ").rstrip().split("=", 1)
        for line in env_file.read_text().splitlines()
    )
    command, environment = outbound(*arguments, **{k: v.strip("'") for k, v in exports.items()})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stranger_brings_it_up_makes_a_run_watches_and_audits_it(up, tmp_path):
    process, directory, _ = up()
    env = directory / "env"
    account = run_cli(
        env,
        "account",
        "create",
        "acme",
        "--caller-id",
        "+97231234567",
        "--calls-per-second",
        "50",
        "--default-twiml",
        "<Response/>",
        "--json",
    )
    made = run_cli(
        env, "key", "create", "--account", account["account_id"], "--role", "admin", "--json"
    )
    leads = tmp_path / "leads.csv"
    leads.write_text(
        "lead_id,phone\n" + "".join(f"l{n},+120255501{n:02d}\n" for n in range(10, 20))
    )
    key = ("--key", made["key"])
    run = run_cli(env, "run", "create", str(leads), "--calls-per-second", "50", *key, "--json")
    done = run_cli(env, "run", "watch", run["run_id"], *key, "--json")
    assert (done["status"], done["outcomes"]["answered"]) == ("completed", 10)
    audited = run_cli(env, "audit", run["run_id"], "--json")
    assert (audited["attempts"], audited["differences"]) == (10, [])
    assert len(run_cli(env, "calls", "list", run["run_id"], *key, "--json")["items"]) == 10
    children = descendants(process.pid)
    assert len(children) > 6
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait_until(lambda: are_gone(children), 10)


def test_it_says_where_the_console_is_and_what_to_type_in_a_fresh_terminal(up, tmp_path):
    process, directory, port = up()
    said = "".join(next(process.stderr) for _ in range(7))
    assert f"console  http://127.0.0.1:{port}/ " in said
    assert requests.get(f"http://127.0.0.1:{port}/", timeout=10).text.startswith("<!doctype html>")
    typed = [line.strip() for line in said.splitlines() if line.startswith("  ")][2:]
    assert typed[0] == f". {directory}/env"
    script = "\n".join(typed).replace(" NAME ", " acme ").partition("outbound key")[0]
    shell = ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-ec", script]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_at_once_and_again_after_a_kill(up):
    first, directory, _ = up("one")
    second, _, _ = up("two")
    children = descendants(first.pid)
    first.kill()
    first.wait(10)
    wait_until(lambda: are_gone(children), 40, "children of a killed `up` end with it")
    assert second.poll() is None
    third, again, _ = up("one")
    assert again == directory
    assert third.poll() is None


def test_a_port_in_use_is_one_line_before_anything_starts(up):
    import socket

    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - as web would
        taken.listen()
        port = taken.getsockname()[1]
        command, environment = outbound("up", "--port", str(port))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[0]
        == f"error: port {port} is in use; choose another one with --port"
    )


@pytest.mark.timeout(180)
def test_the_demonstration_is_true(tmp_path):
    tmp_path.chmod(0o755)
    command, environment = outbound("demo", "--leads", "120", "--dir", str(tmp_path), "--json")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["true"] is True
    assert (result["leads"], result["duplicates"], result["lost"], result["unknown"]) == (
        120,
        0,
        0,
        0,
    )


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

        def up(name="one", *options, **environment):
            started.append(Up(Path(place) / name, *options, **environment))
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


def test_audit_finds_a_call_made_behind_our_back_and_doctor_finds_all_well(start, tmp_path):
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

    audited = up.outbound("audit", run, "--json")
    assert (audited["attempts"], audited["differences"]) == (3, [])
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


def test_a_real_database_gets_the_emulator_only_when_asked_for(start, database_url):
    refused = start("refused", DATABASE_URL=database_url)
    assert refused.popen.wait(60) == 1
    (line,) = refused.err.read_text().splitlines()
    assert line.startswith("error: DATABASE_URL is set and TWILIO_ACCOUNT_SID is not: ")
    up = start("asked", "--emulator", DATABASE_URL=database_url).wait()
    assert up.environment["TWILIO_API_BASE_URL"].startswith("http://127.0.0.1:")
    assert up.outbound("account", "list", "--json", DATABASE_URL=database_url) == []
    assert not (up.directory / "pg").exists()


def test_a_place_in_use_is_one_line_and_its_owner_goes_on(start):
    first = start().wait()
    third = Up(first.directory)  # the same place, and a port of its own
    assert third.popen.wait(60) == 1
    (line,) = [one for one in third.err.read_text().splitlines() if one.startswith("error:")]
    assert "is in use" in line
    assert requests.get(f"http://127.0.0.1:{first.port}/health/ready", timeout=5).ok
    assert first.stop() == 0


def test_a_child_that_dies_by_itself_ends_everything(start):
    up = start().wait()
    children = up.children()
    os.kill(process_named(children, "reconciler"), signal.SIGKILL)
    assert up.popen.wait(60) == 1
    (line,) = [one for one in up.err.read_text().splitlines() if one.startswith("error:")]
    assert line.startswith("error: reconciler-")
    assert "ended by itself" in line
    assert are_gone(children)


def test_its_data_outlives_it_and_the_same_place_starts_again(start):
    up = start().wait()
    make_key(up)
    assert up.stop() == 0
    again = start().wait()
    assert [one["name"] for one in again.outbound("account", "list", "--json")] == ["first"]
    assert (again.directory / "env").stat().st_mode & 0o077 == 0
