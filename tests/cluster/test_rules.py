# ruff: noqa: F401, F811 - pytest finds the imported fixture by its name
"""The chart's form of the alert rules: each engine's own, firing for its own release alone, and scraped with the labels that they ask for."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import CHART, rendered
from promtool import cases, promtool, rules, run

pytestmark = pytest.mark.usefixtures("helm")
OURS = {"namespace": "models", "service": "demo-vllm"}
VALUES: dict[str, Any] = {
    "name": "demo",
    "apiKey": {"none": True},
    "engines": {name: {"image": f"thinkship/{name}:1"} for name in ("vllm", "ollama", "llamacpp")},
    "monitoring": {"rules": True, "watch": True, "dashboard": True, "serviceMonitor": True},
}


@pytest.fixture(scope="module")
def objects() -> dict[str, list[dict[str, Any]]]:
    """What the chart renders with all of its monitoring."""
    return rendered(VALUES, "--namespace", "models")


def test_each_engine_has_its_own_rules(objects: dict[str, list[dict[str, Any]]], promtool: str, tmp_path: Path) -> None:
    found = {one["metadata"]["name"]: one["spec"]["groups"][0]["rules"] for one in objects["PrometheusRule"]}
    assert set(found) == {"demo-vllm", "demo-ollama", "demo-llamacpp"}
    for name, theirs in found.items():
        groups = ("thinkship-watch", f"thinkship-{name.partition('-')[2]}")
        wanted = {rule["alert"]: {**rule, "group": ""} for rule in rules() if rule["group"] in groups}
        labels = f'namespace="models",service="{name}",'
        ours = {rule["alert"]: rule for rule in theirs if "kube_" not in rule["expr"]}
        assert len(theirs) == len(ours) + 4 and all(labels in rule["expr"] for rule in ours.values())
        assert {alert: {**rule, "expr": rule["expr"].replace(labels, ""), "group": ""} for alert, rule in ours.items()} == wanted
        (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": theirs}]}))
        run(promtool, "check", "rules", "--lint-fatal", str(tmp_path / "rules.yaml"))


@pytest.mark.parametrize("namespace", ["models", "another"])
def test_they_fire_for_their_own_release_alone(objects: dict[str, list[dict[str, Any]]], promtool: str, tmp_path: Path, namespace: str) -> None:
    """The cases of compose's form with a cluster's labels on every series: another namespace's wake nobody up here."""
    (found,) = (one for one in objects["PrometheusRule"] if one["metadata"]["name"] == OURS["service"])
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": found["spec"]["groups"]}))
    asked = {"rule_files": ["rules.yaml"], "tests": [on_cluster(one, namespace) for one in cases()]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(asked))
    assert "SUCCESS" in run(promtool, "test", "rules", str(tmp_path / "test.yaml"))


def test_a_stuck_roll_out_is_told_though_the_old_pods_serve(objects: dict[str, list[dict[str, Any]]], promtool: str, tmp_path: Path) -> None:
    (found,) = (one for one in objects["PrometheusRule"] if one["metadata"]["name"] == OURS["service"])
    labels = {"namespace": "models", "deployment": OURS["service"]}
    state = 'kube_deployment_status_{what}{{namespace="models",deployment="demo-vllm"{more}}}'
    series = [
        {"series": state.format(what="condition", more=',condition="Progressing",status="false"'), "values": "0x4 1x16"},
        {"series": state.format(what="replicas_ready", more=""), "values": "2x20"},
        {"series": state.format(what="replicas_ready", more="").replace("status_replicas_ready", "spec_replicas"), "values": "2x20"},
    ]
    summary = "the new pods of demo-vllm are not ready within their time; the old ones go on serving"
    fired = {
        "exp_labels": {**labels, "severity": "warning", "condition": "Progressing", "status": "false"},
        "exp_annotations": {"summary": summary},
    }
    cases = [
        {"eval_time": "3m", "alertname": "ThinkshipRolloutStuck"},
        {"eval_time": "6m", "alertname": "ThinkshipRolloutStuck", "exp_alerts": [fired]},
        {"eval_time": "15m", "alertname": "ThinkshipReplicasMissing"},
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": found["spec"]["groups"]}))
    asked = {"rule_files": ["rules.yaml"], "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": cases}]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(asked))
    assert "SUCCESS" in run(promtool, "test", "rules", str(tmp_path / "test.yaml"))


def on_cluster(one: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return a case as a cluster's Prometheus would see it, with what it expects of the rules of demo-vllm in models."""
    found = deepcopy(one)
    foreign = namespace != OURS["namespace"] or any(series["series"].startswith("llamacpp:") for series in found["input_series"])
    for series in found["input_series"]:
        series["series"] = re.sub(r'service="\w+"', f'service="{OURS["service"]}",namespace="{namespace}"', series["series"])
    for case in found["alert_rule_test"]:
        for alert in case.get("exp_alerts", ()):
            alert["exp_labels"] |= OURS
            alert["exp_annotations"] = {"summary": re.sub(r"\b(to|of) vllm\b", rf"\1 {OURS['service']}", alert["exp_annotations"]["summary"])}
        if foreign and case["alertname"] != "ThinkshipNobodyWatches":
            case.pop("exp_alerts", None)
    if foreign:  # nobody watches ours there, from the first minute on
        found["alert_rule_test"] = [case for case in found["alert_rule_test"] if case["alertname"] != "ThinkshipNobodyWatches"]
    return found


def test_what_is_scraped_bears_the_labels_that_the_rules_ask_for(objects: dict[str, list[dict[str, Any]]]) -> None:
    """A ServiceMonitor's targets are labelled with their Service; what watches an engine is labelled as that engine, and says itself whom it asks:
    Prometheus' operator labels every target with its port's name as `endpoint`, beside which ours would be `exported_endpoint`.
    """
    relabelled = [one["spec"]["podMetricsEndpoints"][0]["relabelings"] for one in objects["PodMonitor"]]
    told = {service["replacement"] for service, _ in relabelled if service["targetLabel"] == "service"}
    assert told == {one["metadata"]["name"] for one in objects["Service"]} and len(told) == 3
    assert [dropped for _, dropped in relabelled] == [{"action": "labeldrop", "regex": "endpoint"}] * 3


def test_the_dashboard_is_the_file(objects: dict[str, list[dict[str, Any]]]) -> None:
    (one,) = (one for one in objects["ConfigMap"] if one["metadata"]["name"] == "demo-dashboard")
    assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert one["data"]["thinkship.json"].strip() == (CHART / "files" / "dashboard.json").read_text(encoding="utf-8").strip()
