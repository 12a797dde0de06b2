"""What is done by small pods before the first Job: a look at the store's records, and the recipe's own files brought to the volume.

Each pod is gone before a Job starts: a claim that one node alone may mount (ReadWriteOnce) would hold the Jobs to the pod's own node.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import console
from toolkit.errors import BY_CODE, FailedError, NotReadyError, ThinkshipError
from toolkit.kubectl import Kubectl, ask
from toolkit.runners.kubernetes import belongings, trouble
from toolkit.runners.kubernetes.assignment import Assignment
from toolkit.runners.kubernetes.job import INSIDE, OPEN, carrying, looking
from toolkit.runners.kubernetes.place import Where

PATIENCE = 300.0
"""Seconds within which such a pod must start."""
HASTE = 15.0
"""Seconds after which events are asked for."""
PAUSE = 0.5
COPYING = 6 * 3600.0
"""Longest time, in seconds, that one path takes to be copied."""


@dataclass(frozen=True)
class States:
    """What the store holds of a plan."""

    steps: Mapping[str, Mapping[str, Any]]
    """Name of a step -> its `state`: make, freed or sealed, and whether it is made `again`."""
    missing: frozenset[str]
    """Folders of the recipe's own files that are not on the volume."""
    at: str
    """When it was looked, by the cluster's clock: a Job that ended later is not told of here."""


def look(kubectl: Kubectl, where: Where, told: tuple[Assignment, ...]) -> States:
    """Return what a pod tells of a plan's steps and of the recipe's own files.

    NotReadyError where the pod cannot start or write, BrokenError where a sealed file was touched.
    """
    pod = looking(f"thinkship-look-{secrets.token_hex(4)}", where, told)
    with _made(kubectl, pod) as name:
        done = _until(kubectl, name, ("Succeeded", "Failed"))
        events = tuple(_events(kubectl.run("logs", name, "--container", OPEN)))
    for event in events:
        if event["event"] == "error":
            code = trouble.state(done, OPEN).get("terminated", {}).get("exitCode", 5)
            raise BY_CODE.get(code, FailedError)(event["message"], event["remedy"])
    if done["status"]["phase"] == "Failed":
        raise FailedError(f"the pod that looks at the store failed: {trouble.killed(done)}", "the same command again; `kubectl describe` tells more")
    steps = {event["step"]: event for event in events if event["event"] == "step"}
    if set(steps) != {one.name for one in told}:
        raise FailedError("the answer of the pod that looks at the store did not come whole", "the same command again")
    missing = frozenset(event["folder"] for event in events if event["event"] == "given" and not event["there"])
    return States(steps, missing, done["metadata"]["creationTimestamp"])


def carry(kubectl: Kubectl, where: Where, folder: Path, given: str, paths: Mapping[str, Path]) -> None:
    """Copy the recipe's own files to the volume, where they get their name when all their bytes are there; BrokenError where other bytes came."""
    expected = belongings.contents(folder, paths)
    names = json.dumps(sorted({path.as_posix() for path in paths.values()}))
    copy = secrets.token_hex(4)
    growing = belongings.draft(given, copy)
    with _made(kubectl, carrying(f"thinkship-carry-{copy}", where)) as pod:
        _until(kubectl, pod, ("Running",))
        _inside(kubectl, pod, "begin", str(where.root), growing, names)
        for path in sorted(set(paths.values())):
            console.note(f"copying {path} to {where.volume}/{given}")
            target = f"{pod}:{belongings.remote(where.root, growing, path)}"
            kubectl.run("cp", str((folder / path).resolve()), target, "--container", OPEN, seconds=COPYING)
        _inside(kubectl, pod, "keep", str(where.root), growing, given, names, expected, seconds=COPYING)


def _inside(kubectl: Kubectl, pod: str, *words: str, seconds: float = 60.0) -> None:
    told = ask(*kubectl.command("exec", pod, "--container", OPEN, "--", *INSIDE, *words).argv, seconds=seconds)
    for event in _events(told.output):
        raise BY_CODE.get(told.code, FailedError)(event["message"], event["remedy"])
    kubectl.judge(told, f"exec {words[0]}")


@contextmanager
def _made(kubectl: Kubectl, pod: Mapping[str, Any]) -> Iterator[str]:
    """Make a pod and take it away at the end, at once."""
    name = str(pod["metadata"]["name"])
    kubectl.create(pod)
    gone = ("pod", name, "--grace-period", "1", "--wait=true", "--timeout", "45s")
    try:
        yield name
    except BaseException:
        with suppress(ThinkshipError):  # what happened first is told; the pod ends by itself too
            kubectl.delete(*gone)
        raise
    kubectl.delete(*gone)


def _until(kubectl: Kubectl, name: str, phases: tuple[str, ...]) -> dict[str, Any]:
    """Wait until a pod is so far; NotReadyError with what keeps it from that."""
    began = time.monotonic()
    while True:
        pod = kubectl.get("pod", name)
        if pod is None:
            raise FailedError(f"the pod {name} was taken away", "the same command again")
        phase = pod.get("status", {}).get("phase")
        if phase in phases:
            return pod
        if phase == "Failed":
            raise FailedError(f"the pod {name} failed: {trouble.killed(pod)}", "the same command again")
        waited = time.monotonic() - began
        events = kubectl.listed("events", "--field-selector", f"involvedObject.name={name}") if waited > HASTE else ()
        found = trouble.trouble(pod, events)
        if found and (found.lasting or waited > HASTE):
            raise found.error()
        if phase == "Pending" and waited > PATIENCE:
            raise NotReadyError(f"the pod {name} does not start within {PATIENCE:.0f} s", "see `kubectl get events`")
        time.sleep(PAUSE)


def _events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith('{"event"'):
            yield json.loads(line)
