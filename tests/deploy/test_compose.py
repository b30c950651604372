"""The Compose file: held to the specification's schema, and to what the processes expect."""

import json
import re
import subprocess
import sys

import pytest

from deploy.shipped import (
    COMMANDS,
    DEPLOY,
    IMAGE,
    PROCESSES,
    VARIABLES,
    connections,
    environment_of,
    grace,
    is_known,
)

yaml = pytest.importorskip("yaml", reason="no PyYAML here")
FILE = DEPLOY / "compose/compose.yaml"
EXAMPLE = environment_of(DEPLOY / "compose/.env.example")
OF_POSTGRES = "POSTGRES_PASSWORD"
CADDYFILE = DEPLOY / "caddy/Caddyfile"


def service_of(name):
    return yaml.safe_load(FILE.read_text())["services"][name]


SERVICES = yaml.safe_load(FILE.read_text())["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("outbound")}


def seconds(duration):
    return float(re.fullmatch(r"(\d+)s", duration)[1])


def schema_says(document, directory):
    pytest.importorskip("check_jsonschema", reason="no check-jsonschema here (a PyPI package)")
    (directory / "compose.json").write_text(json.dumps(document))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run(
        [*check, str(directory / "compose.json")], capture_output=True, text=True, timeout=120
    )


def test_the_file_is_what_the_compose_specification_allows(tmp_path):
    done = schema_says(yaml.safe_load(FILE.read_text()), tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_key_is_seen(tmp_path):
    wrong = yaml.safe_load(FILE.read_text())
    wrong["services"]["redis"]["restrat"] = "always"
    assert schema_says(wrong, tmp_path).returncode == 1


def test_every_process_is_there_and_those_that_have_to_go_on_are_there_twice():
    copies = dict.fromkeys([*PROCESSES, "migrate"], 0)
    for one in OURS.values():
        assert one["image"] == IMAGE, "an old image would be deployed: name the new version here"
        (command,) = one["command"]
        assert command in COMMANDS
        copies[command] += one.get("deploy", {}).get("replicas", 1)
    assert copies == {"web": 2, "worker": 2, "reconciler": 2, "migrate": 1}


def test_nothing_starts_before_the_schema_is_there_and_the_migration_runs_once():
    assert OURS["migrate"]["restart"] == "no"
    for name in set(OURS) - {"migrate"}:
        waits_for = OURS[name]["depends_on"]["migrate"]
        assert waits_for == {"condition": "service_completed_successfully"}
        assert OURS[name]["restart"] == "unless-stopped"


def test_each_process_is_given_the_time_that_it_takes_to_stop():
    told = float(EXAMPLE["OUTBOUND_SHUTDOWN_SECONDS"])
    for one in OURS.values():
        assert seconds(one["stop_grace_period"]) >= grace(one["command"][0], told)


def test_web_and_the_servers_have_health_checks_and_the_silent_processes_none():
    for name, one in SERVICES.items():
        check = one.get("healthcheck")
        if one not in OURS.values():
            assert check["test"], name
        elif one["command"] == ["web"]:
            assert check is None, "the image's own, which asks web"
        else:
            assert check == {"disable": True}, "the image's asks web, which is not there"


def test_every_variable_is_one_that_somebody_reads():
    is_known({name: value for name, value in EXAMPLE.items() if name != OF_POSTGRES})
    for one in OURS.values():
        assert one["env_file"] == ".env"
        is_known(one["environment"])
    asked = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    assert asked <= set(EXAMPLE)
    read = set(re.findall(r"\{\$(\w+)", CADDYFILE.read_text()))
    assert read == set(SERVICES["proxy"]["environment"])
    needed = {"DATABASE_URL", "REDIS_URL", "PUBLIC_BASE_URL"} & set(VARIABLES)
    assert needed <= set(OURS["web-1"]["environment"]) | set(EXAMPLE)


def test_the_proxy_asks_every_web_process():
    web = {f"{name}:8000" for name, one in OURS.items() if one["command"] == ["web"]}
    assert set(SERVICES["proxy"]["environment"]["WEB"].split()) == web


def test_postgresql_has_a_connection_for_every_one_that_the_processes_may_open():
    opened = sum(
        connections(one["command"][0]) * one.get("deploy", {}).get("replicas", 1)
        for one in OURS.values()
    )
    (allowed,) = re.findall(r"max_connections=(\d+)", " ".join(service_of("postgres")["command"]))
    # Three are kept for superusers, and a person with psql or `outbound` wants some too.
    assert int(allowed) >= opened + 20


def test_redis_drops_no_doorbell():
    command = " ".join(service_of("redis")["command"])
    assert "--maxmemory-policy noeviction" in command


def test_our_processes_may_write_nowhere_and_have_no_rights():
    for one in OURS.values():
        assert (one["read_only"], one["cap_drop"]) == (True, ["ALL"])
        assert one["security_opt"] == ["no-new-privileges:true"]


def test_filled_in_secrets_are_not_committed():
    assert ".env" in (DEPLOY / "compose/.gitignore").read_text().split()
