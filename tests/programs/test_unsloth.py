"""The engine unsloth on a CPU, which it can be forced to: the same rows, loss, evaluation, checkpoints and adapter as with trl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from training import PROGRAMS, losses, tiny_recipe

from toolkit.runners.environment import Environment

pytestmark = pytest.mark.long  # an environment of its own, gigabytes

THINK = {"open": "<think>", "close": "</think>", "add_tokens": False}


@pytest.fixture(scope="module")
def unsloth_python() -> Path:
    return Environment("train", "unsloth.lock").install()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSLOTH_FORCE_CPU", "1")


def recipe(engine: str, **changes: Any) -> dict[str, Any]:
    return {**tiny_recipe(engine=engine, eval_steps=3, **changes), "think": THINK}


def test_the_losses_are_those_of_trl(
    forced: None, unsloth_python: Path, train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    found = {}
    for engine, python in (("unsloth", unsloth_python), ("trl", train_python)):
        done = run_program(python, PROGRAMS / "train.py", tiny_inputs, recipe(engine), tmp_path / engine)
        assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
        found[engine] = losses(done.output)
        config = json.loads((done.output / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny" and config["r"] == 4
    # the adapters start at other random values
    assert found["unsloth"][0] == pytest.approx(found["trl"][0], abs=1e-3)
    assert found["unsloth"][-1] == pytest.approx(found["trl"][-1], rel=0.2)


def test_a_checkpoint_is_gone_on_from(forced: None, unsloth_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    whole = run_program(unsloth_python, PROGRAMS / "train.py", tiny_inputs, recipe("unsloth", checkpoint_steps=3), tmp_path)
    assert whole.code == 0, whole.log[-3000:]
    before = losses(whole.output)
    os.rename(tmp_path / "output", tmp_path / "first")
    for path in (tmp_path / "scratch").glob("checkpoint-6"):
        (path / "complete").unlink()
    again = run_program(unsloth_python, PROGRAMS / "train.py", tiny_inputs, recipe("unsloth", checkpoint_steps=3), tmp_path)
    assert again.code == 0, again.log[-3000:]
    assert any(event.get("text") == "goes on from checkpoint-3" for event in again.events)
    assert losses(again.output) == pytest.approx(before, abs=1e-5)


def test_packing_on_a_cpu_is_refused(forced: None, unsloth_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    done = run_program(unsloth_python, PROGRAMS / "train.py", tiny_inputs, recipe("unsloth", packing="packed"), tmp_path)
    assert done.code == 3, done.log[-3000:]
    assert "pack on a CPU" in done.error["message"]


def test_without_a_gpu_it_is_refused(unsloth_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    done = run_program(unsloth_python, PROGRAMS / "train.py", tiny_inputs, recipe("unsloth"), tmp_path)
    assert done.code == 4, done.log[-3000:]
    assert "NVIDIA GPU" in done.error["message"] and "train.engine: trl" in done.error["remedy"]
