"""promtool, by which Prometheus' rules are tested, and the alert rules that compose and the chart share."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml
from skips import skip_or_fail

from toolkit.stages import ROOT

RULES = ROOT / "charts" / "thinkship" / "files" / "rules.yaml"
CASES = ROOT / "tests" / "monitoring" / "rules_test.yaml"


@pytest.fixture(scope="session")
def promtool() -> str:
    remedy = "apt-get install prometheus, or go install github.com/prometheus/prometheus/cmd/promtool@latest"
    return shutil.which("promtool") or skip_or_fail(f"promtool is not here: {remedy}")


def run(*words: str) -> str:
    """Run a program and fail with its own words."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def rules() -> list[dict[str, Any]]:
    """Return every rule with the name of its group."""
    return [{**rule, "group": group["name"]} for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def cases() -> list[dict[str, Any]]:
    """Return what promtool is asked."""
    return list(yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"])
