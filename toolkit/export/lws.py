"""A LeaderWorkerSet: each replica is one vLLM over several nodes, layers between the nodes, matrices within one; and the Service of the leaders.

vLLM joins the nodes itself (--nnodes, its `mp` back end), so that no Ray is needed. A worker has no HTTP server; where one pod of a group dies
the whole group starts anew.
"""

from __future__ import annotations

from typing import Any

from toolkit.errors import UsageError
from toolkit.export.fleet import CONTAINER_SECURITY, DRAIN_GRACE, POD_SECURITY, PORT, Fleet
from toolkit.export.served import MODELS

RENDEZVOUS = 29501
GROUP = "leaderworkerset.sigs.k8s.io"


def objects(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """Return the set and its Service; UsageError for one node or for CPUs."""
    if fleet.nodes < 2:
        raise UsageError("a LeaderWorkerSet is for a replica on several nodes", "--nodes 2, or `thinkship export k8s` for one node")
    if not fleet.gpus:
        raise UsageError("one replica on several nodes is written for GPUs", "leave out --no-gpu, or set verify.gpu in the recipe")
    labels = {"app.kubernetes.io/name": "thinkship", "app.kubernetes.io/instance": fleet.name}
    return (
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": fleet.name, "labels": labels},
            "spec": {
                "replicas": fleet.replicas,
                "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": {"maxUnavailable": 0, "maxSurge": 1}},
                "leaderWorkerTemplate": {
                    "size": fleet.nodes,
                    "restartPolicy": "RecreateGroupOnPodRestart",
                    "leaderTemplate": {"metadata": {"labels": {**labels, "role": "leader"}}, "spec": _pod(fleet, _leader(fleet))},
                    "workerTemplate": {"metadata": {"labels": {**labels, "role": "worker"}}, "spec": _pod(fleet, _worker(fleet))},
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": fleet.name, "labels": labels},
            "spec": {
                "selector": {f"{GROUP}/name": fleet.name, "role": "leader"},
                "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
            },
        },
    )


def _joined(fleet: Fleet, rank: str) -> list[str]:
    """Return the flags by which the nodes of a group find each other."""
    return [
        *("--distributed-executor-backend", "mp", "--nnodes", str(fleet.nodes), "--node-rank", rank),
        *("--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", str(RENDEZVOUS)),
    ]


def _leader(fleet: Fleet) -> dict[str, Any]:
    return {
        "name": "leader",
        "command": ["python", "/opt/thinkship/serve.py"],
        "args": [*fleet.args(), *_joined(fleet, "0")],
        "ports": [{"name": "http", "containerPort": PORT}],
        **fleet.probes(),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
    }


def _worker(fleet: Fleet) -> dict[str, Any]:
    """Return the container of a node without a server: only vLLM's command line knows --headless."""
    model = str(MODELS / fleet.served.checkpoint)
    rest = fleet.args("--model", "--host", "--port")
    return {"name": "worker", "command": ["vllm", "serve", model], "args": [*rest, "--headless", *_joined(fleet, "$(LWS_WORKER_INDEX)")]}


def _pod(fleet: Fleet, container: dict[str, Any]) -> dict[str, Any]:
    address = {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}  # the image's own is for one machine
    common = {
        "image": fleet.served.image,
        "env": [*fleet.env(), address],
        "resources": fleet.resources(),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": fleet.mounts(),
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": DRAIN_GRACE,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{**container, **common}],
        "volumes": fleet.volumes(),
    }
