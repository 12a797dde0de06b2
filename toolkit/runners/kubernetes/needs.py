"""What a step asks a node for: GPUs where it computes with torch, and memory where toolkit/fit knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.fit import review, storage, training
from toolkit.fit.review import Case
from toolkit.recipe import Recipe
from toolkit.stages import IMPORTED, STAGES

GPU = "nvidia.com/gpu"
COMPUTING = ("train", "merge", "reference", "compress")
"""Stages that use a GPU where there is one; base, dataset and an import only read and write."""
LEAST = 512 << 20
"""Bytes that a stage's interpreter with torch takes before it has work."""


@dataclass(frozen=True)
class Needs:
    """What a step asks for."""

    gpus: int = 0
    memory: int = LEAST
    """Bytes of the node's own memory."""

    def resources(self) -> dict[str, Any]:
        """Return them as a container states them: memory is asked for, not limited, since it is a least."""
        asked: dict[str, Any] = {"requests": {"memory": f"{-(-self.memory >> 20)}Mi"}}
        return asked | ({"limits": {GPU: str(self.gpus)}} if self.gpus else {})


def needs(recipe: Recipe, folder: Path, gpu: bool) -> Mapping[str, Needs]:
    """Return what each stage of a recipe asks for, by its program."""
    gpus = {name: (recipe.train.processes if name == "train" and recipe.train else 1) if gpu else 0 for name in COMPUTING}
    known = _memory(review.here(recipe, folder), gpu)
    found = {stage.program: Needs(gpus.get(name, 0), max(LEAST, known.get(name, 0))) for name, stage in STAGES.items()}
    return found | {IMPORTED.program: Needs()}


def _memory(case: Case | None, gpu: bool) -> dict[str, int]:
    """Return the least memory by stage, nothing for a base of unknown shape."""
    if case is None:
        return {}
    shape = case.base.shape
    found = {"merge": float(storage.MERGE_MEMORY)}
    if case.recipe.train:
        adapter = training.adapter_parameters(shape, training.Training.of_recipe(case.recipe))
        found["reference"] = 4.0 * (shape.parameters + adapter)
        if not gpu:
            found["train"] = storage.training_memory(case.base, case.recipe)
    return {name: int(size) for name, size in found.items()}
