"""The cluster of the tests, by kubectl and helm: what KUBECONFIG names, with images brought in by the program that THINKSHIP_CLUSTER_IMPORT names."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from toolkit.stages import ROOT

CHART = ROOT / "charts" / "thinkship"
RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
IMPORT = os.environ.get("THINKSHIP_CLUSTER_IMPORT")
LIGHT: dict[str, Any] = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
"""What a replica asks for where several share one small machine."""

FIGURES: list[str] = []
"""What was measured, told at the end."""


def run(*argv: str, check: bool = True, timeout: float = 300, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program and fail with its own words."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, input=given)
    assert done.returncode == 0 or not check, f"{' '.join(argv)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def template(
    values: dict[str, Any], *words: str, release: str = "demo", version: str = "1.34.0", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Render the chart without a cluster, as if for one of a version: a helm that was built from source takes 1.20 for granted."""
    flags = ("--kube-version", version, "--values", "-")
    return run("helm", "template", release, str(CHART), *flags, *words, check=check, given=yaml.safe_dump(values))


def rendered(values: dict[str, Any], *words: str) -> dict[str, list[dict[str, Any]]]:
    """Return the chart's objects by kind."""
    found: dict[str, list[dict[str, Any]]] = {}
    for document in filter(None, yaml.safe_load_all(template(values, *words).stdout)):
        found.setdefault(document["kind"], []).append(document)
    return found


class Namespace:
    """One namespace and what is asked of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in it."""
        return run("kubectl", "--namespace", self.name, *words, **how)

    def get(self, *words: str) -> Any:
        """Return an object, or a list of them."""
        return json.loads(self.kubectl("get", *words, "--output", "json").stdout)

    def helm(self, verb: str, release: str, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run helm in it."""
        return run("helm", verb, release, *words, "--namespace", self.name, **how)

    def deploy(self, release: str, values: dict[str, Any], *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Install or upgrade the chart."""
        return self.helm("upgrade", release, "--install", str(CHART), "--values", "-", *words, given=yaml.safe_dump(values), **how)

    def secret(self, name: str = "thinkship", key: str = "sesame") -> str:
        """Make the Secret with the key and return the key."""
        self.kubectl("create", "secret", "generic", name, f"--from-literal=api-key={key}")
        return key

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of one component."""
        return list(self.get("pods", "--selector", f"app.kubernetes.io/component={component}")["items"])

    def address(self, service: str) -> str:
        """Return the address at which a NodePort is reached from this machine."""
        port = self.get("service", service)["spec"]["ports"][0]["nodePort"]
        addresses = [one for node in self.get("nodes")["items"] for one in node["status"].get("addresses", ())]  # a node of a simulation has none
        return f"http://{next(one['address'] for one in addresses if one['type'] == 'InternalIP')}:{port}/v1"


@contextmanager
def fresh() -> Iterator[Namespace]:
    """Make a namespace and take it away."""
    place = Namespace(f"thinkship-{secrets.token_hex(3)}")
    run("kubectl", "create", "namespace", place.name)
    try:
        yield place
    finally:
        run("kubectl", "delete", "namespace", place.name, "--wait=true", "--timeout=180s", timeout=240)


def wait_for(done: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait until something is so, and return how long that took."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def bring(*images: str) -> None:
    """Bring images of the local Docker engine into the cluster, where the machine says how; elsewhere a registry has them."""
    if IMPORT:
        run(IMPORT, *images, timeout=600)


def path_of(name: str) -> Path:
    """Return a golden file."""
    return ROOT / "tests" / "golden" / "chart" / name
