"""vLLM in the chart on a real cluster, on its CPUs: ready within the time that the chart reckons with, hardened, verified, and drained."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kubernetes import FIGURES, IMPORT, Namespace, bring, fresh, wait_for
from openai import OpenAI
from test_service import answer, inspect, ready

from toolkit.images import ensure, image

pytestmark = pytest.mark.long
TOKENS = 300
"""Of an answer that is being written while its pod is told to end."""


@pytest.fixture(scope="module")
def vllm(cluster: str, store: Path, exported: Callable[..., Any]) -> Iterator[tuple[Namespace, str, str, float]]:
    """A namespace in which the chart's vLLM serves the demo in 16 bits, its address, its key and the seconds to ready."""
    (given,) = exported("k8s", "--engine", "vllm", "--variant", "bf16", "--no-gpu", "--model", f"hostpath://{store.resolve()}")
    engine = given["engines"]["vllm"]
    engine |= {"service": {"type": "NodePort"}}
    engine["resources"]["requests"] = {"cpu": "50m", "memory": "2Gi"}
    for name in ("verify", "vllm") if IMPORT else ():
        ensure(image(name))
    bring(given["images"]["tools"], engine["image"])
    with fresh() as namespace:
        key, began = namespace.secret(), time.monotonic()
        namespace.deploy("demo", given, "--wait", "--timeout", "10m", timeout=660)
        seconds = time.monotonic() - began
        FIGURES.append(f"vllm: from helm install to ready: {seconds:.1f} s of the {engine['startupSeconds']} that the chart reckons with")
        assert seconds < engine["startupSeconds"]
        yield namespace, namespace.address("demo-vllm"), key, seconds
        namespace.helm("uninstall", "demo", "--wait", check=False)


def test_it_answers_thinks_asks_for_the_key_and_is_hardened(vllm: tuple[Namespace, str, str, float]) -> None:
    namespace, url, key, _ = vllm
    message = answer(url, key)
    assert "72" in message["content"] and message["reasoning"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(url, "another key")
    inspect(namespace, "vllm")


def test_a_pod_that_is_told_to_end_writes_its_answers_to_the_end(vllm: tuple[Namespace, str, str, float]) -> None:
    namespace, url, key, seconds = vllm
    (pod,) = namespace.pods("vllm")
    with OpenAI(base_url=url, api_key=key, timeout=100, max_retries=0) as client, ThreadPoolExecutor(1) as beside:
        question: Any = [{"role": "user", "content": "What is 47 + 25?"}]
        ask = client.chat.completions.create
        asked = beside.submit(ask, model="smollm2-demo", messages=question, max_tokens=TOKENS, temperature=0, extra_body={"ignore_eos": True})
        time.sleep(2)
        namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
        assert not asked.done(), "the answer came before the pod was told to end: this proves nothing"
        usage = asked.result().usage
    assert usage and usage.completion_tokens == TOKENS
    wait_for(lambda: ready(namespace, "vllm") == 1 and len(namespace.pods("vllm")) == 1, 2 * seconds + 60, "another pod is ready")
