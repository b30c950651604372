"""`make audit`: are there known holes in what the lock file names?

Exits with 0 if there is none, and also, saying so, if nobody could be asked: a machine without
the internet must be able to run every target. Exits with 1 for a hole.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = "requirements-dev.lock"
SECONDS = 300


def ask() -> str:
    """Let pip-audit ask PyPI about every locked version; returns its JSON, or less."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", LOCK, "--require-hashes"]
    command += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    return ran.stdout


def judge(told: str) -> tuple[int, str]:
    """Say what a report means: an exit code, and the text for people."""
    try:
        packages = json.loads(told)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "NOT AUDITED: the database of holes did not answer. Nothing is known."
    known = [one for one in packages if "skip_reason" not in one]
    holes = [(one, hole) for one in known for hole in one["vulns"]]
    lines = [_line(one, hole) for one, hole in holes]
    if not known:
        # pip-audit itself calls this "no known vulnerabilities found".
        lines.append("NOT AUDITED: the database of holes knows none of the packages.")
    elif len(known) < len(packages):
        skipped = sorted(one["name"] for one in packages if "skip_reason" in one)
        lines.append(f"NOT AUDITED: {', '.join(skipped)}")
    lines.append(f"{len(holes)} known holes in {len(known)} of {len(packages)} packages")
    return (1 if holes else 0), "\n".join(lines)


def _line(package: dict, hole: dict) -> str:
    fixed = ", ".join(hole.get("fix_versions", ())) or "no version yet"
    names = ", ".join([hole["id"], *hole.get("aliases", ())])
    return f"{package['name']} {package['version']}: {names}; mended in {fixed}"


if __name__ == "__main__":
    code, text = judge(ask())
    print(text)  # noqa: T201 - a script's answer
    sys.exit(code)
