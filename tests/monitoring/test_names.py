# ruff: noqa: F401, F811 - pytest finds the imported fixture by its name
"""Rules and dashboard name metrics that exist: those of `thinkship watch`, of the vLLM of the lock, of the llama.cpp of the lock."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from promtool import promtool, run

from toolkit.metrics import METRICS
from toolkit.runners.environment import Environment
from toolkit.stages import ROOT

FILES = ROOT / "charts" / "thinkship" / "files"
NAMED = re.compile(r"\b((?:vllm|llamacpp):\w+|thinkship_\w+|DCGM_\w+)")
DCGM = {"DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"}
"""MiB of framebuffer; both are in dcgm-exporter's default-counters.csv."""


def dashboard() -> dict[str, Any]:
    return json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def rules() -> list[str]:
    groups = yaml.safe_load((FILES / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def named(prefix: str) -> set[str]:
    variables = [variable["query"]["query"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]
    return {name for text in (*queries(), *rules(), *variables) for name in NAMED.findall(text) if name.startswith(prefix)}


def package(environment: str, pattern: str) -> Path:
    room = Environment(environment)
    room.install()
    return next(room.folder.glob(f"lib/python*/site-packages/{pattern}"))


def test_what_watch_tells_is_named_as_it_is() -> None:
    assert named("thinkship_") <= {metric.name for metric in METRICS} and len(named("thinkship_")) >= 8
    assert named("DCGM_") == DCGM


def of_vllm(text: str) -> Iterator[str]:
    """Yield the names under which prometheus_client shows what vLLM defines."""
    for kind, name in re.findall(r"self\._(gauge|counter|histogram)_cls\(\s*name=\"(vllm:\w+)\"", text):
        endings = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}[kind]
        yield from (f"{name.removesuffix('_total') if kind == 'counter' else name}{ending}" for ending in endings)


def test_vllm_has_what_is_named() -> None:
    text = package("vllm", "vllm/v1/metrics/loggers.py").read_text(encoding="utf-8")
    known = set(of_vllm(text))
    assert len(known) > 40 and named("vllm:") <= known, named("vllm:") - known
    assert re.search(r'labelnames=labelnames \+ \["finished_reason"\]', text)


def test_vllm_ends_requests_for_the_reasons_that_are_named() -> None:
    text = package("vllm", "vllm/v1/engine/__init__.py").read_text(encoding="utf-8")
    reasons = set(re.findall(r'finished_reason="(\w+)"', " ".join(rules())))
    (listed,) = re.findall(r"FINISH_REASON_STRINGS = \(([^)]*)\)", text)
    assert reasons == {"error", "length", "repetition"} and reasons <= set(re.findall(r'"(\w+)"', listed))


def test_llamacpp_has_what_is_named() -> None:
    binary = package("llamacpp", "xllamacpp/*.so").read_bytes()
    wanted = {name.partition(":")[2] for name in named("llamacpp:")}
    assert len(wanted) >= 5 and {name for name in wanted if name.encode() + b"\0" not in binary} == set()


def test_prometheus_understands_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    plain = [query.replace("$__rate_interval", "5m").replace("$service", ".+") for query in queries()]
    assert len(plain) > 20 and not [query for query in plain if "$" in query]
    recorded = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    assert f"{len(plain)} rules found" in run(promtool, "check", "rules", "--lint-fatal", str(tmp_path / "queries.yaml"))


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    panels = dashboard()["panels"]
    titles = " ".join(panel["title"].lower() for panel in panels)
    wanted = ("requests", "waiting", "tokens a second", "first token", "thinking length", "think-contract failures", "gpu memory")
    assert [words for words in wanted if words not in titles] == []
    assert len({panel["id"] for panel in panels}) == len(panels) and {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("label", "kept", "broken"), [("outcome", {"thinks"}, {"no_answer"}), ("finished_reason", {"stop"}, {"error"})])
def test_what_keeps_the_contract_is_green_and_what_breaks_it_red_wherever_it_is_drawn(label: str, kept: set[str], broken: set[str]) -> None:
    """Left alone, Grafana deals colours out in the order of names: `no_answer` is green then and `stop` red."""
    drawn = [panel for panel in dashboard()["panels"] if any(target["legendFormat"].endswith("{{" + label + "}}") for target in panel["targets"])]
    assert drawn
    for panel in drawn:
        found: dict[str, set[str]] = {}
        for one in panel["fieldConfig"]["overrides"]:
            (colour,) = (change["value"]["fixedColor"] for change in one["properties"] if change["id"] == "color")
            found.setdefault(colour, set()).add(one["matcher"]["options"].strip("/$ "))
        assert (found["green"], found["red"]) == (kept, broken), panel["title"]
