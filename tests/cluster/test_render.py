"""The chart without a cluster: lint, schema, goldens, and everything that its templates refuse."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import pytest
import yaml
from kubernetes import CHART, path_of, rendered, run, template

pytestmark = pytest.mark.usefixtures("helm")

FILES = [{"path": "gguf-1/model.gguf", "size": 5_000_000_000, "sha256": "0" * 64}]
VLLM = {"image": "thinkship/vllm:1", "args": ["--model", "/models/m", "--shutdown-timeout", "60"], "gpus": 1, "startupSeconds": 900}
LLAMACPP = {"image": "thinkship/llamacpp:1", "args": ["--model", "/models/gguf-1/model.gguf"]}
PLAIN: dict[str, Any] = {
    "name": "demo",
    "model": {"volume": {"persistentVolumeClaim": {"claimName": "models"}}, "files": FILES},
    "apiKey": {"secret": "thinkship"},
    "engines": {"llamacpp": LLAMACPP},
}
EVERYTHING: dict[str, Any] = {
    **PLAIN,
    "model": {"volume": {"emptyDir": {}}, "files": FILES, "load": {"from": "s3://bucket/prefix", "secret": "s3", "env": {"AWS_REGION": "eu-1"}}},
    "engines": {
        "vllm": {
            **VLLM,
            "host": "vllm.example.org",
            "cache": {"persistentVolumeClaim": {"claimName": "cache"}},
            "autoscaling": {"type": "keda", "min": 1, "max": 4, "queue": 4, "prometheus": "http://prometheus:9090"},
        },
        "llamacpp": {**LLAMACPP, "host": "llamacpp.example.org", "autoscaling": {"type": "hpa", "min": 2, "max": 8, "queue": 2}},
        "ollama": {"image": "thinkship/ollama:1", "env": {"MODEL_NAME": "demo"}, "replicas": 2},
    },
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    "monitoring": {"serviceMonitor": True, "rules": True, "watch": True, "labels": {"release": "prometheus"}},
    "pod": {"nodeSelector": {"pool": "gpu"}, "tolerations": [{"key": "spot", "operator": "Exists"}], "priorityClassName": "serving"},
}
GOLDEN = {"plain.yaml": PLAIN, "everything.yaml": EVERYTHING}


def changed(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return values with one of them changed; None takes it away."""
    found = deepcopy(values)
    *parents, last = path.split("/")
    place = found
    for name in parents:
        place = place.setdefault(name, {})
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return found


def test_the_chart_is_linted_with_and_without_everything(tmp_path: Any) -> None:
    for number, values in enumerate((PLAIN, EVERYTHING)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(values))
        done = run("helm", "lint", "--strict", str(CHART), "--values", str(path))
        assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_rendered_is_the_golden_file(name: str) -> None:
    text = template(GOLDEN[name]).stdout
    if os.environ.get("THINKSHIP_WRITE_GOLDEN"):
        path_of(name).write_text(text, encoding="utf-8")
    assert text == path_of(name).read_text(encoding="utf-8"), "THINKSHIP_WRITE_GOLDEN=1 writes it anew"


def test_every_pod_is_hardened() -> None:
    found = rendered(EVERYTHING)
    pods = [one["spec"]["template"]["spec"] for one in found["Deployment"]] + [one["spec"] for one in found["Pod"]]
    assert len(pods) == 9, "three engines, their watches and their tests"
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_a_key_is_mounted_as_a_file_and_never_stands_in_a_servers_environment_or_arguments() -> None:
    for one in rendered(EVERYTHING)["Deployment"]:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        if container["name"] != "watch":
            assert not [entry for entry in container.get("env", ()) if "valueFrom" in entry]


def test_probes_are_apart_and_the_start_has_the_seconds_that_are_stated() -> None:
    (vllm,) = (one for one in rendered(EVERYTHING)["Deployment"] if one["metadata"]["name"] == "demo-vllm")
    (container,) = vllm["spec"]["template"]["spec"]["containers"]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    assert startup["exec"] == container["readinessProbe"]["exec"] == {"command": ["python", "/opt/thinkship/healthcheck.py", "8000"]}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert vllm["spec"]["progressDeadlineSeconds"] == 900 + 120 + 250, "5 GB at 20 MB/s"


