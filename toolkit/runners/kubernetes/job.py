"""A step as a Job, and the pods beside it: pure values. A pod's containers follow one another: `open`, the stage in its own image, `seal`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from toolkit.errors import BY_CODE
from toolkit.export.fleet import CONTAINER_SECURITY, POD_SECURITY, SHARED_MOUNTS
from toolkit.images import image
from toolkit.process import WAITING
from toolkit.runners.containers import PROGRAMS, PYTHON
from toolkit.runners.events import OFFLINE, QUIET
from toolkit.runners.kubernetes.assignment import Assignment, written
from toolkit.runners.kubernetes.needs import GPU, Needs
from toolkit.runners.kubernetes.overlay import laid
from toolkit.runners.kubernetes.place import GIVEN, MOUNT, TOLD, Where

OPEN, STAGE, SEAL = "open", "stage", "seal"
CONTAINERS = (OPEN, STAGE, SEAL)
TELLS = "thinkship/told"
"""Annotation of a pod with what it is told."""
JOB = "batch.kubernetes.io/job-name"
"""Label that Kubernetes gives a Job's pods, from 1.27 on."""
OURS = (1, *sorted(BY_CODE))
"""Exit codes that a second attempt would end with too: our errors, and an exception that nobody foresaw."""
ATTEMPTS = 6
"""How often a step is begun again whose pod was killed; evictions, drains and preemptions do not count."""
KEPT = 24 * 3600
"""Seconds after which the cluster removes a Job that ended while nobody followed it."""
GRACE = 20
"""Seconds from the order to end to the kill: a stage goes on from its checkpoints, and needs none of them."""
ALONE = 6 * 3600
"""Longest life, in seconds, of a pod that copies the recipe's files."""
INSIDE = (str(PYTHON), "-m", "toolkit.runners.kubernetes.inside")


def name(told: Assignment, where: Where) -> str:
    """Return what a step's Job is called: whoever has the same step of the same store finds it."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in told.name.lower())[:30].strip("-")
    return f"thinkship-{plain}-{told.id[:12]}-{where.mark}"


def job(told: Assignment, where: Where, needs: Needs, online: bool) -> dict[str, Any]:
    """Return a step's Job. A pod that is killed is begun again, one that ends with an error of ours is not."""
    labels = {"app.kubernetes.io/name": "thinkship", "app.kubernetes.io/component": "run", "thinkship/step": told.name[:60].strip("-._")}
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(OURS)}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name(told, where), "namespace": where.namespace, "labels": labels},
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": ATTEMPTS,
            "podReplacementPolicy": "Failed",  # the next pod starts when the one before it has ended: two would write into one directory
            "podFailurePolicy": {"rules": rules},
            "ttlSecondsAfterFinished": KEPT,
            "template": {"metadata": {"labels": labels, "annotations": {TELLS: written(told)}}, "spec": _working(told, where, needs, online)},
        },
    }


def _working(told: Assignment, where: Where, needs: Needs, online: bool) -> dict[str, Any]:
    tools = where.image(image("verify"))
    begin, end = _tool(OPEN, tools, (*INSIDE, OPEN, str(where.root))), _tool(SEAL, tools, _held(told, where, (*INSIDE, SEAL, str(where.root))))
    stage = _tool(STAGE, told.image or tools, _held(told, where, _program(told, where)))
    stage["resources"] = needs.resources()
    stage["env"] = [*stage["env"], *_settings(QUIET | WAITING | (dict.fromkeys(OFFLINE, "0") if online else OFFLINE))]
    if online and where.secret:
        stage["envFrom"] = [{"secretRef": {"name": where.secret}}]
    spec = _pod(where) | {"initContainers": [begin, stage], "containers": [end]}
    spec |= {"tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]} if needs.gpus else {}
    return laid(spec, where.pod)


def _program(told: Assignment, where: Where) -> tuple[str, ...]:
    if not told.image:
        return (*INSIDE, "host", str(where.root))
    return (str(PYTHON), str(PROGRAMS / Path(told.program).name), str(where.root / ".scratch" / _directory(told) / "args.json"))


def _held(told: Assignment, where: Where, argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return what runs a program while it holds the store."""
    return (str(PYTHON), "-c", _holding(), str(where.root), _directory(told), *argv)


@cache
def _holding() -> str:
    return Path(__file__).with_name("hold.py").read_text(encoding="utf-8")


def _directory(told: Assignment) -> str:
    return f"{told.name}-{told.id[:12]}"


def _tool(title: str, tag: str, argv: tuple[str, ...]) -> dict[str, Any]:
    """Return a container; its last words stand in the pod's status too, for whoever comes when its log is gone."""
    return {
        "name": title,
        "image": tag,
        "command": list(argv),
        "env": [{"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "store", "mountPath": str(MOUNT)},
            {"name": "told", "mountPath": str(TOLD.parent), "readOnly": True},
            {"name": "given", "mountPath": str(GIVEN)},
            *SHARED_MOUNTS,
        ],
    }


def _pod(where: Where) -> dict[str, Any]:
    field = {"fieldPath": f"metadata.annotations['{TELLS}']"}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": POD_SECURITY,
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": where.claim}},
            {"name": "told", "downwardAPI": {"items": [{"path": TOLD.name, "fieldRef": field}]}},
            {"name": "given", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
        ],
    }


def looking(title: str, where: Where, told: tuple[Assignment, ...]) -> dict[str, Any]:
    """Return the pod that tells what of a plan is sealed, before anything is changed."""
    return _alone(title, where, written(told), (*INSIDE, "look", str(where.root)), 900)


def carrying(title: str, where: Where) -> dict[str, Any]:
    """Return the pod into which the recipe's own files are copied; it ends by itself where nobody ends it."""
    return _alone(title, where, "[]", (str(PYTHON), "-c", f"import time; time.sleep({ALONE})"), ALONE)


def _alone(title: str, where: Where, text: str, argv: tuple[str, ...], seconds: int) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "thinkship", "app.kubernetes.io/component": "run"}
    metadata = {"name": title, "namespace": where.namespace, "labels": labels, "annotations": {TELLS: text}}
    container = _tool(OPEN, where.image(image("verify")), argv)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": laid(_pod(where) | {"activeDeadlineSeconds": seconds, "containers": [container]}, where.pod),
    }


def _settings(given: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": title, "value": value} for title, value in sorted(given.items())]
