"""What a pod's status and its events tell is one sentence, and says whether waiting helps."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_kubectl import RUNNING, pod

from toolkit.runners.kubernetes import trouble


def unscheduled(words: str) -> dict[str, Any]:
    return pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}])


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(phase="Pending", open={"waiting": {"reason": reason, "message": message}})


@pytest.mark.parametrize(
    ("found", "words", "remedy", "lasting"),
    [
        (unscheduled("0/1 nodes: 1 Insufficient nvidia.com/gpu."), "no node takes the pod: 0/1 nodes", "--no-gpu", False),
        (unscheduled("pod has unbound immediate PersistentVolumeClaims: persistentvolumeclaim"), "no node takes", "kubectl describe pvc", False),
        (unscheduled("1 Insufficient memory."), "Insufficient memory", "a node with more room", False),
        (waiting("ImagePullBackOff", "Back-off\n  pulling"), "the image thinkship/open:1 cannot be pulled: Back-off pulling", "--registry", True),
        (waiting("InvalidImageName"), "cannot be pulled: InvalidImageName", "--registry", True),
        (waiting("CreateContainerConfigError", 'secret "hub" not found'), 'cannot be made: secret "hub" not found', "--secret", True),
        (waiting("CreateContainerError", "no command"), "cannot be made: no command", "kubectl describe pod", True),
    ],
)
def test_it_is_one_sentence_with_its_remedy(found, words, remedy, lasting):
    told = trouble.trouble(found)
    assert told and words in told.message and remedy in told.remedy and told.lasting is lasting


@pytest.mark.parametrize("found", [pod(open=RUNNING), waiting("ContainerCreating"), waiting("ErrImagePull", "once"), pod(phase="Pending")])
def test_what_is_on_its_way_is_no_trouble(found):
    assert trouble.trouble(found) is None


def test_a_volume_that_is_elsewhere_is_told_by_the_events():
    event = {"reason": "FailedAttachVolume", "message": "Multi-Attach error for volume"}
    told = trouble.trouble(waiting("ContainerCreating"), [event])
    assert told and "the volume cannot be mounted: Multi-Attach error" in told.message and not told.lasting
    assert trouble.trouble(pod(open=RUNNING), [event]) is None


def test_why_a_pod_is_gone():
    assert trouble.killed(pod(phase="Failed", reason="Evicted", message="low on memory")) == "Evicted: low on memory"
    assert trouble.killed(pod(phase="Failed", open=0, stage=137)) == "stage ended with exit code 137"
    assert trouble.killed(pod()) == "it is gone"
