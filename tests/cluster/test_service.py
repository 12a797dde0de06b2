"""The chart on a real cluster with the real engines and the demo's model: it answers, is hardened, rolls without a lost answer, and comes back."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from bench import TABLE
from kubernetes import FIGURES, Namespace, wait_for
from streams import Streams

Values = Callable[..., dict[str, Any]]
CLIENTS = 8
LETS_GO = {"llamacpp": True, "ollama": False}
"""Whether an engine that is to end closes a connection with the answer that it is waiting for; Ollama's clients make one for each request here."""


def ready(namespace: Namespace, engine: str) -> int:
    """Return how many replicas answer."""
    return int(namespace.get("deployment", f"demo-{engine}")["status"].get("readyReplicas", 0))


def rolled(namespace: Namespace, engine: str) -> None:
    """Wait until a roll-out is done and the old pods are gone."""
    namespace.kubectl("rollout", "status", f"deployment/demo-{engine}", "--timeout=300s", timeout=320)
    wait_for(lambda: not [pod for pod in namespace.pods(engine) if pod["metadata"].get("deletionTimestamp")], 200, "the old pods are gone")


def answer(url: str, key: str) -> dict[str, Any]:
    """Ask one question."""
    body = {"model": "smollm2-demo", "messages": [{"role": "user", "content": "What is 47 + 25?"}], "max_tokens": 200, "temperature": 0}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply)["choices"][0]["message"])


@pytest.fixture
def served(namespace: Namespace, values: Values) -> Iterator[Callable[..., tuple[dict[str, Any], str, str]]]:
    """served(engine, **more) installs the chart and returns values, address and key once it is ready."""

    def install(engine: str, **more: Any) -> tuple[dict[str, Any], str, str]:
        key, given = namespace.secret(), values(engine, **more)
        began = time.monotonic()
        namespace.deploy("demo", given, "--wait", "--timeout", "5m", timeout=330)
        FIGURES.append(f"{engine}: from helm install to all replicas ready: {time.monotonic() - began:.1f} s")
        return given, namespace.address(f"demo-{engine}"), key

    yield install
    namespace.helm("uninstall", "demo", "--wait", check=False)


