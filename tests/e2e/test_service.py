"""The operator's path: serve in the background, ask, look after it, stop it."""

from __future__ import annotations

import json
import time

import pytest
from conftest import RECIPE
from openai import OpenAI
from skips import skip_or_fail


@pytest.fixture(params=["llamacpp", "ollama", "vllm"])
def served(request, demo, store, thinkship, engines):
    if request.param not in engines:
        skip_or_fail(f"{request.param} cannot be had on this machine")
    port = {"llamacpp": 18080, "ollama": 18434, "vllm": 18000}[request.param]
    done = thinkship("serve", RECIPE, "--engine", request.param, "--port", port, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    yield f"http://127.0.0.1:{port}/v1", done.stdout
    assert thinkship("stop", "--store", store).returncode == 0


def test_a_served_model_answers_thinks_is_healthy_verified_and_stopped(served, thinkship, store, tmp_path):
    url, said = served
    assert url in said and "curl " in said and "from openai import OpenAI" in said
    client = OpenAI(base_url=url, api_key="none", timeout=60)
    question = [{"role": "user", "content": "What is 47 + 25?"}]
    message = client.chat.completions.create(model="smollm2-demo", messages=question, temperature=0).choices[0].message
    kept = message.model_dump()
    assert "72" in (message.content or "") and (kept.get("reasoning") or kept.get("reasoning_content"))

    began = time.monotonic()
    health = thinkship("health", "--store", store, "--json")
    assert health.returncode == 0, health.stdout + health.stderr
    assert json.loads(health.stdout)["thinks"] is True and time.monotonic() - began < 10

    (model,) = store.glob("merge-*/model")
    verified = thinkship("verify", "--url", url, "--model-dir", model, "--json", tmp_path / "report.json")
    checks = {check["name"]: check["status"] for check in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["checks"]}
    # a model of sums need not think well about the sky, of which it is asked here; the prompt must be right all the same
    assert checks["prompt"] == "pass" and {"think", "stop"} <= set(checks), verified.stdout + verified.stderr


def test_serving_twice_names_the_first(thinkship, store, demo):
    first = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", 18081, "--store", store)
    try:
        assert first.returncode == 0, first.stderr
        again = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", 18082, "--store", store)
        assert again.returncode == 4 and "served already" in again.stderr
    finally:
        thinkship("stop", "--store", store)
    assert "no server" in thinkship("stop", "--store", store).stdout
