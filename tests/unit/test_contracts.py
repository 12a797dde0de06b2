from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from toolkit.contracts import check
from toolkit.errors import BrokenError

THINK = {"open": "<think>", "close": "</think>", "add_tokens": True}


def breach(stage: str, directory: Path, recipe: dict[str, Any]) -> str:
    with pytest.raises(BrokenError) as caught:
        check(stage, directory, recipe)
    return caught.value.message


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write(folder / "config.json", {"vocab_size": 10})
    write(folder / "generation_config.json", {"eos_token_id": [2]})
    write(folder / "tokenizer.json", {"added_tokens": [{"content": "<think>", "id": 8}, {"content": "</think>", "id": 9}]})
    write(folder / "tokenizer_config.json", {})
    write(folder / "chat_template.jinja", "x")
    write(folder / "model.safetensors", "x")
    write(tmp_path / "base.json", {})
    return tmp_path


BASE = {"base": {"think": THINK}}


def test_a_whole_base_passes(model):
    check("base", model, BASE)


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja", "generation_config.json"])
def test_a_missing_model_file_is_named(model, name):
    (model / "model" / name).unlink()
    assert f"{name}: is missing" in breach("base", model, BASE)


def test_missing_weights_are_said(model):
    (model / "model" / "model.safetensors").unlink()
    assert "no *.safetensors" in breach("base", model, BASE)


def test_a_think_tag_that_is_no_token_is_named(model):
    write(model / "model" / "tokenizer.json", {"added_tokens": [{"content": "<think>", "id": 8}]})
    assert "</think> is no single token" in breach("base", model, BASE)


def test_a_token_beyond_the_weights_is_named(model):
    write(model / "model" / "config.json", {"vocab_size": 9})
    assert "</think> is no single token of the model's vocabulary of 9" in breach("base", model, BASE)


def test_no_eos_is_said(model):
    write(model / "model" / "generation_config.json", {})
    assert "eos_token_id is not set" in breach("base", model, BASE)


def dataset(folder: Path, completion: str) -> None:
    write(folder / "stats.json", {})
    for name in ("train.jsonl", "eval.jsonl"):
        write(folder / name, json.dumps({"prompt": "q", "completion": completion}) + "\n")


def test_a_chain_of_thought_that_survives_passes(tmp_path):
    dataset(tmp_path, "why\n</think>\n\n4<|im_end|>")
    check("dataset", tmp_path, {"think": THINK})


@pytest.mark.parametrize("completion", ["4<|im_end|>", "\n</think>\n\n4", "<think>\n\n</think>\n\n4", "why\n</think>\n\n"])
def test_a_lost_chain_of_thought_is_named_with_its_line(tmp_path, completion):
    dataset(tmp_path, completion)
    assert "train.jsonl:1: the completion lost" in breach("dataset", tmp_path, {"think": THINK})


def test_an_empty_thinking_is_let_through_where_the_recipe_allows_it(tmp_path):
    dataset(tmp_path, "\n</think>\n\n4")
    check("dataset", tmp_path, {"think": THINK, "dataset": {"allow_no_reasoning": True}})
    dataset(tmp_path, "\n</think>\n\n")
    assert "train.jsonl:1: the completion lost" in breach("dataset", tmp_path, {"think": THINK, "dataset": {"allow_no_reasoning": True}})


@pytest.mark.parametrize(
    ("losses", "words"), [([2.0, 1.9, 1.9, 2.1], "did not fall"), ([1.0, float("nan"), 1.0], "not finite"), ([], "is missing or not finite")]
)
def test_a_training_that_went_wrong_is_not_sealed(tmp_path, losses, words):
    for name in ("train.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        write(tmp_path / name, {})
    write(tmp_path / "metrics.jsonl", "".join(json.dumps({"loss": loss}) + "\n" for loss in losses))
    assert words in breach("train", tmp_path, {})


def test_a_merge_whose_logits_were_not_compared_says_why_and_names_what_was(model):
    recipe = {"merge": {"max_logit_difference": 0.5}, "think": THINK}
    facts = {"max_logit_difference": None, "why": "32.8 G weights do not fit", "rows": {"weights": 9}}
    write(model / "merge.json", facts)
    (model / "tokens.jsonl").touch()
    check("merge", model, recipe)
    for missing in ({**facts, "why": ""}, {**facts, "rows": {"weights": 0}}):
        write(model / "merge.json", missing)
        assert "neither logits nor rows were compared" in breach("merge", model, recipe)


def test_a_merge_that_differs_is_not_sealed(model):
    write(model / "merge.json", {"max_logit_difference": 3.0})
    assert "more than 0.5" in breach("merge", model, {"merge": {"max_logit_difference": 0.5}, "think": THINK})


def gguf(folder: Path, magic: bytes, kl: float) -> dict[str, Any]:
    (folder / "model-q8_0.gguf").write_bytes(struct.pack("<4sIQ", magic, 3, 7))
    write(folder / "gguf.json", {"types": {"q8_0": {"mean_kl": kl}}})
    return {"gguf": {"types": ["q8_0"], "max_kl": {"q8_0": 0.01}}}


def test_a_good_gguf_passes(tmp_path):
    check("gguf", tmp_path, gguf(tmp_path, b"GGUF", 0.001))


def test_a_gguf_without_its_magic_or_beyond_its_kl_is_named(tmp_path):
    text = breach("gguf", tmp_path, gguf(tmp_path, b"GGML", 0.5))
    assert "no GGUF header" in text and "mean KL divergence 0.5000, gguf/max_kl/q8_0 allows 0.01" in text


def test_a_missing_gguf_is_named(tmp_path):
    recipe = gguf(tmp_path, b"GGUF", 0.001)
    (tmp_path / "model-q8_0.gguf").unlink()
    assert "model-q8_0.gguf: is missing" in breach("gguf", tmp_path, recipe)


def test_a_file_that_cannot_be_read_is_a_breach_and_no_traceback(tmp_path):
    assert "cannot be read" in breach("verify", tmp_path, {})
