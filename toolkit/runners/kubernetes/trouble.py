"""What keeps a pod from working, in one sentence with its remedy, read from its status and the cluster's events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import FailedError, NotReadyError, ThinkshipError
from toolkit.runners.kubernetes.job import CONTAINERS
from toolkit.runners.kubernetes.needs import GPU

IMAGE = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable")
"""Reasons of the kubelet's for an image that does not come (pkg/kubelet/images/types.go). ErrImagePull is its first attempt, and not told yet."""
SETTINGS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
"""Reasons for a container that cannot be made of its image."""
MOUNTS = ("FailedMount", "FailedAttachVolume")
OOM = "OOMKilled"


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not work."""

    message: str
    remedy: str
    lasting: bool
    """Whether waiting is of no use."""

    def error(self) -> ThinkshipError:
        """Return it as an error."""
        return NotReadyError(self.message, self.remedy)


def trouble(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = ()) -> Trouble | None:
    """Return what keeps a pod from starting, None where nothing is known to."""
    status = pod.get("status", {})
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("reason") == "Unschedulable":
            return _unschedulable(str(condition.get("message", "")))
    for one in _containers(status):
        waiting = one.get("state", {}).get("waiting", {})
        reason, words = waiting.get("reason", ""), _line(waiting.get("message", ""))
        if reason in IMAGE:
            remedy = "`thinkship images push REGISTRY` once, then --registry REGISTRY; a private one needs imagePullSecrets (--pod)"
            return Trouble(f"the image {one['image']} cannot be pulled: {words or reason}", remedy, lasting=True)
        if reason in SETTINGS:
            remedy = "make the Secret that --secret names" if "secret" in words else "see `kubectl describe pod`"
            return Trouble(f"the container {one['name']} cannot be made: {words or reason}", remedy, lasting=True)
    mounts = [event for event in events if event.get("reason") in MOUNTS]
    if mounts and status.get("phase") == "Pending":
        remedy = "see that the claim's volume can be mounted on that node, and that no pod on another one holds it"
        return Trouble(f"the volume cannot be mounted: {_line(mounts[-1].get('message', ''))}", remedy, lasting=False)
    return None


def unborn(events: Sequence[Mapping[str, Any]]) -> Trouble | None:
    """Return why a Job has no pod, by its own events."""
    refused = [event for event in events if event.get("reason") == "FailedCreate"]
    if not refused:
        return None
    words = _line(refused[-1].get("message", ""))
    quota = "exceeded quota" in words
    return Trouble(
        f"the cluster makes no pod: {words}", "free some of the quota, or have it raised" if quota else "mend what it names", lasting=False
    )


def _unschedulable(words: str) -> Trouble:
    if GPU in words:
        remedy = "--no-gpu, or wait for a node with free GPUs"
    elif "persistentvolumeclaim" in words or "volume" in words:
        remedy = "see `kubectl describe pvc` of the claim that --volume names"
    else:
        remedy = "a node with more room, or free some"
    return Trouble(f"no node takes the pod: {_line(words)}", remedy, lasting=False)


def _containers(status: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def state(pod: Mapping[str, Any], container: str) -> Mapping[str, Any]:
    """Return the state of one of a pod's containers: one of `waiting`, `running`, `terminated`, or nothing."""
    return next((dict(one.get("state", {})) for one in _containers(pod.get("status", {})) if one["name"] == container), {})


def ended(pod: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the container that ended a pod with an error, and how; None where none did."""
    for name in CONTAINERS:
        terminated = state(pod, name).get("terminated")
        if terminated and terminated.get("exitCode"):
            return name, terminated
    return None


def killed(pod: Mapping[str, Any]) -> str:
    """Say in words why a pod is gone."""
    status = pod.get("status", {})
    found = ended(pod)
    if status.get("reason"):
        return f"{status['reason']}: {_line(status.get('message', ''))}".rstrip(": ")
    return f"{found[0]} ended with exit code {found[1]['exitCode']}" if found else "it is gone"


def out_of_memory(pod: Mapping[str, Any]) -> ThinkshipError | None:
    """Return the error of a container that the kernel killed for memory, which a second attempt would meet too; None where none was."""
    found = ended(pod)
    if found and found[1].get("reason") == OOM:
        return FailedError(
            f"{found[0]} was killed for memory", "raise the memory limit (--pod, or the namespace's LimitRange), or take a smaller batch"
        )
    return None


def _line(words: object) -> str:
    return " ".join(str(words).split())[:600]
