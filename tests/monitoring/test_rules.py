# ruff: noqa: F401, F811 - pytest finds the imported fixture by its name
"""The alert rules by promtool: each alert fires when it should, is silent when it should, and says what it means."""

from __future__ import annotations

import re

import yaml
from promtool import CASES, RULES, cases, promtool, rules, run

from toolkit.stages import ROOT


def test_prometheus_takes_rules_and_configuration(promtool: str) -> None:
    assert f"{len(rules())} rules found" in run(promtool, "check", "rules", "--lint-fatal", str(RULES))
    run(promtool, "check", "config", "--syntax-only", str(ROOT / "compose" / "monitoring" / "prometheus.yaml"))


def test_each_alert_fires_and_is_silent_as_stated(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", str(CASES))


def test_every_alert_is_seen_silent_and_firing() -> None:
    asked = [case for one in cases() for case in one["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in asked if case.get("exp_alerts")} == names and len(names) >= 12
    assert {case["alertname"] for case in asked if not case.get("exp_alerts")} == names


def test_every_metric_has_its_braces_for_the_charts_labels() -> None:
    """The chart puts them after each `{`: a metric without would be everybody's."""
    named = re.compile(r"\b(?:vllm:|llamacpp:|thinkship_)\w+(\{?)")
    found = [brace for rule in rules() for brace in named.findall(rule["expr"])]
    assert len(found) > 20 and set(found) == {"{"}


def test_the_example_of_the_how_to_is_of_this_source() -> None:
    page = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
    section = page[page.index("**From Prometheus.**") :]
    (shown,) = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[1])["groups"]
    ours = {rule["alert"]: {key: value for key, value in rule.items() if key != "group"} for rule in rules() if rule["group"] == shown["name"]}
    assert len(shown["rules"]) >= 2
    for rule in shown["rules"]:
        assert rule == ours[rule["alert"]]
