"""The training room's stages on the real small base, each made once a test session."""

from __future__ import annotations

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


def base_inputs() -> dict[str, Path]:
    return {"modelfiles": MODELFILES, "recipe_dir": RECIPES}


@pytest.fixture(scope="session")
def stage(train_python: Path, run_program: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """stage(name, program, inputs, recipe) runs a stage the first time it is asked for, and returns its directory."""

    def made(name: str, program: str, inputs: dict[str, Path], recipe: dict[str, Any]) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"stage-{name}"  # shared by all modules that import the fixture
        if not (folder / "done").exists():
            done = run_program(train_python, PROGRAMS / program, inputs, recipe, folder)
            assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
            (folder / "done").touch()
        return folder / "output"

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
