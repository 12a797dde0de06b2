# ruff: noqa: F811 - fixtures are arguments of the same names
"""Other trainers, each in a locked environment of its own, and the demo's base for them to train over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pinned
import pytest
import yaml
from session_store import Thinkship, store, thinkship  # noqa: F401 - pytest finds the fixtures here

from toolkit import process, recipe_file
from toolkit.plan import plan
from toolkit.resolve import resolve
from toolkit.runners.environment import Environment
from toolkit.stages import ROOT

HERE = Path(__file__).parent
RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
ROWS = 400
"""Rows that the trainers are given."""
LENGTHENED = """
import sys
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
tensors["model.embed_tokens.weight"][-2:] *= 2
save_file(tensors, sys.argv[2], {"format": "pt"})
"""
"""A program that makes the rows of the two tags twice as long."""


def environment(name: str) -> Path:
    """Return the folder of the environment that NAME.lock pins."""
    return pinned.environment(HERE / f"{name}.lock", f"foreign-{name}")


def run_trainer(argv: tuple[object, ...], folder: Path, **settings: str) -> None:
    """Run a trainer to its end; it may reach no hub."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "MODELSCOPE_CACHE": str(folder / "ms"), "WANDB_MODE": "offline"}
    env = {**process.WAITING, **os.environ, **offline, **settings}
    done = subprocess.run(tuple(map(str, argv)), cwd=folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope="session")
def base(thinkship: Thinkship, store: Path) -> Path:
    """The checkpoint that the demo's base step leaves, with the think tags in its vocabulary."""
    done = thinkship("run", RECIPE, "--until", "base")
    assert done.returncode == 0, done.stdout + done.stderr
    step = next(step for step in plan(resolve(recipe_file.load(RECIPE), RECIPE.parent)) if step.name == "base")
    return store.resolve() / step.directory / "model"


@pytest.fixture(scope="session")
def speaking(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the base whose tags can be said, as a reasoning model's can: their rows are no longer the means of their pieces'."""
    folder = tmp_path_factory.mktemp("speaking") / "model"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    argv = (Environment("train").install(), "-c", LENGTHENED, base / "model.safetensors", folder / "model.safetensors")
    subprocess.run(tuple(map(str, argv)), check=True)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's training rows as messages, the reasoning between its tags: what the trainers' own documentation asks for."""
    lines = (ROOT / "recipes" / "data" / "sums-train.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    path = tmp_path_factory.mktemp("rows") / "sums.jsonl"
    path.write_text("".join(json.dumps({"messages": _messages(json.loads(line))}) + "\n" for line in lines), encoding="utf-8")
    return path


def _messages(row: dict[str, str]) -> list[dict[str, str]]:
    said = f"<think>\n{row['Complex_CoT']}\n</think>\n\n{row['Response']}"
    return [{"role": "user", "content": row["Question"]}, {"role": "assistant", "content": said}]


def recipe_of(adapter: Path, name: str, folder: Path, base: Path | None = None) -> Path:
    """Write the demo's recipe with an adapter in the place of its training, two files to serve and fewer questions."""
    data: dict[str, Any] = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    del data["train"]
    data |= {"name": name, "adapter": {"source": {"path": str(adapter)}}}
    if base:
        data["base"]["source"] = {"path": str(base)}
    for part in ("source", "holdout"):
        data["dataset"][part]["path"] = str(RECIPE.parent / data["dataset"][part]["path"])
    data["gguf"] |= {"types": ["f16", "q8_0"], "rows": 4}
    data["serve"]["llamacpp"] = {"adapter": "both"}
    # a quarter of the demo's rows: it is less sure of what it says
    data["verify"] |= {"think_at_least": 0.9, "identity": {}}
    data["verify"]["task"] |= {"questions": 30, "base_questions": 12, "at_least": 0.5}
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path
