"""Shapes, against sizes that hubs publish."""

from __future__ import annotations

import json

import pytest

from toolkit.errors import InvalidError
from toolkit.fit.shape import Shape, known, of_folder, of_source
from toolkit.recipe import HubSource, PathSource

PUBLISHED = {  # GB of the safetensors files in the repository's listing
    "Qwen/QwQ-32B": 65.5,
    "unsloth/QwQ-32B-bnb-4bit": 19.2,
    "Qwen/Qwen3-8B": 16.4,
    "unsloth/QwQ-32B-unsloth-bnb-4bit": 48.0,  # ten files of 4.7 to 5.0
}
QWQ = {
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED.items())
def test_a_repositorys_size_is_the_published_one(name, size):
    assert known(name).bytes / 1e9 == pytest.approx(size, rel=0.01)


def test_a_token_of_qwq_takes_a_quarter_of_a_mebibyte():
    assert known("Qwen/QwQ-32B").shape.kv_bytes() == 0.25 * 2**20


def test_a_config_tells_the_same_shape_as_the_table():
    assert Shape.of_config(QWQ) == known("Qwen/QwQ-32B").shape


def test_a_head_width_of_its_own_is_read():
    config = {**QWQ, "model_type": "qwen3", "head_dim": 64}
    assert Shape.of_config(config).linears["q_proj"] == (5120, 40 * 64)


def test_experts_are_refused_by_name():
    with pytest.raises(InvalidError, match="not known for a model of type 'qwen3_moe'"):
        Shape.of_config({**QWQ, "model_type": "qwen3_moe"})


def test_a_folders_config_is_read_and_its_4_bit_weights_are_seen(tmp_path):
    skipped = ["lm_head", "model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.4.mlp"]
    quantized = {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": skipped}
    (tmp_path / "config.json").write_text(json.dumps({**QWQ, "quantization_config": quantized}))
    found = of_source(PathSource(path="."), tmp_path)
    assert found.prequantized and (found.wide_mlps, found.wide_attentions) == (2, 1)
    plain = known("unsloth/QwQ-32B-bnb-4bit")
    assert found.bytes - plain.bytes == pytest.approx(found.wide_parameters * (2 - 0.5 - (1 + 4 / 256) / 64))


def test_what_is_not_known_is_none(tmp_path):
    assert of_source(HubSource(hub="somebody/something"), tmp_path) is None
    assert of_folder(tmp_path) is None
