"""Killed in the middle, run again: the same set of files as a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import short_recipe

from toolkit.stages import ROOT

STAGES = ("base", "dataset", "train", "merge", "gguf")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo recipe with few steps, so that killing it in every stage takes minutes."""
    return short_recipe.write(tmp_path_factory.mktemp("recipe"), steps=6)


def command(recipe: Path, store: Path) -> list[str]:
    return [sys.executable, "-m", "toolkit.cli", "run", str(recipe), "--store", str(store), "--until", "gguf"]


def files(store: Path) -> set[tuple[str, ...]]:
    """Return the names of all that the stages left, without the ids."""
    found = ((stage, path) for stage in STAGES for folder in store.glob(f"{stage}-{'?' * 12}") for path in folder.rglob("*") if path.is_file())
    return {(stage, *path.relative_to(store).parts[1:]) for stage, path in found}


def started(store: Path, stage: str) -> bool:
    """Say whether a stage has begun its real work: the training when its first checkpoint is whole, any other when its program runs."""
    if stage == "train":
        return bool(list(store.glob(".scratch/train-*/**/trainer_state.json")))
    return any(not (place / "record.json").exists() for place in store.glob(f"{stage}-*"))


def kill_in(stage: str, recipe: Path, store: Path) -> None:
    """Run until `stage` is at work, then kill the whole process group."""
    process = subprocess.Popen(command(recipe, store), cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not started(store, stage):
        assert process.poll() is None, f"the run ended before it reached {stage}"
        time.sleep(0.05)
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
def test_a_run_killed_in_every_stage_ends_with_the_files_of_an_undisturbed_one(recipe, tmp_path, demo, store):
    for stage in STAGES:
        kill_in(stage, recipe, tmp_path)
        assert not list(tmp_path.glob(f"{stage}-*/record.json")), f"{stage} was sealed before it was killed"
    last = subprocess.run(command(recipe, tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stdout + last.stderr
    calm = files(store) - {("gguf", "model-q4_k_m.gguf")}  # the demo's, which nobody disturbed; the short recipe makes two files
    assert files(tmp_path) == calm and len(calm) > 20
    assert not any((tmp_path / ".scratch").iterdir())


@pytest.mark.long
def test_training_goes_on_from_its_last_checkpoint(recipe, tmp_path):
    kill_in("train", recipe, tmp_path)
    again = subprocess.run([*command(recipe, tmp_path)[:-1], "train"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resume" in again.stdout and "checkpoint" in again.stdout
