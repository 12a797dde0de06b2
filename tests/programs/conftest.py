"""Runs the stage programs as the local runner does, in their locked environments."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training import base, dataset, stage, tiny_inputs, trained

from toolkit.process import WAITING
from toolkit.runners.environment import Environment
from toolkit.runners.events import QUIET

__all__ = ["base", "dataset", "stage", "tiny_inputs", "trained"]
"""The fixtures that every module here may ask for."""


@dataclass(frozen=True)
class ProgramRun:
    """How a stage program ended: its exit code, the events it told and its log."""

    code: int
    events: list[dict[str, Any]]
    output: Path
    log: str

    @property
    def error(self) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "error")


@pytest.fixture(scope="session")
def train_python() -> Path:
    return Environment("train").install()


@pytest.fixture(scope="session")
def convert_python() -> Path:
    return Environment("convert").install()


def program_environment() -> dict[str, str]:
    """Return what the local runner gives a stage program."""
    return {**WAITING, **os.environ, **QUIET}


RunProgram = Callable[..., ProgramRun]


@pytest.fixture(scope="session")
def run_program() -> RunProgram:
    """run_program(python, program, inputs, recipe, folder) runs `program` with a fresh folder/output and the kept folder/scratch."""

    def run(python: Path, program: Path, inputs: dict[str, Path], recipe: dict[str, Any], folder: Path) -> ProgramRun:
        output, scratch = folder / "output", folder / "scratch"
        output.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        arguments = scratch / "args.json"
        places = {"output": str(output), "scratch": str(scratch)}
        arguments.write_text(json.dumps({"inputs": {k: str(v) for k, v in inputs.items()}, **places, "recipe": recipe}), encoding="utf-8")
        done = subprocess.run((str(python), str(program), str(arguments)), env=program_environment(), capture_output=True, text=True)
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"event"')]
        return ProgramRun(done.returncode, events, output, done.stderr)

    return run
