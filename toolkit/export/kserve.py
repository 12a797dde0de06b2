"""A KServe LLMInferenceService (serving.kserve.io/v1alpha1: stored by 0.16, still served by 0.20): our image and flags in its container `main`.

KServe mounts the model at /mnt/models and merges what is stated here over its own template, lists as a whole and probes field by field: they
therefore ask over HTTP, as the template's do, and not by a program.
"""

from __future__ import annotations

from typing import Any

from toolkit.errors import UsageError
from toolkit.export.fleet import CONTAINER_SECURITY, DRAIN_GRACE, POD_SECURITY, PORT, Fleet

MOUNT = "/mnt/models"


def objects(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """Return the service; UsageError for several nodes or a place that KServe cannot bring."""
    if fleet.nodes > 1:
        raise UsageError("one replica on several nodes is not written for KServe", "`thinkship export lws` spreads it; for KServe take --gpus")
    if fleet.place.kind in ("image", "hostpath"):
        raise UsageError(f"KServe brings no model from {fleet.place.text}", "--model pvc://, hf://, s3:// or oci://")
    one = fleet.served
    tensor, pipeline = fleet.sizes
    model: dict[str, Any] = {"uri": fleet.place.uri(one.checkpoint), "name": f"{one.name}-base" if one.adapter else one.name}
    if one.adapter:
        model["lora"] = {"adapters": [{"name": one.name, "uri": fleet.place.uri(one.adapter)}]}
    return (
        {
            "apiVersion": "serving.kserve.io/v1alpha1",
            "kind": "LLMInferenceService",
            "metadata": {"name": fleet.name},
            "spec": {
                "model": model,
                "replicas": fleet.replicas,
                **({"parallelism": {"tensor": tensor, "pipeline": pipeline}} if tensor * pipeline > 1 else {}),
                "router": {"route": {}, "gateway": {}, "scheduler": {}},
                "template": _pod(fleet),
            },
        },
    )


def _pod(fleet: Fleet) -> dict[str, Any]:
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": DRAIN_GRACE,
        "containers": [
            {
                "name": "main",
                "image": fleet.served.image,
                "command": ["python", "/opt/thinkship/serve.py"],
                "args": ["--model", MOUNT, *fleet.args("--model", "--lora-modules")],
                "env": fleet.env(),
                "resources": fleet.resources(),
                "securityContext": CONTAINER_SECURITY,
                **_probes(fleet),
                "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}}],
    }


def _probes(fleet: Fleet) -> dict[str, Any]:
    """Return the fleet's probes as requests: vLLM answers /health once the model is loaded."""
    asked = {"httpGet": {"path": "/health", "port": PORT, "scheme": "HTTP"}}
    return {kind: {**{key: value for key, value in probe.items() if key != "exec"}, **asked} for kind, probe in fleet.probes().items()}
