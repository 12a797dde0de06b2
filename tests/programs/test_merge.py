"""The merge stage: the merged model answers as base and adapter do, and a limit that it breaks is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training import PROGRAMS, piece


def merge(run_program: Any, python: Path, inputs: dict[str, Path], folder: Path, **wanted: Any) -> Any:
    return run_program(python, PROGRAMS / "merge.py", inputs, piece("merge", merge=wanted), folder)


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


def test_a_difference_beyond_the_limit_is_an_error(
    base: Path, dataset: Path, trained: Path, train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    inputs = {"base": base, "dataset": dataset, "train": trained}
    done = merge(run_program, train_python, inputs, tmp_path, dtype="bfloat16", max_logit_difference=1e-6)
    assert done.code == 6, done.log[-3000:]
    assert "more than 1e-06" in done.error["message"]
    assert json.loads((done.output / "merge.json").read_text())["max_logit_difference"] < 1
