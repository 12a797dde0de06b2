"""Values of vLLM production-stack's chart (vllm-stack 0.1.12), which starts `vllm serve` itself: our image, because it holds the plugin that
quantises, and our flags.
"""

from __future__ import annotations

from typing import Any

from toolkit.errors import UsageError
from toolkit.export.fleet import CONTAINER_SECURITY, KEY, POD_SECURITY, Fleet
from toolkit.export.served import MODELS
from toolkit.export.values import startup_seconds

OWN = ("--model", "--host", "--port", "--max-model-len", "--dtype", "--max-num-seqs", "--gpu-memory-utilization", "--enable-lora")
"""Flags that the chart has fields for, or sets."""
FIELDS = {"--max-model-len": ("maxModelLen", int), "--max-num-seqs": ("maxNumSeqs", int), "--dtype": ("dtype", str)}
SHARE = "--gpu-memory-utilization"


def objects(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """Return the values; UsageError for several nodes."""
    if fleet.nodes > 1:
        raise UsageError("production-stack spreads over nodes by Ray, which our image does not hold", "`thinkship export lws`, or --nodes 1")
    key = {"vllmApiKey": {"secretName": fleet.secret, "secretKey": KEY}} if fleet.secret else {}
    probe = {"initialDelaySeconds": 5, "periodSeconds": 10, "httpGet": {"path": "/health", "port": 8000}}
    return (
        {
            "servingEngineSpec": {
                **key,
                "securityContext": POD_SECURITY,
                "containerSecurityContext": CONTAINER_SECURITY,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "startupProbe": {**probe, "failureThreshold": -(-startup_seconds(fleet.served) // 10)},
                "livenessProbe": {**probe, "failureThreshold": 6},
                "modelSpec": [_model(fleet)],
            }
        },
    )


def _model(fleet: Fleet) -> dict[str, Any]:
    one, asked = fleet.served, fleet.resources()
    repository, _, tag = one.image.rpartition(":")
    words = list(one.args)
    found = {name: kind(words[words.index(flag) + 1]) for flag, (name, kind) in FIELDS.items() if flag in words}
    share = {"gpuMemoryUtilization": float(words[words.index(SHARE) + 1])} if SHARE in words else {}
    tensor, _pipeline = fleet.sizes
    return {
        "name": fleet.name,
        "repository": repository,
        "tag": tag,
        "modelURL": str(MODELS / one.checkpoint),
        "replicaCount": fleet.replicas,
        **({"enableLoRA": True} if one.adapter else {}),
        "requestCPU": int(asked["requests"]["cpu"]),
        "requestMemory": asked["requests"]["memory"],
        "requestGPU": fleet.gpus,
        "vllmConfig": {
            **found,
            **share,
            **({"tensorParallelSize": tensor} if tensor > 1 else {}),
            "enablePrefixCaching": True,  # vLLM's own default, which the chart turns around
            "extraArgs": fleet.args(*OWN, *(["--tensor-parallel-size"] if tensor > 1 else [])),
        },
        "env": [entry for entry in fleet.env() if entry["name"] != "VLLM_API_KEY"],
        "extraVolumes": [volume for volume in fleet.volumes() if tensor == 1 or volume["name"] != "shm"],
        "extraVolumeMounts": [mount for mount in fleet.mounts() if tensor == 1 or mount["name"] != "shm"],
    }
