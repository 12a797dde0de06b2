"""The operator's path: serve in the background, ask, look after it, stop it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import RECIPE
from openai import AuthenticationError, OpenAI
from skips import skip_or_fail

from toolkit.engines import engine

HELD_OUT = RECIPE.parent / "data" / "sums-holdout.jsonl"
PORTS = {"llamacpp": 18080, "ollama": 18434, "vllm": 18000, "transformers": 18001}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.long] if name in ("vllm", "transformers") else []) for name in PORTS])
def served(request, demo, store, thinkship, engines):
    if request.param not in (*engines, "transformers"):
        skip_or_fail(f"{request.param} cannot be had on this machine")
    port = PORTS[request.param]
    variant = ("--variant", "bf16") if request.param == "vllm" else ()  # NF4 answers slowly on a CPU: asked one question in test_making.py
    done = thinkship("serve", RECIPE, "--engine", request.param, *variant, "--port", port, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    yield request.param, f"http://127.0.0.1:{port}/v1", done.stdout
    assert thinkship("stop", "--store", store).returncode == 0


def test_a_served_model_answers_thinks_is_healthy_verified_and_stopped(served, thinkship, store, tmp_path):
    name, url, said = served
    assert url in said and "curl " in said and "from openai import OpenAI" in said
    question = [{"role": "user", "content": "What is 47 + 25?"}]
    with OpenAI(base_url=url, api_key="none", timeout=60) as client:  # its kept connection, not closed, would fail the whole suite at its end
        message = client.chat.completions.create(model="smollm2-demo", messages=question, temperature=0).choices[0].message
    kept = message.model_dump()
    assert "72" in (message.content or "") and (kept.get("reasoning") or kept.get("reasoning_content"))

    began = time.monotonic()
    health = thinkship("health", "--store", store, "--json")
    assert health.returncode == 0, health.stdout + health.stderr
    assert json.loads(health.stdout)["thinks"] is True and time.monotonic() - began < 10

    (model,) = store.glob("merge-*/model")
    # a server that lists no models does not tell what it is and what it serves
    named = () if engine(name).habits.lists_models else ("--engine", name, "--model", "smollm2-demo")
    asked = (*named, "--questions", HELD_OUT, "--limit", 12, "--max-tokens", 160, "--at-least", 0.9)
    verified = thinkship("verify", "--url", url, "--model-dir", model, *asked, "--json", tmp_path / "report.json")
    checks = {check["name"]: check["status"] for check in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["checks"]}
    assert {checks[name] for name in ("prompt", "think", "stop", "task", "usage")} == {"pass"}, verified.stdout + verified.stderr


def test_a_server_with_a_key_serves_its_holder_alone_and_ends_when_it_has_answered(thinkship, store, demo, tmp_path):
    file = tmp_path / "api_key"
    file.write_text("f00d\n", encoding="utf-8")
    first = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", 18083, "--api-key-file", file, "--store", store)
    try:
        assert first.returncode == 0 and "f00d" not in first.stdout + first.stderr, first.stderr
        assert thinkship("health", "--store", store).returncode == 0
        url, question = "http://127.0.0.1:18083/v1", [{"role": "user", "content": "What is 47 + 25?"}]
        with OpenAI(base_url=url, api_key="wrong", max_retries=0) as stranger, pytest.raises(AuthenticationError):
            stranger.chat.completions.create(model="smollm2-demo", messages=question, max_tokens=1)
        with OpenAI(base_url=url, api_key="f00d", max_retries=0, timeout=60) as holder, ThreadPoolExecutor() as beside:
            asked = beside.submit(
                holder.chat.completions.create, model="smollm2-demo", messages=question, max_tokens=400, extra_body={"ignore_eos": True}
            )
            time.sleep(0.5)
            assert not asked.done(), "the answer came before the server was stopped: this proves nothing"
            assert thinkship("stop", "--store", store).returncode == 0
            assert asked.result().usage.completion_tokens == 400
    finally:
        thinkship("stop", "--store", store)


def test_serving_twice_names_the_first(thinkship, store, demo):
    first = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", 18081, "--store", store)
    try:
        assert first.returncode == 0, first.stderr
        again = thinkship("serve", RECIPE, "--engine", "llamacpp", "--port", 18082, "--store", store)
        assert again.returncode == 4 and "served already" in again.stderr
    finally:
        thinkship("stop", "--store", store)
    assert "no server" in thinkship("stop", "--store", store).stdout
