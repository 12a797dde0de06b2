"""Rows that share a sequence are trained as if each were alone, and packs hold every row once."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from training import PROGRAMS, losses, tiny_recipe

HERE = Path(__file__).parent


def compared(python: Path, inputs: dict[str, Path], *more: str) -> dict[str, float]:
    command = (str(python), str(HERE / "flat_losses.py"), str(inputs["base"] / "model"), str(inputs["dataset"] / "train.jsonl"), *more)
    done = subprocess.run(command, capture_output=True, text=True, env=program_environment())
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_row_sees_nothing_of_the_rows_beside_it(train_python: Path, tiny_inputs: dict[str, Path]) -> None:
    found = compared(train_python, tiny_inputs)
    assert found["flat"] == pytest.approx(found["alone"], rel=1e-5)
    assert found["state"] < 1e-4 and found["gradient"] < 1e-3 and found["gradients"] > 8
    assert abs(found["seeing"] - found["alone"]) > 1e-3 * found["alone"], "rows that see each other would not be noticed"


@pytest.mark.long
def test_logits_made_piece_by_piece_are_the_same_loss_and_gradients(train_python: Path, tiny_inputs: dict[str, Path]) -> None:
    whole, pieces = compared(train_python, tiny_inputs), compared(train_python, tiny_inputs, "20000")
    assert pieces["alone"] == pytest.approx(whole["alone"], rel=1e-5)
    assert pieces["flat"] == pytest.approx(whole["flat"], rel=1e-5) and pieces["gradient"] < 1e-3


@pytest.fixture(scope="module")
def padded(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(), tmp_path_factory.mktemp("padded"))
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
    return done


def test_without_padding_the_losses_are_those_with_it(padded: Any, train_python: Path, run_program: Any, tiny_inputs: Any, tmp_path: Path) -> None:
    recipe = tiny_recipe(packing="padding_free")
    flat = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, recipe, tmp_path)
    assert flat.code == 0, flat.log[-3000:]
    assert losses(flat.output) == pytest.approx(losses(padded.output), abs=1e-4)


def test_packs_are_full_and_hold_every_row(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    recipe = tiny_recipe(packing="packed", batch_size=1, gradient_accumulation=1, steps=30)
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, recipe, tmp_path)
    assert done.code == 0, done.log[-3000:]
    (text,) = [event["text"] for event in done.events if event["event"] == "note" and "packs" in event["text"]]
    rows, packs = int(text.split()[0]), int(text.split(" in ")[1].split()[0])
    tokens = [json.loads(line)["tokens"] for line in (done.output / "metrics.jsonl").read_text().splitlines()]
    assert rows == 24 and 1 < packs < rows / 2
    assert sum(tokens[:packs]) == sum(tokens[packs : 2 * packs]) and max(tokens) <= recipe["max_length"]
    assert sum(tokens[:packs]) > 0.8 * packs * recipe["max_length"]


def test_a_window_shorter_than_the_rows_is_refused(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_inputs["base"], tmp_path / "base")
    config = json.loads((base / "model" / "config.json").read_text())
    changed = {**config, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64}
    (base / "model" / "config.json").write_text(json.dumps(changed))
    done = run_program(train_python, PROGRAMS / "train.py", {**tiny_inputs, "base": base}, tiny_recipe(packing="packed"), tmp_path / "run")
    assert done.code == 3, done.log[-3000:]
    assert "64 tokens back" in done.error["message"] and "packing: none" in done.error["remedy"]
