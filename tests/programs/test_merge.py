"""The merge stage: the merged model answers as base and adapter do, and a limit that it breaks is an error."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training import PROGRAMS, piece, tiny_recipe

from toolkit import contracts


def merge(run_program: Any, python: Path, inputs: dict[str, Path], folder: Path, **wanted: Any) -> Any:
    return run_program(python, PROGRAMS / "merge.py", inputs, piece("merge", merge=wanted), folder)


@pytest.mark.long
def test_merging_without_rounding_changes_nothing(
    base: Path, dataset: Path, trained: Path, train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    inputs = {"base": base, "dataset": dataset, "train": trained}
    done = merge(run_program, train_python, inputs, tmp_path, dtype="float32", max_logit_difference=0.01)
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
    facts = json.loads((done.output / "merge.json").read_text())
    assert facts["max_logit_difference"] < 0.01
    assert facts["agreement"] == 1
    assert facts["positions"] > facts["texts"] == 8
    model = done.output / "model"
    assert sorted(path.name for path in model.iterdir()) == sorted(path.name for path in (base / "model").iterdir())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (model / name).read_bytes() == (base / "model" / name).read_bytes()
    assert json.loads((model / "config.json").read_text())["dtype"] == "float32"
    assert (model / "model.safetensors").stat().st_size > 1.9 * (base / "model" / "model.safetensors").stat().st_size


@pytest.fixture(scope="module")
def quantized(tiny_inputs: dict[str, Path], stage: Callable[..., Path]) -> dict[str, Path]:
    """Return the inputs of a merge after a training of two random layers in NF4."""
    recipe = tiny_recipe(quantization="nf4", learning_rate=2e-4, steps=3)
    return {**tiny_inputs, "train": stage("merge-tiny-nf4", "train.py", tiny_inputs, recipe)}


def test_a_difference_beyond_the_limit_is_an_error(quantized: dict[str, Path], train_python: Path, run_program: Any, tmp_path: Path) -> None:
    done = merge(run_program, train_python, quantized, tmp_path, base="original", dtype="bfloat16", max_logit_difference=1e-6)
    assert done.code == 6, done.log[-3000:]
    assert "more than 1e-06" in done.error["message"]
    assert json.loads((done.output / "merge.json").read_text())["max_logit_difference"] < 1


@pytest.mark.long
def test_after_a_training_in_nf4_auto_takes_the_base_that_is_measured_nearer(
    quantized: dict[str, Path], train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    done = merge(run_program, train_python, quantized, tmp_path, base="auto", dtype="bfloat16", max_logit_difference=1.0)
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
    facts = json.loads((done.output / "merge.json").read_text())
    original, dequantised = facts["candidates"]["original"], facts["candidates"]["dequantised"]
    assert facts["onto"] == "dequantised" and dequantised["mean_kl"] < original["mean_kl"] / 10
    assert facts["delta_kept"] > 0.9
    assert facts["delta_kept_in_nf4"] < 0.5, "rounded to NF4 again, the base snaps back and takes the change with it"
    assert facts["compared"].startswith("logits") and facts["rows"]["tensors"] == 20 and facts["peak_memory"] < 1 << 30
    assert any("merged onto the dequantised base" in event.get("text", "") for event in done.events)
    assert not list((tmp_path / "scratch").glob("merged*")) and (done.output / "probes.jsonl").is_file()


@pytest.mark.long
def test_where_no_model_fits_rows_of_every_tensor_are_compared(
    quantized: dict[str, Path], train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    recipe = piece("merge", merge={"base": "original", "dtype": "bfloat16"})
    done = run_program(train_python, Path(__file__).with_name("merge_without_room.py"), quantized, recipe, tmp_path)
    assert done.code == 0, done.log[-3000:]
    facts = json.loads((done.output / "merge.json").read_text())
    assert facts["max_logit_difference"] is None and facts["compared"] == "rows" and "fit neither into memory" in facts["why"]
    assert facts["rows"]["weights"] > 100_000 and facts["rows"]["changed_tensors"] > 10
    assert (done.output / "tokens.jsonl").is_file() and not (done.output / "probes.jsonl").exists()
    contracts.check("merge", done.output, recipe)
    recipe["merge"]["base"] = "auto"
    refused = run_program(train_python, Path(__file__).with_name("merge_without_room.py"), quantized, recipe, tmp_path / "auto")
    assert refused.code == 4 and "set merge.base: original or dequantised" in refused.error["remedy"]


def test_a_base_stored_in_nf4_is_merged_onto_in_16_bits_and_only_when_asked(
    quantized: dict[str, Path], train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    script = str(Path(__file__).with_name("merge_stored_nf4.py"))
    subprocess.run((str(train_python), script, str(quantized["base"]), str(tmp_path / "stored")), check=True, capture_output=True)
    inputs = {**quantized, "base": tmp_path / "stored"}
    refused = merge(run_program, train_python, inputs, tmp_path / "original", base="original")
    assert refused.code == 3 and "merge.base: dequantised" in refused.error["remedy"]
    done = merge(run_program, train_python, inputs, tmp_path / "dequantised", base="dequantised", dtype="bfloat16")
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
    assert "quantization_config" not in json.loads((done.output / "model" / "config.json").read_text())
    assert json.loads((done.output / "merge.json").read_text())["agreement"] > 0.95


def test_what_was_not_trained_in_4_bits_has_no_dequantised_base(
    quantized: dict[str, Path], train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    recipe = {**piece("merge", merge={"base": "dequantised"}), "quantization": "none"}
    done = run_program(train_python, PROGRAMS / "merge.py", quantized, recipe, tmp_path)
    assert done.code == 3 and "was not trained in 4 bits" in done.error["message"]