def test_llamacpp_answers_passes_helm_test_and_is_hardened(namespace: Namespace, served: Any) -> None:
    _, url, key = served("llamacpp")
    message = answer(url, key)
    assert "72" in message["content"] and message["reasoning_content"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(url, "another key")
    done = namespace.helm("test", "demo", "--logs", "--timeout", "20m", timeout=1300, check=False)
    FIGURES.append(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    inspect(namespace, "llamacpp")


def inspect(namespace: Namespace, engine: str) -> None:
    """Look from inside at what the pod may do."""
    look = """
import os, pathlib
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/1/status").read_text().splitlines())
print(os.getuid(), os.getgid(), *(status[name].split()[0] for name in ("CapEff", "NoNewPrivs", "Seccomp")))
for place in ("/", "/opt/thinkship", "/models", "/etc/thinkship/key"):
    try:
        pathlib.Path(place, "x").touch()
        print("written:", place)
    except OSError as error:
        print(error.strerror)
print(pathlib.Path("/var/run/secrets/kubernetes.io").exists())
"""
    found = namespace.kubectl("exec", f"deployment/demo-{engine}", "--container", engine, "--", "python", "-c", look).stdout.splitlines()
    assert found[0] == "10001 10001 0000000000000000 1 2", "user, group, no capability, no new privileges, a seccomp filter"
    assert found[1:5] == ["Read-only file system"] * 4
    assert found[5] == "False", "no token of a service account"


@pytest.mark.parametrize("engine", LETS_GO)
def test_a_rolling_update_loses_no_answer_of_eight_streaming_clients(engine: str, namespace: Namespace, served: Any) -> None:
    given, url, key = served(engine, replicas=2)
    before = {pod["metadata"]["name"] for pod in namespace.pods(engine)}
    with Streams(url, "smollm2-demo", key, CLIENTS, kept=LETS_GO[engine]) as streams:
        wait_for(lambda: len(streams.log) >= CLIENTS, 120, "every client has had an answer")
        changed = deepcopy(given) | {"pod": {"annotations": {"rolled": "1"}}}
        began = time.monotonic()
        namespace.deploy("demo", changed)
        rolled(namespace, engine)
        seconds = time.monotonic() - began
        asked = len(streams.log)
        wait_for(lambda: len(streams.log) >= asked + CLIENTS, 120, "the clients go on")
    after = {pod["metadata"]["name"] for pod in namespace.pods(engine)}
    assert len(after) == 2 and not before & after
    told = f"{len(streams.log)} requests of {CLIENTS} clients while 2 of 2 replicas were replaced in {seconds:.0f} s"
    FIGURES.append(f"{engine}: {told}: {len(streams.failed)} failed")
    if engine == "llamacpp":
        TABLE.add("rolling update", len(streams.log), len(streams.failed), seconds, "not watched")
    assert not streams.failed, streams.failed
    assert len(streams.log) > 3 * CLIENTS


def test_a_killed_pod_costs_its_own_answers_alone_and_is_replaced(namespace: Namespace, served: Any) -> None:
    _, url, key = served("llamacpp", replicas=2)
    victim = namespace.pods("llamacpp")[0]["metadata"]["name"]
    with Streams(url, "smollm2-demo", key, CLIENTS) as streams:
        wait_for(lambda: len(streams.log) >= CLIENTS, 120, "every client has had an answer")
        killed = time.time()
        namespace.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
        wait_for(lambda: victim not in [pod["metadata"]["name"] for pod in namespace.pods("llamacpp")], 60, "the pod is gone")
        back = wait_for(lambda: ready(namespace, "llamacpp") == 2, 60, "both replicas answer again")
        asked = len(streams.log)
        wait_for(lambda: len(streams.log) >= asked + 2 * CLIENTS, 120, "the clients go on")
    lost = streams.failed
    last = max((entry.began + entry.seconds - killed for entry in lost), default=0.0)
    told = f"the last {last:.1f} s after the kill; both replicas ready {back:.1f} s after it"
    FIGURES.append(f"a pod killed: {len(streams.log)} requests, {len(lost)} failed, {told}")
    assert len(lost) <= CLIENTS, lost
    assert back < 30


def test_a_release_with_another_model_rolls_back_and_nobody_notices(namespace: Namespace, served: Any) -> None:
    given, url, key = served("llamacpp")
    wrong = deepcopy(given)
    wrong["model"]["files"][0]["sha256"] = "0" * 64
    with Streams(url, "smollm2-demo", key, 2) as streams:
        done = namespace.deploy("demo", wrong, "--atomic", "--timeout", "45s", check=False, timeout=200)
        assert done.returncode and "atomic" in done.stderr
        wait_for(lambda: len(namespace.pods("llamacpp")) == 1, 120, "the refused pod is gone")
    assert streams.log and not streams.failed
    assert namespace.helm("status", "demo", "--output", "json").stdout.count('"deployed"') == 1


def test_a_model_is_loaded_from_another_volume_and_what_is_wrong_with_it_is_said(namespace: Namespace, values: Values) -> None:
    namespace.secret()
    given = values("llamacpp")
    source = given["model"]["volume"]
    given["model"] |= {"volume": {"emptyDir": {}}, "load": {"from": "file:///source", "source": source}}
    namespace.deploy("demo", given, "--wait", "--timeout", "3m")
    log = namespace.kubectl("logs", "deployment/demo-llamacpp", "--container", "model").stdout
    assert "1 files, 0.14 GB: 1 brought" in log
    given["model"]["files"][0]["from"] = "gguf/elsewhere.gguf"
    namespace.deploy("demo", given)

    def words() -> str:
        new = max(namespace.pods("llamacpp"), key=lambda pod: pod["metadata"]["creationTimestamp"])["metadata"]["name"]
        return namespace.kubectl("logs", new, "--container", "model", check=False).stdout

    wait_for(lambda: "error: /source/gguf/elsewhere.gguf is not there" in words(), 60, "the loader says what is wrong")
    assert ready(namespace, "llamacpp") == 1, "the old one serves"


def test_what_the_cluster_lacks_is_said_before_anything_is_changed(namespace: Namespace, values: Values) -> None:
    given = values("llamacpp")
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "small"}}
    claim["spec"] = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "100Mi"}}}
    namespace.kubectl("apply", "--filename", "-", given=json.dumps(claim))
    given["model"]["volume"] = {"persistentVolumeClaim": {"claimName": "small"}}
    given["engines"]["vllm"] = {"image": "thinkship/vllm:1", "gpus": 1}
    done = namespace.deploy("demo", given, check=False)
    assert done.returncode
    missing = (
        "there is no Secret thinkship",
        "the claim small asks for 100Mi, and the model has 0.14 GB",
        "no node offers more than 0 (nvidia.com/gpu)",
    )
    for words in missing:
        assert words in done.stderr
    given["model"]["volume"] = {"persistentVolumeClaim": {"claimName": "missing"}}
    namespace.kubectl("create", "secret", "generic", "thinkship", "--from-literal=other=x")
    done = namespace.deploy("demo", given, check=False)
    assert "there is no PersistentVolumeClaim missing" in done.stderr and "the Secret thinkship holds no api-key" in done.stderr
    assert not namespace.get("deployments")["items"] and not namespace.get("services")["items"]
