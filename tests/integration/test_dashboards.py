"""Dashboards and alerts: well made, and about figures and lines that exist.

That the lines exist is asked of real processes in tests/acceptance/test_metrics.py.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import falcon.testing
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dashboards import LOGS, METRICS, expressions, names_in, panels
from outbound.api.app import create_app
from outbound.carriers import base

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts" / "outbound.rules.yml"
RULE_TESTS = ROOT / "deploy" / "alerts" / "outbound.rules.test.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ALERTS = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
ANCHOR = "docs/runbook.md#"

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"),
    reason="promtool is missing; it comes with Prometheus (Debian: apt-get install prometheus)",
)


def promtool(*words, cwd=None):
    return subprocess.run(
        ["promtool", *words], capture_output=True, text=True, timeout=100, cwd=cwd
    )


@pytest.fixture
def names(node):
    from dataclasses import replace

    inside = replace(node, settings=replace(node.settings, metrics_port=9464))
    http = falcon.testing.TestClient(create_app(inside, base.load(inside.settings)))
    page = http.simulate_get("/metrics", port=9464).text
    return {
        sample.name for family in text_string_to_metric_families(page) for sample in family.samples
    }


@needs_promtool
def test_the_rules_are_valid():
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_fire_when_they_should_and_only_then():
    done = promtool("test", "rules", RULE_TESTS.name, cwd=RULE_TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_in_the_rule_tests():
    fired = set(re.findall(r'alertname="(\w+)"', RULE_TESTS.read_text()))
    assert fired == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_grave_it_is_what_it_means_and_what_to_do(alert):
    assert re.fullmatch(r"Outbound[A-Z]\w+", alert["alert"])
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert "{{" not in alert["annotations"]["summary"]  # one text for a group of alerts
    assert alert["annotations"]["runbook_url"] == ANCHOR + alert["alert"].lower()
    assert f"\n### {alert['alert']}\n" in RUNBOOK


def test_the_runbook_has_no_section_for_an_alert_that_is_gone():
    sections = set(re.findall(r"^### (Outbound\w+)$", RUNBOOK, re.MULTILINE))
    assert sections == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_about_figures_that_are_told(alert, names):
    asked = names_in(alert["expr"])
    assert asked
    assert asked <= names


def test_a_dashboard_shows_only_figures_that_are_told_and_leaves_none_out(names):
    asked = set().union(*(names_in(expression) for expression in expressions(METRICS)))
    assert asked <= names
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} == families


@pytest.mark.parametrize("dashboard", [METRICS, LOGS], ids=lambda path: path.stem)
class TestShape:
    def test_it_can_be_imported_beside_others(self, dashboard):
        board = json.loads(dashboard.read_text())
        assert board["title"]
        assert board["description"]
        assert board["uid"] == dashboard.stem
        assert "id" not in board
        variables = {one["name"]: one for one in board["templating"]["list"]}
        assert variables["datasource"]["type"] == "datasource"

    def test_every_panel_says_what_it_shows_and_asks_the_chosen_source(self, dashboard):
        shown = [panel for panel in panels(dashboard) if panel["type"] != "row"]
        assert shown
        for panel in shown:
            assert panel["title"], panel
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            for asker in (panel, *panel["targets"]):
                assert asker["datasource"]["uid"] == "${datasource}", panel["title"]
        ids = [panel["id"] for panel in panels(dashboard)]
        assert len(set(ids)) == len(ids)

    def test_no_panel_lies_over_another(self, dashboard):
        taken = set()
        for panel in panels(dashboard):
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24, panel["title"]
            taken |= cells


def test_rates_follow_the_zoom_and_replicas_are_never_added_up():
    for expression in expressions(METRICS):
        assert '{job=~"$job"' in expression
        assert "max without (instance, pod)" in expression
        if "rate(" in expression:
            assert "[$__rate_interval]" in expression


@needs_promtool
def test_every_expression_of_the_metrics_dashboard_is_promql(tmp_path):
    rules = [
        {"record": f"x:{number}", "expr": one.replace("$__rate_interval", "5m")}
        for number, one in enumerate(expressions(METRICS))
    ]
    made = tmp_path / "rules.yml"
    made.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": rules}]}))
    done = promtool("check", "rules", "--lint=none", str(made))
    assert done.returncode == 0, done.stdout + done.stderr
