"""The training room's stages on the real small base, each made once a test session."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit import recipe_file
from toolkit.recipe import Recipe
from toolkit.stages import MODELFILES, ROOT, STAGES

PROGRAMS = ROOT / "images" / "train"
RECIPES = ROOT / "recipes"
DEMO = recipe_file.load(RECIPES / "smollm2-demo.yml")
SHORT = {"steps": 6, "batch_size": 2, "gradient_accumulation": 1, "warmup_steps": 1, "checkpoint_steps": 2}
"""A training of seconds."""


def piece(stage: str, **changes: Any) -> dict[str, Any]:
    """Return the slice of the demo's recipe that a stage sees, with changes one or two levels deep."""
    found = STAGES[stage].slice(Recipe.model_validate(DEMO.model_dump()))
    for name, value in changes.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return found


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """Return the recipe of a training of two random layers (the fixture tiny_inputs): no real model, seconds."""
    quick = {"quantization": "none", "learning_rate": 5e-3, "steps": 6, "batch_size": 4, "gradient_accumulation": 2, "checkpoint_steps": 100}
    lora = {"rank": 4, "alpha": 8, "dropout": 0.0}
    return piece("train", max_length=512, train={**quick, "lora": {**DEMO.train.lora.model_dump(mode="json"), **lora}, **changes})


def losses(folder: Path) -> list[float]:
    """Return the losses that a training left, in order."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def base_inputs() -> dict[str, Path]:
    return {"modelfiles": MODELFILES, "recipe_dir": RECIPES}


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """once(name, make) calls make(folder) the first time that a test of any worker asks for this name; making makes the folder."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, ended = shared / f"once-{name}", shared / f"once-{name}.done"
        with (shared / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be at it
            if not ended.exists():
                make(folder)
                ended.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def stage(train_python: Path, run_program: Callable[..., Any], once: Callable[..., Path]) -> Callable[..., Path]:
    """stage(name, program, inputs, recipe) runs a stage once a test session and returns its directory."""

    def made(name: str, program: str, inputs: dict[str, Path], recipe: dict[str, Any]) -> Path:
        def make(folder: Path) -> None:
            done = run_program(train_python, PROGRAMS / program, inputs, recipe, folder)
            assert done.code == 0, done.log[-3000:] + str(done.events[-1:])

        return once(name, make) / "output"

    return made


@pytest.fixture(scope="session")
def base(stage: Callable[..., Path]) -> Path:
    return stage("base", "fetch_base.py", base_inputs(), piece("base"))


@pytest.fixture(scope="session")
def dataset(stage: Callable[..., Path], base: Path) -> Path:
    return stage("dataset", "prepare_dataset.py", {"base": base, "recipe_dir": RECIPES}, piece("dataset"))


@pytest.fixture(scope="session")
def trained(stage: Callable[..., Path], base: Path, dataset: Path) -> Path:
    return stage("train", "train.py", {"base": base, "dataset": dataset}, piece("train", train=SHORT))


@pytest.fixture(scope="session")
def tiny_inputs(train_python: Path, once: Callable[..., Path]) -> dict[str, Path]:
    """Return a base and a dataset of 24 rows, as the stages leave them, for two random layers."""
    script = Path(__file__).with_name("tiny_inputs.py")
    folder = once("tiny-inputs", lambda folder: subprocess.run((str(train_python), str(script), str(folder), "24"), check=True, capture_output=True))
    return {name: folder / name for name in ("base", "dataset")}
