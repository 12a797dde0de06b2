# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""What a server tells of its settings, on real servers that tell it, tell something else, or hide it and have to be seen by their answers."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from loopback import completion, send, serve

from toolkit.engines import Endpoint
from toolkit.engines.chat import Chat
from toolkit.engines.llamacpp import quantization
from toolkit.plan import serve_step
from toolkit.verify import Expectations, Finding, settings

RECIPE = {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
EXPECTED = Expectations(variant="q8_0", context=1024, sampling=RECIPE, timeout=5)
SLOT = {"n_ctx": 1024, "params": {"temperature": 0.6000000238418579, "top_p": 0.949999988079071, "top_k": 20, "min_p": 0.05, "repeat_penalty": 1.0}}
SHOWN = {"parameters": 'stop    "<|im_end|>"\ntemperature    0.6\ntop_k    20\ntop_p    0.95', "details": {"quantization_level": "Q8_0"}}
LOADED = {"models": [{"name": "m:latest", "size": 100, "size_vram": 0, "context_length": 1024}]}
PAGES = {
    "llamacpp": {"/props": {"default_generation_settings": SLOT, "model_ftype": "Q8_0"}},
    "ollama": {"/api/show": SHOWN, "/api/ps": LOADED},
}


def pages(content: dict[str, Any]):
    def answer(request):
        found = content.get(request.path)
        send(request, json.dumps(found if found is not None else {"error": {"message": "no such path"}}), 200 if found is not None else 404)

    return answer


def found(url: str, engine: str, expectations: Expectations = EXPECTED) -> dict[str, Finding]:
    with Chat(Endpoint(engine, url, "m"), timeout=5) as chat:
        return {finding.name: finding for finding in settings.checks(chat, expectations)}


TOLD = {
    **{"F16": "f16", "BF16": "bf16", "Q8_0": "q8_0", "Q6_K": "q6_k", "Q4_0": "q4_0", "(guessed) Q5_K - Small": "q5_k_s", "Q3_K - Large": "q3_k_l"},
    **{"Q4_K - Medium": "q4_k_m", "Q2_K - Medium": "q2_k", "IQ4_NL - 4.5 bpw": "iq4_nl", "IQ4_XS - 4.25 bpw": "iq4_xs"},
    **{"IQ3_S mix - 3.66 bpw": "iq3_m", "IQ3_S - 3.4375 bpw": "iq3_s", "IQ2_XXS - 2.0625 bpw": "iq2_xxs"},
}


def test_each_type_of_file_is_known_by_what_llama_cpp_calls_it():
    assert {told: quantization(told) for told in TOLD} == TOLD


@pytest.mark.parametrize("engine", PAGES)
def test_a_server_that_says_what_the_recipe_says_passes(serve, engine):
    assert {name: finding.status for name, finding in found(serve(pages(PAGES[engine])), engine).items()} == {
        "context_length": "pass",
        "quantization": "pass",
        "sampling": "pass",
    }


@pytest.mark.parametrize(
    ("engine", "wanted", "check", "words"),
    [
        ("llamacpp", {"context": 2048}, "context_length", "1024 tokens of context, the recipe says 2048"),
        ("ollama", {"context": 512}, "context_length", "1024 tokens of context, the recipe says 512"),
        ("llamacpp", {"variant": "f16"}, "quantization", "the weights are q8_0, the recipe says f16"),
        ("ollama", {"variant": "q4_k_m"}, "quantization", "the weights are q8_0, the recipe says q4_k_m"),
        ("llamacpp", {"sampling": {"temperature": 1.5}}, "sampling", "temperature is 0.6, the recipe says 1.5"),
        ("ollama", {"sampling": {"temperature": 0.6, "min_p": 0.1}}, "sampling", "min_p is 0, the recipe says 0.1"),
        ("ollama", {"sampling": {"repetition_penalty": 1.1}}, "sampling", "repetition_penalty is 1, the recipe says 1.1"),
    ],
)
def test_what_differs_is_named_with_both_values_and_nothing_else_fails(serve, engine, wanted, check, words):
    seen = found(serve(pages(PAGES[engine])), engine, replace(EXPECTED, **wanted))
    assert [name for name, finding in seen.items() if finding.status == "fail"] == [check]
    assert words in seen[check].message and seen[check].remedy and seen[check].evidence


def test_llama_cpp_rounds_a_context_up_to_256_and_no_further(serve):
    url = serve(pages(PAGES["llamacpp"]))
    assert found(url, "llamacpp", replace(EXPECTED, context=1000))["context_length"].status == "pass"
    assert found(url, "llamacpp", replace(EXPECTED, context=768))["context_length"].status == "fail"


def test_what_is_not_stated_or_not_told_is_skipped_with_the_reason_and_not_required(serve):
    silent = found(serve(pages({})), "openai", EXPECTED)
    assert {finding.status for finding in silent.values()} == {"skip"} and not any(finding.required for finding in silent.values())
    assert "openai tells no context length" in silent["context_length"].message
    unstated = found(serve(pages(PAGES["ollama"])), "ollama", Expectations(timeout=5))
    assert {finding.status for finding in unstated.values()} == {"skip"} and all(finding.message for finding in unstated.values())


@pytest.mark.parametrize("page", ["[]", "{}", "nonsense"])
def test_a_server_that_answers_nonsense_fails_with_its_words(serve, page):
    seen = found(serve(lambda request: send(request, page)), "llamacpp")
    assert {finding.status for finding in seen.values()} == {"fail"} and all(finding.message and finding.remedy for finding in seen.values())


def test_an_adapters_context_is_its_bases(serve):
    entries = [{"id": "m-base", "max_model_len": 512}, {"id": "m", "parent": "m-base", "max_model_len": None}]
    seen = found(serve(lambda request: send(request, json.dumps({"data": entries}))), "vllm")
    assert seen["context_length"].status == "fail" and "512" in seen["context_length"].message


WORDS = [f"word{number}" for number in range(60)]


class Sampler:
    """A server that says nothing of its sampling; its answers are drawn from the parameters and the seed."""

    def __init__(self, defaults: dict[str, float], how: str = "") -> None:
        self.defaults, self.how = defaults, how

    def __call__(self, request) -> None:
        if request.path != "/v1/chat/completions":
            return send(request, json.dumps({"data": [{"id": "m", "max_model_len": 1024}]}))
        body = json.loads(request.body)
        used = {name: body.get(name, self.defaults[name]) for name in ("temperature", "top_p", "top_k")}
        source = {"sure": 0, "seedless": None}.get(self.how, json.dumps([body["seed"], [float(used[name]) for name in sorted(used)]]))
        words = " ".join(random.Random(source).choices(WORDS, k=body["max_tokens"]))
        return send(request, completion({"content": "" if self.how == "silent" else words}, "length"))


def drawn(url: str) -> Finding:
    return found(url, "vllm")["sampling"]


def test_hidden_sampling_is_proven_by_answers_seed_for_seed(serve):
    finding = drawn(serve(Sampler(RECIPE)))
    assert finding.status == "pass" and "3 of 3 answers" in finding.message


def test_hidden_sampling_that_differs_is_found(serve):
    finding = drawn(serve(Sampler({**RECIPE, "temperature": 1.5})))
    assert finding.status == "fail" and finding.required and "generation_config.json" in finding.remedy


def test_a_checkpoint_whose_generation_config_is_not_read_is_told(serve):
    finding = drawn(serve(Sampler(settings.NEUTRAL)))
    assert finding.status == "fail" and "generation_config.json is not read" in finding.message


@pytest.mark.parametrize(
    ("how", "words"),
    [("sure", "answers the same however"), ("seedless", "one seed draws two answers"), ("silent", "a draw holds no text")],
)
def test_where_draws_show_nothing_it_is_skipped_with_the_reason(serve, how, words):
    finding = drawn(serve(Sampler({**RECIPE, "temperature": 1.5}, how)))
    assert (finding.status, finding.required) == ("skip", False) and words in finding.message


def test_a_server_that_breaks_off_while_it_draws_fails(serve):
    def answer(request):
        send(request, json.dumps({"data": []}) if request.path == "/v1/models" else "{}")

    finding = drawn(serve(answer))
    assert finding.status == "fail" and "draws no answers" in finding.message


@pytest.mark.parametrize(
    ("engine", "modelfile", "context", "sampling"),
    [
        ("llamacpp", {}, 1024, {}),
        ("ollama", {}, 768, {}),  # the longest row of 69 tokens and 512 for the answer, rounded up to 256
        ("ollama", {"num_ctx": 4096, "temperature": 0.7, "repeat_penalty": 1.1}, 4096, {"temperature": 0.7, "repetition_penalty": 1.1}),
        ("llamacpp", {"temperature": 0.7}, 1024, {}),
    ],
)
def test_a_recipe_states_context_and_sampling_engine_by_engine(demo, tmp_path, engine, modelfile, context, sampling):
    recipe = demo.model_copy(update={"modelfile": demo.modelfile.model_copy(update={"parameters": modelfile})})
    (tmp_path / "stats.json").write_text('{"longest_row": 69}')
    stated = settings.of_recipe(serve_step(recipe, engine, "q8_0", base=False).recipe, tmp_path)
    assert stated["context"] == context and {name: stated["sampling"][name] for name in {**RECIPE, **sampling}} == {**RECIPE, **sampling}
    assert (stated["gpu"], stated["soak"], stated["tokens_per_second_at_least"]) == (False, None, None)


def test_a_checkpoint_states_its_sampling(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": 2, "top_k": None}))
    assert settings.of_checkpoint(tmp_path) == {"temperature": 0.6}
    assert settings.of_checkpoint(tmp_path / "none") == {}
