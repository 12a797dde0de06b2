"""Runs the stage programs as the local runner does, in their locked environments."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training import base, dataset, once, stage, tiny_inputs, trained

from toolkit.process import WAITING
from toolkit.runners.environment import Environment
from toolkit.runners.events import QUIET

__all__ = ["base", "dataset", "once", "stage", "tiny_inputs", "trained"]
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
    return {**WAITING, **{name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}, **QUIET}


LOADED = {"train": ("torch", "datasets", "transformers.models.auto.modeling_auto", "peft", "trl.trainer.sft_trainer"), "convert": ("torch",)}
"""What the rooms' slow programs import, by room."""


class Forking:
    """A room's interpreter with its packages loaded (forking.py), for the programs that run in the environment it was started in."""

    def __init__(self, python: Path, packages: tuple[str, ...]) -> None:
        self.environment = program_environment()
        argv = (str(python), str(Path(__file__).with_name("forking.py")), *packages)
        self.process = subprocess.Popen(argv, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *problem: object) -> None:
        self.process.communicate()

    def run(self, argv: tuple[str, ...], folder: Path) -> tuple[int, str, str]:
        """Run a program; return its exit code and what it wrote to its two streams."""
        assert self.process.stdin and self.process.stdout
        streams = {name: folder / name for name in ("stdout", "stderr")}
        for path in streams.values():
            path.write_bytes(b"")
        self.process.stdin.write(json.dumps({"argv": argv, **{name: str(path) for name, path in streams.items()}}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, *(path.read_text(encoding="utf-8") for path in streams.values())


@pytest.fixture(scope="session")
def forking() -> Iterator[Callable[[Path], Forking | None]]:
    """forking(python) is the room's loaded interpreter; None for rooms that have none, and where a test has changed the environment."""
    started: dict[Path, Forking] = {}
    rooms = {Environment(name).python: packages for name, packages in LOADED.items()}
    with ExitStack() as stack:

        def of(python: Path) -> Forking | None:
            if python not in started and python in rooms:
                started[python] = stack.enter_context(Forking(python, rooms[python]))
            found = started.get(python)
            return found if found and found.environment == program_environment() else None

        yield of


RunProgram = Callable[..., ProgramRun]


@pytest.fixture(scope="session")
def run_program(forking: Callable[[Path], Forking | None], tmp_path_factory: pytest.TempPathFactory) -> RunProgram:
    """run_program(python, program, inputs, recipe, folder) runs `program` with a fresh folder/output and the kept folder/scratch."""

    def run(python: Path, program: Path, inputs: dict[str, Path], recipe: dict[str, Any], folder: Path) -> ProgramRun:
        output, scratch = folder / "output", folder / "scratch"
        output.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(exist_ok=True)
        arguments = scratch / "args.json"
        places = {"output": str(output), "scratch": str(scratch)}
        arguments.write_text(json.dumps({"inputs": {k: str(v) for k, v in inputs.items()}, **places, "recipe": recipe}), encoding="utf-8")
        if loaded := forking(python):
            code, said, log = loaded.run((str(program), str(arguments)), tmp_path_factory.mktemp("streams"))
        else:
            done = subprocess.run((str(python), str(program), str(arguments)), env=program_environment(), capture_output=True, text=True)
            code, said, log = done.returncode, done.stdout, done.stderr
        events = [json.loads(line) for line in said.splitlines() if line.startswith('{"event"')]
        return ProgramRun(code, events, output, log)

    return run


@pytest.fixture(scope="session")
def imported(train_python: Path, tiny_inputs: dict[str, Path], once: Callable[..., Path]) -> Path:
    """Return the folder in which every case of adapters.py was made and imported."""
    script = str(Path(__file__).with_name("adapters.py"))

    def make(folder: Path) -> None:
        argv = (str(train_python), script, str(tiny_inputs["base"]), str(folder))
        done = subprocess.run(argv, capture_output=True, text=True, env=program_environment())
        assert done.returncode == 0, done.stderr[-3000:]

    return once("adapters", make)
