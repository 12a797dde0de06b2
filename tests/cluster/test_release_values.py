"""The values that `thinkship deploy` writes, as Helm reads them: a deployment and its canary, for every engine and every place of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import CHART, run
from released_store import COMMITS, recipe_with, verify

from toolkit.deployment import chart
from toolkit.deployment.chart import Wish
from toolkit.deployment.cluster import text
from toolkit.deployment.seen import canary_of
from toolkit.export.place import parse
from toolkit.release.document import Release
from toolkit.release.making import cut

pytestmark = pytest.mark.usefixtures("helm")

NAME = "d" * 40
"""The longest that a deployment may have."""
ENGINES = {False: ("llamacpp", "ollama", "vllm"), True: ("ollama", "vllm")}
"""Those with an image for CPUs, and for GPUs."""
PLACES = ("pvc://models/releases", "hostpath:///srv/models", "oci://r.example/model:1", "hf://a/b@c", "s3://bucket/prefix", "https://host/a", "image")
TEAM = {
    "engines": {"llamacpp": {"replicas": 3, "host": "m.example.org", "autoscaling": {"type": "hpa", "min": 2, "max": 4, "queue": 2}}},
    "ingress": {"enabled": True, "className": "nginx"},
    "monitoring": {"serviceMonitor": True, "rules": True, "watch": True},
    "pod": {"nodeSelector": {"pool": "gpu"}, "annotations": {"team": "x"}},
}
"""What somebody lays over ours."""


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Release]:
    """A release of each kind of machine: on CPUs (False) and on GPUs (True)."""
    found = {}
    for gpu, engines in ENGINES.items():
        folder = tmp_path_factory.mktemp("released")
        recipe = recipe_with(", ".join(engines), folder / "recipes")
        found[gpu] = cut(recipe, verify(recipe, folder / "store"), COMMITS, gpu)
    return found


@pytest.fixture
def read_by_helm(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """read_by_helm(name, values) has Helm lint values as a deployment writes them and returns the objects of its chart by kind and name."""

    def read(name: str, values: dict[str, Any]) -> dict[str, Any]:
        file = tmp_path / f"{name}.yaml"
        file.write_text(text(values), encoding="utf-8")
        assert "0 chart(s) failed" in run("helm", "lint", "--strict", str(CHART), "--values", str(file), "--kube-version", "1.35.0").stdout
        done = run("helm", "template", name, str(CHART), "--values", str(file), "--kube-version", "1.35.0")
        objects = [one for one in yaml.safe_load_all(done.stdout) if one]
        return {f"{one['kind']}/{one['metadata']['name']}": one for one in objects}

    return read


def values(release: Release, engine: str, place: str, more: dict[str, Any]) -> dict[str, Any]:
    if place == "image":
        more = chart.laid_over({"engines": {engine: {"image": "r.example/demo:1"}}}, more)
    return chart.values(NAME, release, release.engine(engine), Wish(parse(place), "key", "r.example/team", more))


EVERY_ENGINE = [(engine, gpu, PLACES[0]) for gpu, engines in ENGINES.items() for engine in engines]
EVERY_PLACE = [("vllm", True, place) for place in PLACES[1:]]


@pytest.mark.parametrize(("engine", "gpu", "place"), EVERY_ENGINE + EVERY_PLACE)
def test_the_chart_takes_a_release_and_its_canary(releases, read_by_helm, engine: str, gpu: bool, place: str) -> None:
    main = values(releases[gpu], engine, place, {})
    for name, given in ((NAME, main), (canary_of(NAME), chart.canary(main, engine, 2, asked=True))):
        deployment = read_by_helm(name, given)[f"Deployment/{name}-{engine}"]
        pod = deployment["spec"]["template"]
        assert pod["metadata"]["annotations"][chart.MARK] == releases[gpu].id
        (container,) = pod["spec"]["containers"]
        told = releases[gpu].engine(engine)
        assert container["image"] == ("r.example/demo:1" if place == "image" else f"r.example/team/{told.image}")
        assert tuple(container.get("args", ())) == (() if place == "image" else told.args)
        assert container["resources"].get("limits", {}).get("nvidia.com/gpu") == (told.gpus or None)


def test_a_service_asks_a_canary_that_is_given_requests_and_no_other(releases, read_by_helm) -> None:
    main = values(releases[False], "llamacpp", PLACES[0], TEAM)
    found = read_by_helm(NAME, main)
    asked = found[f"Service/{NAME}-llamacpp"]["spec"]["selector"].items()
    whole = {name.partition("/")[0] for name in found}
    assert {"Ingress", "ServiceMonitor", "PrometheusRule", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= whole
    assert asked <= found[f"Deployment/{NAME}-llamacpp"]["spec"]["template"]["metadata"]["labels"].items()
    for given_requests in (True, False):
        few = read_by_helm(canary_of(NAME), chart.canary(main, "llamacpp", 2, given_requests))
        one = few[f"Deployment/{canary_of(NAME)}-llamacpp"]["spec"]
        labels = one["template"]["metadata"]["labels"].items()
        assert one["replicas"] == 2 and (asked <= labels) == given_requests
        assert {"Deployment", "Service"} <= {name.partition("/")[0] for name in few} <= {"Deployment", "Service", "Pod", "NetworkPolicy", "ConfigMap"}
        assert one["template"]["spec"]["nodeSelector"] == {"pool": "gpu"}, "it runs where the deployment does"
        selectors = [item["spec"]["selector"]["matchLabels"].items() for name, item in found.items() if name.startswith(("Deployment", "PodDis"))]
        assert selectors and not any(selector <= labels for selector in selectors), "no object of the deployment counts the canary's pods as its own"
