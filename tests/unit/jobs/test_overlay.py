"""What an operator lays over pods is checked by key and type, and takes nothing away that a step needs or that hardens it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import InvalidError, UsageError
from toolkit.runners.kubernetes import overlay
from toolkit.runners.kubernetes.assignment import Assignment
from toolkit.runners.kubernetes.job import job, looking
from toolkit.runners.kubernetes.needs import GPU, Needs
from toolkit.runners.kubernetes.place import Where

TEXT = """
nodeSelector: {pool: gpu}
tolerations: [{key: team, operator: Exists}]
imagePullSecrets: [{name: registry}]
resources: {requests: {cpu: "2", memory: 1Mi}, limits: {memory: 64Gi}}
"""
TOLD = Assignment("train", "train", "1" * 64, "images/train/train.py", "2", {}, {}, {}, image="thinkship/train:1")


def read(tmp_path: Path, text: str) -> dict:
    (tmp_path / "pod.yaml").write_text(text)
    return overlay.read(tmp_path / "pod.yaml")


def test_it_is_laid_over_every_pod(tmp_path):
    where = Where("store", pod=read(tmp_path, TEXT))
    plain = job(TOLD, Where("store"), Needs(2, 3 << 30), online=False)["spec"]["template"]["spec"]
    spec = job(TOLD, where, Needs(2, 3 << 30), online=False)["spec"]["template"]["spec"]
    look = looking("look", where, ())["spec"]
    for one in (spec, look):
        assert one["nodeSelector"] == {"pool": "gpu"} and one["imagePullSecrets"] == [{"name": "registry"}]
        assert one["securityContext"] == plain["securityContext"] and one["volumes"] == plain["volumes"]
    assert [one["key"] for one in spec["tolerations"]] == [GPU, "team"] and [one["key"] for one in look["tolerations"]] == ["team"]
    begin, stage = spec["initContainers"]
    assert stage["resources"] == {"requests": {"cpu": "2", "memory": "3072Mi"}, "limits": {"memory": "64Gi", GPU: "2"}}
    assert begin["resources"]["requests"] == {"cpu": "2", "memory": "1Mi"}
    assert stage["command"] == plain["initContainers"][1]["command"] and stage["securityContext"] == plain["initContainers"][1]["securityContext"]


def test_without_one_nothing_changes():
    assert overlay.read(None) == {} and overlay.laid({"containers": [{"name": "x"}]}, {}) == {"containers": [{"name": "x"}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodeselector: {}", "nodeselector: cannot be laid over a pod; did you mean nodeSelector?"),
        ("securityContext: {runAsUser: 0}", "securityContext: cannot be laid"),
        ("hostNetwork: true\ntolerations: {}", "hostNetwork: cannot be laid over a pod\n .*tolerations: list is wanted, not dict"),
        ("- x", "a mapping of keys of a pod's spec is wanted, not list"),
        ("a: [", "not valid YAML"),
        ("resources: {limits: {nvidia.com/gpu: 9}}", "how many nvidia.com/gpu is each step's own"),
        ("resources: {memory: 1Gi}", "requests and limits are wanted, each a mapping, not memory"),
        ("", "a mapping of keys of a pod's spec is wanted, not NoneType"),
    ],
)
def test_what_may_not_be_laid_over_a_pod_is_refused(tmp_path, text, words):
    with pytest.raises(InvalidError, match=words):
        read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none.yaml cannot be read: No such file"):
        overlay.read(tmp_path / "none.yaml")