def test_the_old_answers_until_the_new_has_and_begun_answers_are_finished() -> None:
    (one,) = rendered(PLAIN)["Deployment"]
    assert one["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (waves,) = rendered(changed(PLAIN, "engines/llamacpp/maxSurge", "25%"))["Deployment"]
    assert waves["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": "25%"}
    pod = one["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]


def test_gpus_are_asked_for_and_their_taint_is_tolerated() -> None:
    (vllm,) = (one for one in rendered(EVERYTHING)["Deployment"] if one["metadata"]["name"] == "demo-vllm")
    pod = vllm["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 1}}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


def test_a_model_in_the_image_needs_neither_volume_nor_loader() -> None:
    (one,) = rendered(changed(changed(PLAIN, "model/volume", {}), "model/files", []))["Deployment"]
    pod = one["spec"]["template"]["spec"]
    assert "initContainers" not in pod and "models" not in [volume["name"] for volume in pod["volumes"]]


REFUSED = {
    "no engine": (changed(PLAIN, "engines", {}), "engines: none is stated"),
    "an engine that does not exist": (changed(PLAIN, "engines/sglang", LLAMACPP), "sglang"),
    "a key that does not exist": (changed(PLAIN, "engines/llamacpp/gpu", 1), "gpu"),
    "replicas of the wrong type": (changed(PLAIN, "engines/llamacpp/replicas", "two"), "replicas"),
    "a surge of nothing": (changed(PLAIN, "engines/llamacpp/maxSurge", "0%"), "maxSurge"),
    "an image without a tag": (changed(PLAIN, "engines/llamacpp/image", "thinkship/llamacpp"), "image"),
    "a checksum that is none": (changed(PLAIN, "model/files", [{"path": "a", "size": 1, "sha256": "0"}]), "sha256"),
    "a path that leads out": (changed(PLAIN, "model/files", [{"path": "a/../../b", "size": 1, "sha256": "0" * 64}]), "path"),
    "an origin that is none": (changed(PLAIN, "model/load/from", "ftp://host"), "from"),
    "no name": (changed(PLAIN, "name", ""), "name: is empty"),
    "no key": (changed(PLAIN, "apiKey", {}), "apiKey/secret: names no Secret"),
    "a key and none": (changed(PLAIN, "apiKey", {"secret": "a", "none": True}), "keep one of them"),
    "two volumes": (changed(PLAIN, "model/volume", {"emptyDir": {}, "hostPath": {"path": "/a"}}), "names 2 kinds"),
    "an empty volume": (changed(PLAIN, "model/volume", {"emptyDir": {}}), "an emptyDir is empty"),
    "loading into nothing": (changed(EVERYTHING, "model/volume", {}), "no volume to load into"),
    "loading what is not told": (changed(EVERYTHING, "model/files", []), "does not say what is loaded"),
    "a folder without its volume": (changed(EVERYTHING, "model/load/from", "file:///source"), "go together"),
    "an image as a volume on an old cluster": (changed(PLAIN, "model/volume", {"image": {"reference": "a/b:1"}}), "cannot mount images"),
    "two engines at one host": (changed(EVERYTHING, "engines/vllm/host", "llamacpp.example.org"), "is the host of llamacpp too"),
    "two engines on one port": (
        changed(
            changed(PLAIN, "engines/llamacpp/service", {"type": "NodePort", "nodePort": 30080}),
            "engines/vllm",
            {**VLLM, "service": {"type": "NodePort", "nodePort": 30080}},
        ),
        "30080 is the port of llamacpp too",
    ),
    "Ollama open to the world": (changed(EVERYTHING, "engines/ollama/host", "ollama.example.org"), "cannot ask for an API key"),
    "Ollama scaled by nothing": (
        changed(EVERYTHING, "engines/ollama/autoscaling", {"type": "hpa", "min": 1, "max": 2, "queue": 1}),
        "has no metrics to scale by",
    ),
    "keda without an address": (changed(EVERYTHING, "engines/vllm/autoscaling/prometheus", None), "no address is stated"),
    "more at least than at most": (changed(EVERYTHING, "engines/vllm/autoscaling/min", 9), "min 9 is more than max 4"),
    "a drain that is cut off": (changed(EVERYTHING, "engines/vllm/drainSeconds", 30), "30 is less than the engine's own --shutdown-timeout 60"),
    "GPUs that are not used": (changed(EVERYTHING, "engines/vllm/gpus", 2), "2, and the engine spreads over 1"),
    "an ingress to nobody": (changed(PLAIN, "ingress/enabled", True), "ingress: no engine states the host"),
    "a route to nobody": (changed(PLAIN, "httpRoute", EVERYTHING["httpRoute"]), "httpRoute: no engine states the host"),
    "a route through nothing": (changed(EVERYTHING, "httpRoute/parentRefs", []), "names no Gateway"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused_with_their_place(name: str) -> None:
    values, words = REFUSED[name]
    done = template(values, version="1.30.0" if "old cluster" in name else "1.34.0", check=False)
    assert done.returncode and words in done.stderr, done.stderr or done.stdout[:500]


def test_all_that_is_wrong_is_said_at_once() -> None:
    done = template({"name": ""}, check=False)
    assert all(words in done.stderr for words in ("engines: none", "name: is empty", "apiKey/secret: names no Secret"))


def test_a_service_asks_the_pods_of_every_release_that_serves_as_its_own() -> None:
    def parts(release: str, serves: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        objects = {one["kind"]: one for one in yaml.safe_load_all(template({**PLAIN, "serves": serves}, release=release).stdout) if one}
        spec = objects["Deployment"]["spec"]
        return objects["Service"]["spec"]["selector"], spec["template"]["metadata"]["labels"], spec["selector"]["matchLabels"]

    asked, pods, own = parts("demo", "demo")
    canary_asked, canary_pods, canary_own = parts("demo-canary", "demo")
    for labels in (pods, canary_pods):
        assert asked.items() <= labels.items()
    assert own.items() <= pods.items() and not own.items() <= canary_pods.items() and not canary_own.items() <= pods.items()
    assert canary_asked == canary_own, "the canary's Service asks its own pods"
    alone, pods, own = parts("demo", "")
    assert alone == own and "thinkship/serves" not in pods
    assert not asked.items() <= parts("demo-canary", "")[1].items(), "a canary that states nothing is asked by nobody"


def test_a_release_name_that_is_too_long_for_its_parts_is_refused() -> None:
    long = template(PLAIN, release="r" * 53, check=False)
    assert long.returncode and "is too long" in long.stderr
