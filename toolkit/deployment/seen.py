"""A look at a cluster before anything is changed there: is it reached, may we, and what does Helm say is installed under a name."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit import kubectl, process
from toolkit.errors import FailedError, NotReadyError
from toolkit.kubectl import ask, last
from toolkit.process import Completed

GRANTS = (
    *(("create", kind) for kind in ("deployments.apps", "services", "secrets", "networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy")),
    *(("patch", kind) for kind in ("deployments.apps", "services")),
    *(("delete", kind) for kind in ("deployments.apps", "services", "secrets")),
    *(("get", kind) for kind in ("secrets", "pods")),
    ("create", "pods/portforward"),
)
"""What deploying asks of the cluster: the chart's objects, Helm's own memory (Secrets), and the way to the canary's pods."""


@dataclass(frozen=True)
class Installed:
    """A Helm release."""

    status: str
    """Of its last revision: deployed, failed, pending-upgrade and so on."""
    good: int | None = None
    """The revision that serves, None where none ever did."""
    values: dict[str, Any] = field(default_factory=dict)
    """What Helm was given for it."""

    @property
    def pending(self) -> bool:
        """Say whether Helm was killed while it changed it."""
        return self.status.startswith("pending") or self.status == "uninstalling"


@dataclass(frozen=True)
class Seen:
    """What a cluster holds of a deployment."""

    main: Installed | None = None
    canary: Installed | None = None
    replicas: int = 0
    """Pods that the deployment has now."""


def require(namespace: str) -> None:
    """Raise NotReadyError where a tool is missing, the cluster cannot be reached or is too old, the namespace is not there, or we may not."""
    process.which("kubectl", "https://kubernetes.io/docs/tasks/tools")
    process.which("helm", "https://helm.sh/docs/intro/install (3.13 or newer)")
    kubectl.require(namespace, GRANTS)


def look(name: str, namespace: str, engine: str) -> Seen:
    """Return what is there of a deployment."""
    told = ask("kubectl", "--namespace", namespace, "get", "deployment", f"{name}-{engine}", "--output", "jsonpath={.spec.replicas}")
    replicas = int(told.output) if told.code == 0 and told.output.isdigit() else 0
    return Seen(installed(name, namespace), installed(canary_of(name), namespace), replicas)


def canary_of(name: str) -> str:
    """Return the Helm release that tries a new one beside a deployment."""
    return f"{name}-canary"


def installed(name: str, namespace: str) -> Installed | None:
    """Return a Helm release, None where there is none; FailedError where Helm does not tell."""
    history = ask("helm", "history", name, "--namespace", namespace, "--max", "20", "--output", "json")
    if history.code:
        if "not found" in history.output:
            return None
        raise FailedError(f"Helm does not tell what {name} is: {last(history)}", f"helm history {name} --namespace {namespace}")
    revisions = json.loads(history.output)
    by_status = {status: [one["revision"] for one in revisions if one["status"] == status] for status in ("deployed", "superseded")}
    good = max(by_status["deployed"] or by_status["superseded"], default=None)
    values: dict[str, Any] = {}
    if good is not None:
        told = ask("helm", "get", "values", name, "--namespace", namespace, "--revision", str(good), "--output", "json")
        values = (json.loads(told.output) or {}) if told.code == 0 else {}
    return Installed(revisions[-1]["status"], good, values)


def rehearse(name: str, namespace: str, chart: Path, text: str) -> None:
    """Have Helm render values against the live cluster and change nothing; NotReadyError with all that the chart finds wrong."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(text, encoding="utf-8")
        words = ("helm", "upgrade", name, str(chart), "--install", "--namespace", namespace, "--values", str(file), "--dry-run=server")
        told = ask(*words)
    if told.code:
        raise NotReadyError(f"the chart cannot be installed as {name}: {_words(told)}", "mend what it names; nothing was changed")


def _words(told: Completed) -> str:
    """Return Helm's complaint without its warnings."""
    _, marked, rest = told.output.partition("Error: ")
    return (rest if marked else told.output).strip()[-2000:]
