"""The command line against the real processes: a user's whole way, and a user's mistakes."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys

import click
import pytest

from outbound import cli as command_line
from processes import wait_until

NAME = "[urgent] renewals [/b] \x1b[2J"


class Cli:
    """The command as an account's owner runs it."""

    def __init__(self, world):
        self._environment = {**os.environ, **world.stack.environment}

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "outbound", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever runs these tests in the background has Ctrl-C ignored, and so would we.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def run(self, *arguments, code=0):
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out or err

    def json(self, *arguments, code=0):
        return json.loads(self.run(*arguments, "--json", code=code))

    def own_account(self):
        fields = ("--caller-id", "+97231234567", "--calls-per-second", "100")
        account = self.json("account", "create", "acme", *fields)["account_id"]
        made = self.json("key", "create", "--account", account, "--role", "admin")
        self._environment["OUTBOUND_API_KEY"] = made["key"]
        return account, made["key_id"]


@pytest.fixture
def cli(world):
    return Cli(world)


@pytest.fixture
def leads(tmp_path):
    file = tmp_path / "leads.csv"
    file.write_text("\ufefflead_id,phone\n[/x]a,+12025550111\nb,+12025550112\n")
    return str(file)


def create(cli, leads, *options):
    always = ("--twiml", "<Response/>", "--calls-per-second", "100")
    return cli.json("run", "create", leads, *always, *options)["run_id"]


def test_from_an_account_to_an_audited_run_and_a_revoked_key(world, cli, leads):
    world.start(workers=1)
    account, key_id = cli.own_account()
    run = create(cli, leads, "--name", NAME)
    assert cli.json("run", "watch", run)["outcomes"]["answered"] == 2
    assert "2 attempts agree" in cli.run("audit", run)
    assert "[urgent] renewals [/b] \\x1b[2J" in cli.run("run", "list")
    assert "[/x]a" in cli.run("calls", "list", run)
    (first, _) = cli.json("calls", "list", run)["items"]
    shown = cli.run("calls", "show", run, first["call_id"])
    assert first["phone"] in shown
    assert "attempt_placed" in shown
    assert cli.json("account", "list")[0]["account_id"] == account
    assert "can no longer be paused" in cli.run("run", "pause", run, code=1)
    cli.json("key", "revoke", key_id)
    assert cli.run("run", "list", code=1).startswith("error: ")


def test_pause_resume_cancel_and_a_watch_that_is_interrupted(world, cli, leads):
    world.start_web()
    cli.own_account()
    run = create(cli, leads)
    with cli.start("run", "watch", run) as watch:
        assert watch.stdout.readline().startswith("pending")
        watch.send_signal(signal.SIGINT)
        try:
            _, err = watch.communicate(timeout=10)
        finally:
            watch.kill()
    assert (watch.returncode, err.strip()) == (130, "")
    assert cli.json("run", "pause", run)["status"] == "paused"
    assert cli.json("run", "resume", run)["status"] == "pending"
    cli.json("run", "cancel", run)
    assert cli.json("run", "show", run)["cancel_requested"] is True
    assert cli.json("reconcile")["success"] is True
    assert "(again in " in cli.run("reconcile", code=1)


def test_a_watch_outlives_the_api(world, cli, leads):
    web = world.start_web()
    cli.own_account()
    run = create(cli, leads)
    with cli.start("run", "watch", run) as watch:
        assert watch.stdout.readline().startswith("pending")
        web.terminate()
        assert watch.stdout.readline().startswith("the API is away; these numbers are old")
        world.start_web()
        assert watch.stdout.readline().startswith("pending")
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=10)


