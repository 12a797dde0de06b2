"""What Kubeflow Trainer is given for a recipe's train stage: the stage's own arguments, a TrainingRuntime with the store's volume, a TrainJob.

The volume is stated in a runtime of our own: a TrainJob's overrides were renamed between Trainer 2.0 (podSpecOverrides) and 2.3 (runtimePatches),
a runtime has been the same since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit import recipe_file
from toolkit.errors import InvalidError, NotReadyError
from toolkit.export.fleet import CONTAINER_SECURITY, POD_SECURITY
from toolkit.images import Image
from toolkit.plan import Step
from toolkit.runs import steps
from toolkit.store import Store

STORE = PurePosixPath("/store")
VERSION = "trainer.kubeflow.org/v1alpha1"
ARGUMENTS = "/etc/thinkship/args.json"
FRESH = f"""import json, pathlib
given = json.load(open("{ARGUMENTS}"))
for name in ("output", "scratch"):
    pathlib.Path(given[name]).mkdir(parents=True, exist_ok=True)
"""


@dataclass(frozen=True)
class Where:
    """Where a training runs: the claim with the store, its nodes, the registry of the images, and the store here."""

    claim: str
    nodes: int
    registry: str
    root: Path


def objects(path: Path, where: Where) -> tuple[dict[str, Any], ...]:
    """Return ConfigMap, TrainingRuntime and TrainJob; InvalidError where the processes cannot be shared among the nodes, NotReadyError where base
    or data set are not made.
    """
    recipe = recipe_file.load(path)
    if recipe.train is None:
        raise InvalidError("adapter: was trained elsewhere, so that there is nothing to train", "state train instead of adapter in the recipe")
    processes = recipe.train.processes
    if processes % where.nodes or processes < where.nodes:
        raise InvalidError(f"train/processes: {processes} cannot be shared among {where.nodes} nodes", f"state a multiple of {where.nodes}")
    planned = {step.name: step for step in steps(path)}
    step = planned["train"]
    for name in step.inputs.values():
        if Store(where.root).sealed(planned[name]) is None:
            remedy = f"thinkship run {path} --until dataset --store {where.root}"
            raise NotReadyError(f"{Store(where.root).directory(planned[name])} is not there", remedy)
    gpu = recipe.verify.gpu is not False
    name = f"{recipe.name}-train".replace(".", "-").replace("_", "-")[:52]
    each = processes // where.nodes
    return (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"args.json": json.dumps(arguments(step, planned), indent=1)}},
        _runtime(name, where, _pod(name, where, image(step, where.registry)), each),
        {
            "apiVersion": VERSION,
            "kind": "TrainJob",
            "metadata": {"name": name},
            "spec": {
                "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": name},
                "trainer": {
                    "numNodes": where.nodes,
                    "numProcPerNode": each,
                    "resourcesPerNode": {"limits": {"nvidia.com/gpu": str(each)}} if gpu else {"requests": {"cpu": str(2 * each)}},
                },
            },
        },
    )


def image(step: Step, registry: str) -> str:
    """Return the train image in the variant whose lock the step runs with."""
    lock = step.stage.lock(step.recipe)
    variant = "" if lock == "requirements.lock" else lock.removesuffix(".lock")
    tag = Image("train", variant).tag
    return f"{registry.rstrip('/')}/{tag}" if registry else tag


def arguments(step: Step, planned: dict[str, Step]) -> dict[str, Any]:
    """Return the step's args.json with the volume's paths."""
    inputs = {key: str(STORE / planned[name].directory) for key, name in step.inputs.items()}
    return {
        "inputs": inputs,
        "output": str(STORE / step.directory),
        "scratch": str(STORE / ".scratch" / step.directory),
        "recipe": step.recipe,
    }


def _pod(name: str, where: Where, tag: str) -> dict[str, Any]:
    mounts = [
        {"name": "store", "mountPath": str(STORE)},
        {"name": "arguments", "mountPath": "/etc/thinkship", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    shared = {"image": tag, "securityContext": CONTAINER_SECURITY, "volumeMounts": [*mounts, {"name": "shm", "mountPath": "/dev/shm"}]}
    return {
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "initContainers": [{"name": "fresh", "command": ["python", "-c", FRESH], **shared}],
        "containers": [{"name": "node", "command": ["torchrun", "/opt/thinkship/train.py", ARGUMENTS], **shared}],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": where.claim}},
            {"name": "arguments", "configMap": {"name": name}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        ],
    }


def _runtime(name: str, where: Where, pod: dict[str, Any], processes: int) -> dict[str, Any]:
    """Return a runtime in the form that Trainer asks for: a JobSet whose job and container are both called `node`."""
    step = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    return {
        "apiVersion": VERSION,
        "kind": "TrainingRuntime",
        "metadata": {"name": name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": where.nodes, "torch": {"numProcPerNode": processes}},
            "template": {
                "spec": {"replicatedJobs": [{"name": "node", "template": {"metadata": {"labels": step}, "spec": {"template": {"spec": pod}}}}]}
            },
        },
    }
