"""`outbound up` and `outbound demo`: everything on this machine, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from processes import free_port, wait_until

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


def descendants(pid):
    found, todo = set(), [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            children = {int(child) for child in task.read_text().split()}
            todo += children - found
            found |= children
    return found


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
    assert run_cli(env, "audit", run["run_id"], "--json") == {"attempts": 10, "differences": []}
    assert len(run_cli(env, "calls", "list", run["run_id"], *key, "--json")["items"]) == 10
    children = descendants(process.pid)
    assert len(children) > 6
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    wait_until(lambda: are_gone(children), 10)


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
