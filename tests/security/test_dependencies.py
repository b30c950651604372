"""The audit of the dependencies never calls clean what it could not look at."""

import json

import pytest

from security.dependencies import judge

FINE = {"name": "falcon", "version": "4.2.0", "vulns": []}
SKIPPED = {"name": "private", "skip_reason": "Dependency not found on PyPI"}
HOLE = {"id": "PYSEC-1", "fix_versions": ["4.2.1"], "aliases": ["CVE-1"], "description": "x"}


def report(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


def test_a_hole_is_a_failure_and_says_which_version_mends_it():
    code, text = judge(report(FINE | {"vulns": [HOLE]}, SKIPPED))
    assert code == 1
    assert "falcon 4.2.0: PYSEC-1, CVE-1; mended in 4.2.1" in text


def test_nothing_found_is_fine():
    assert judge(report(FINE)) == (0, "0 known holes in 1 of 1 packages")


@pytest.mark.parametrize(
    "told", ["", "Traceback", "{}", "null", report(SKIPPED), report(FINE, SKIPPED), report()]
)
def test_what_could_not_be_looked_at_is_said_and_no_failure(told):
    code, text = judge(told)
    assert code == 0
    assert "NOT AUDITED" in text