def test_unknowns_are_decided_by_their_owner_and_the_audit_tells_a_wrong_word(world, cli, leads):
    world.start("--faults", '{"refuse_500": 100}', workers=1)
    cli.own_account()
    run = create(cli, leads)
    assert cli.json("run", "watch", run)["unknown"] == 2
    one, two = (call["call_id"] for call in cli.json("calls", "list", run)["items"])
    assert "15 min" in cli.run("calls", "resolve", run, one, "--decision", "not_placed", code=1)
    answered = ("--decision", "placed", "--outcome", "answered")
    cli.json("calls", "resolve", run, one, *answered, "--note", "the lead said so")
    world.faults(refuse_500=0)
    cli.json("calls", "resolve", run, two, "--decision", "redial", "--force")
    ended = wait_until(
        lambda: (body := cli.json("run", "show", run))["status"] == "completed" and body, 20
    )
    assert (ended["unknown"], ended["outcomes"]["answered"]) == (0, 2)
    (difference,) = cli.json("audit", run, code=1)["differences"]
    assert difference["kind"] == "carrier_does_not_know"


def test_a_database_without_a_schema_names_the_command_that_makes_it(world, cli, postgres_url):
    cli._environment["DATABASE_URL"] = postgres_url
    assert cli.run("account", "list", code=1) == (
        "error: the database has no schema yet: run `outbound migrate`\n"
    )


# What prints no data: it serves, or brings the database on.
SILENT = {"up", "web", "worker", "reconciler", "emulator", "migrate"}
# Starts a whole system; test_up.py reads its JSON.
ELSEWHERE = {"demo"}


def leaves(command, words=()):
    """Every command that does something, with the words that name it."""
    if not isinstance(command, click.Group):
        return {words: command}
    context = click.Context(command)
    found = {}
    for name in command.list_commands(context):
        found |= leaves(command.get_command(context, name), (*words, name))
    return found


DATA = sorted(
    " ".join(words)
    for words in leaves(command_line.cli)
    if words[0] not in SILENT and words[0] not in ELSEWHERE
)


def test_every_command_that_prints_data_takes_json():
    commands = {" ".join(words): one for words, one in leaves(command_line.cli).items()}
    for name in [*DATA, *ELSEWHERE]:
        options = {word for one in commands[name].params for word in one.opts}
        assert "--json" in options, name


def test_no_command_prints_data_without_being_read_here():
    assert set(DATA) == set(ARGUMENTS), "say here how a new command is called"


# In an order in which each finds what it needs; a name in braces is what an earlier one told.
ARGUMENTS = {
    "account create": ("a second one",),
    "account list": (),
    "key create": ("--account", "{account}", "--role", "viewer"),
    "key list": ("--account", "{account}"),
    "key revoke": ("{key_id}",),
    "run create": ("{leads}", "--twiml", "<Response/>", "--start-at", "2099-01-01T00:00:00Z"),
    "run list": (),
    "run show": ("{run_id}",),
    "calls list": ("{run_id}",),
    "calls show": ("{run_id}", "{call_id}"),
    "calls cancel": ("{run_id}", "{call_id}"),
    "run pause": ("{run_id}",),
    "run resume": ("{run_id}",),
    "run cancel": ("{run_id}",),
    "calls resolve": ("{run_id}", "--all", "--decision", "redial"),
    "suppressions add": ("+12025550199",),
    "suppressions list": (),
    "suppressions remove": ("+12025550199",),
    "account stop": (),
    "account start": (),
    "reconcile": (),
    "run watch": ("{run_id}",),
    "audit": ("{run_id}",),
    "doctor": (),
    "purge": ("--older-than", "90d"),
    "logs summary": ("{log}",),
}


@pytest.fixture
def known(cli, leads, tmp_path):
    log = tmp_path / "log"
    log.write_text('{"event": "WORKER_START", "level": "info"}\n')
    return {"leads": leads, "log": str(log)}


def test_each_of_them_prints_json_that_parses_and_nothing_else(world, cli, known, monkeypatch):
    world.start(workers=1)
    known["account"], _ = cli.own_account()
    for name, value in cli._environment.items():
        monkeypatch.setenv(name, value)
    for words, given in ARGUMENTS.items():
        arguments = [*words.split(), *(one.format(**known) for one in given), "--json"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as exited:
            command_line.main(arguments)
        assert exited.value.code == 0, (arguments, out.getvalue())
        told = json.loads(out.getvalue())
        if isinstance(told, dict):
            known |= {name: told[name] for name in ("key_id", "run_id") if name in told}
            if words == "calls list":
                known["call_id"] = told["items"][0]["call_id"]
