"""A KubeRay RayService whose application is Ray Serve LLM: vLLM's flags become its engine_kwargs.

Ray's image brings a vLLM of its own: where the weights are quantised by bitsandbytes, the plugin for it is installed when a replica starts.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from toolkit.errors import UsageError
from toolkit.export.fleet import POD_SECURITY, SHARED_MOUNTS, SHARED_VOLUMES, SPREADING, USER, Fleet
from toolkit.export.served import MODELS
from toolkit.stages import IMAGES

RAY, IMAGE = "2.52.0", "rayproject/ray-llm:2.52.0-py311-cu128"
SET_BY_RAY = ("--model", "--served-model-name", "--host", "--port", "--shutdown-timeout", "--lora-modules")
RAY_USER = 1000
"""The user of Ray's images."""


def objects(fleet: Fleet) -> tuple[dict[str, Any], ...]:
    """Return the service; UsageError for a CPU or a key, which Ray Serve LLM does not ask for."""
    if not fleet.gpus:
        raise UsageError("Ray Serve LLM is written for GPUs here", "leave out --no-gpu, or set verify.gpu in the recipe; on CPUs take `export k8s`")
    if fleet.served.adapter and fleet.place.kind != "s3":
        raise UsageError("Ray Serve LLM loads adapters from cloud storage alone", "--model s3://BUCKET/PREFIX, or serve the merged model")
    if fleet.secret:
        raise UsageError("Ray Serve LLM asks for no API key", "leave out --secret and put a gateway that asks before it")
    return (
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": {"name": fleet.name},
            "spec": {
                "serveConfigV2": yaml.safe_dump({"applications": [_application(fleet)]}, sort_keys=False),
                "rayClusterConfig": {
                    "rayVersion": RAY,
                    "headGroupSpec": {
                        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                        "template": {"spec": _pod(fleet, "ray-head", {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}})},
                    },
                    "workerGroupSpecs": [
                        {
                            "groupName": "gpu",
                            "replicas": fleet.replicas * fleet.nodes,
                            "minReplicas": fleet.replicas * fleet.nodes,
                            "maxReplicas": fleet.replicas * fleet.nodes,
                            "rayStartParams": {"num-gpus": str(fleet.gpus)},
                            "template": {"spec": _pod(fleet, "ray-worker", fleet.resources())},
                        }
                    ],
                },
            },
        },
    )


def _application(fleet: Fleet) -> dict[str, Any]:
    one = fleet.served
    tensor, pipeline = fleet.sizes
    cloud = fleet.place.kind == "s3"
    source: Any = {"bucket_uri": fleet.place.uri(one.checkpoint)} if cloud else str(MODELS / one.checkpoint)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": f"{one.name}-base" if one.adapter else one.name, "model_source": source},
        "engine_kwargs": {
            **kwargs(fleet.args(*SET_BY_RAY, *SPREADING)),
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
        },
        "deployment_config": {"autoscaling_config": {"min_replicas": fleet.replicas, "max_replicas": fleet.replicas}},
        "runtime_env": {"env_vars": dict(sorted(one.env.items())), **_plugin(one.args)},
    }
    if one.adapter:  # asked for as NAME-base:adapter, the folder's own name
        folder = fleet.place.uri(one.adapter).rpartition("/")[0]
        config["lora_config"] = {"dynamic_lora_loading_path": folder, "max_num_adapters_per_replica": 1}
    return {"name": fleet.name, "import_path": "ray.serve.llm:build_openai_app", "route_prefix": "/", "args": {"llm_configs": [config]}}


def kwargs(args: list[str]) -> dict[str, Any]:
    """Return flags as keyword arguments: numbers and JSON as what they are, a flag without a value as true."""
    found: dict[str, Any] = {}
    name = ""
    for word in args:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            found[name] = _value(value) if value else True
        else:
            found[name] = _value(word)
    return found


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def _plugin(args: tuple[str, ...]) -> dict[str, Any]:
    """Return what Ray installs for bitsandbytes, in the version that our own image is locked to."""
    if "bitsandbytes" not in args:
        return {}
    lock = (IMAGES / "vllm" / "cuda.lock").read_text(encoding="utf-8")
    return {"pip": re.findall(r"^((?:vllm-bnb-plugin|bitsandbytes)==[\w.]+)", lock, re.MULTILINE)}


def _pod(fleet: Fleet, name: str, resources: dict[str, Any]) -> dict[str, Any]:
    ports = [{"name": "serve", "containerPort": 8000}, {"name": "dashboard", "containerPort": 8265}, {"name": "gcs", "containerPort": 6379}]
    writable = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}  # Ray writes its sessions into its own image
    brought = fleet.place.kind == "s3"  # by Ray itself
    mounts = list(SHARED_MOUNTS) if brought else fleet.mounts()
    container = {"name": name, "image": IMAGE, "resources": resources, "securityContext": writable, "volumeMounts": mounts}
    return {
        "automountServiceAccountToken": False,
        "securityContext": {key: RAY_USER if value == USER else value for key, value in POD_SECURITY.items()},
        "containers": [container | ({"ports": ports} if name == "ray-head" else {})],
        "volumes": list(SHARED_VOLUMES) if brought else fleet.volumes(),
    }
