"""vLLM on several replicas, nodes and GPUs: what all engines that exist are told in their own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.errors import UsageError
from toolkit.export.place import Place
from toolkit.export.served import MODELS, Served, spread

SPREADING = ("--tensor-parallel-size", "--pipeline-parallel-size")
USER = 10001
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
PORT = 8000
HEALTH = ["python", "/opt/thinkship/healthcheck.py", str(PORT)]
KEY = "api-key"
SHARED_VOLUMES: tuple[dict[str, Any], ...] = (
    {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
    {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
)
SHARED_MOUNTS: tuple[dict[str, Any], ...] = ({"name": "shm", "mountPath": "/dev/shm"}, {"name": "tmp", "mountPath": "/tmp"})
DRAIN_GRACE = 95
"""Seconds from the order to end to the kill: five until nobody is sent there any more, vLLM's sixty, and some to spare."""


@dataclass(frozen=True)
class Fleet:
    """One engine, the place of its model, and how often and how widely it runs."""

    served: Served
    place: Place
    replicas: int = 1
    nodes: int = 1
    gpus: int = 1
    """GPUs of a node, 0 for CPUs."""
    secret: str = ""

    @property
    def name(self) -> str:
        """What the objects are called: the served name with what Kubernetes refuses replaced."""
        return self.served.name.replace(".", "-").replace("_", "-").strip("-")[:52]

    @property
    def sizes(self) -> tuple[int, int]:
        """(tensor, pipeline) parallel sizes."""
        return spread(self.served, self.nodes, max(1, self.gpus))

    def args(self, *left_out: str) -> list[str]:
        """Return vLLM's flags with the fleet's own sizes, without those (and their values) that the engine is told otherwise."""
        wanted = zip(SPREADING, self.sizes, strict=True)
        sizes = [word for flag, size in wanted if size > 1 and flag not in left_out for word in (flag, str(size))]
        return [*without(list(self.served.args), *SPREADING, *left_out), *sizes]

    def env(self) -> list[dict[str, Any]]:
        """Return the settings as a container has them, the key from its Secret among them."""
        plain: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in sorted(self.served.env.items())]
        key = {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": self.secret, "key": KEY}}}
        return [*plain, *([key] if self.secret else [])]

    def resources(self) -> dict[str, Any]:
        """Return what a node's share asks for."""
        from toolkit.export.values import resources

        asked = resources(self.served)
        return {**asked, "limits": {**asked.get("limits", {}), "nvidia.com/gpu": str(self.gpus)}} if self.gpus else asked

    def mounted(self) -> Place:
        """Return the place where it is a volume; UsageError where it must be brought first and the engine has nobody to bring it."""
        if self.place.kind not in ("pvc", "hostpath", "oci"):
            raise UsageError(f"{self.place.text} cannot be mounted, and nothing here brings it", "--model pvc://CLAIM or hostpath:///FOLDER")
        return self.place

    def volumes(self) -> list[dict[str, Any]]:
        """Return a pod's volumes: the model, shared memory, and what may be written."""
        return [{"name": "models", **self.mounted().volume()}, *SHARED_VOLUMES]

    def mounts(self) -> list[dict[str, Any]]:
        """Return where a container sees them."""
        place = self.mounted()
        below = {"subPath": place.folder} if place.kind == "pvc" and place.folder else {}
        return [{"name": "models", "mountPath": str(MODELS), "readOnly": True, **below}, *SHARED_MOUNTS]

    def probes(self) -> dict[str, Any]:
        """Return the three probes: started and ready mean one answered token, alive asks for less."""
        from toolkit.export.values import startup_seconds

        ask = {"exec": {"command": HEALTH}, "timeoutSeconds": 30}
        return {
            "startupProbe": {**ask, "periodSeconds": 5, "failureThreshold": -(-startup_seconds(self.served) // 5)},
            "readinessProbe": {**ask, "periodSeconds": 30, "failureThreshold": 3},
            "livenessProbe": {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        }


def without(args: list[str], *flags: str) -> list[str]:
    """Leave out flags and the values after them."""
    kept: list[str] = []
    skipping = False
    for word in args:
        if word.startswith("--"):
            skipping = word in flags
        if not skipping:
            kept.append(word)
    return kept
