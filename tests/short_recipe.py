"""The demo's recipe made shorter, its data beside it: few steps for what kills and resumes a chain, few questions for what verifies often."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
QUESTIONS = 12
"""Held-out questions that `ask_less` leaves of the demo's 50."""


def write(folder: Path, steps: int) -> Path:
    """Write it, with a checkpoint at every other step; return its path."""
    tiny = _demo(folder)
    tiny["name"] = "tiny"
    tiny["train"] |= {"steps": steps, "batch_size": 4, "checkpoint_steps": 2}
    tiny["merge"]["max_logit_difference"] = 3.0  # a few steps at the demo's rate leave logits that rounding moves further
    tiny["gguf"] = {"types": ["f16", "q8_0"], "max_kl": {}}
    tiny["modelfile"]["gguf"] = "q8_0"
    return _written(folder / "tiny.yml", tiny)


def ask_less(folder: Path) -> Path:
    """Write the demo itself with a quarter of its questions: all steps up to the servers are the demo's own. Return its path."""
    demo = _demo(folder)
    demo["verify"]["task"] |= {"questions": QUESTIONS, "base_questions": 5}
    return _written(folder / DEMO.name, demo)


def _demo(folder: Path) -> dict[str, Any]:
    folder.chmod(0o755)  # pytest's folders are closed to the containers' user
    shutil.copytree(DEMO.parent / "data", folder / "data")
    return dict(yaml.safe_load(DEMO.read_text(encoding="utf-8")))


def _written(path: Path, recipe: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
