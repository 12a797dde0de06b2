"""Every export, and the chart with everything switched on, is taken by the real API server with the real definitions, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished_store import finish
from kubernetes import RECIPE, Namespace, fresh, run, template
from skips import skip_or_fail
from test_render import EVERYTHING, PLAIN

EXPORTS = {
    "kserve": (("--gpu", "--secret", "key"), "llminferenceservices.serving.kserve.io"),
    "kserve --adapter": (("--gpu", "--adapter"), "llminferenceservices.serving.kserve.io"),
    "kuberay": (("--gpu",), "rayservices.ray.io"),
    "kuberay --adapter": (("--gpu", "--adapter", "--model", "s3://bucket"), "rayservices.ray.io"),
    "lws": (("--gpu", "--nodes", "3", "--gpus", "3", "--secret", "key"), "leaderworkersets.leaderworkerset.x-k8s.io"),
    "trainer": ((), "trainjobs.trainer.kubeflow.org"),
}
OPTIONAL = ("scaledobjects.keda.sh", "httproutes.gateway.networking.k8s.io", "servicemonitors.monitoring.coreos.com")


@pytest.fixture(scope="module")
def namespace(cluster: str) -> Iterator[Namespace]:
    """One for all: nothing is kept in it."""
    with fresh() as place:
        yield place


def require(*definitions: str) -> None:
    """Skip where the cluster lacks a definition."""
    for name in definitions:
        if run("kubectl", "get", "crd", name, check=False).returncode:
            skip_or_fail(f"the cluster has no {name}")


def apply(namespace: Namespace, documents: list[Any], check: bool = True) -> Any:
    """Have the API server judge documents without keeping them."""
    text = yaml.safe_dump_all(documents)
    return namespace.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", given=text, check=check)


@pytest.mark.parametrize("case", EXPORTS)
def test_an_export_is_taken_in_strict_mode(case: str, namespace: Namespace, exported: Callable[..., Any], tmp_path: Path) -> None:
    words, definition = EXPORTS[case]
    require(definition)
    if "--adapter" in words:  # the demo trains tokens of its own, which vLLM cannot serve beside a base
        words = (*words, "--store", str(finish(RECIPE, tmp_path)))
    documents = exported(case.partition(" ")[0], *words)
    done = apply(namespace, documents)
    assert done.stdout.count("created (server dry run)") == len(documents)


def test_strict_mode_would_find_a_field_that_is_not_there(namespace: Namespace, exported: Callable[..., Any]) -> None:
    require("llminferenceservices.serving.kserve.io")
    (service,) = exported("kserve", "--gpu")
    service["spec"]["model"]["loraAdapters"] = []
    done = apply(namespace, [service], check=False)
    assert done.returncode and "loraAdapters" in done.stderr


@pytest.mark.parametrize("values", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_the_chart_is_taken_in_strict_mode(values: dict[str, Any], namespace: Namespace) -> None:
    require(*OPTIONAL)
    flags = ("--namespace", namespace.name, "--set", "preflight.enabled=false")
    text = template(values, *flags).stdout
    documents = [document for document in yaml.safe_load_all(text) if document]
    done = apply(namespace, documents)
    assert done.stdout.count("created (server dry run)") == len(documents), json.dumps(sorted(one["kind"] for one in documents))
