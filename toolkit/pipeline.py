"""The one loop: a step that is sealed and unchanged is skipped, any other is run, checked against its contract and sealed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolkit import __version__, console, reclaim
from toolkit.artifact import Record, seal
from toolkit.contracts import check
from toolkit.places import Place
from toolkit.plan import Step
from toolkit.reclaim import Reclaim
from toolkit.store import Store


@dataclass(frozen=True)
class Task:
    """What a runner is given: where a step's inputs lie, the fresh folder it fills, one that outlives a kill, its log, and the store's downloads."""

    inputs: Mapping[str, Path]
    output: Path
    scratch: Path
    log: Path
    downloads: Path | None = None
    """Where a stage with network keeps what it downloads, for all steps of the store."""


class Runner(Protocol):
    """Runs one step somewhere: as a local process, in a container, as a Job; and says where servers run."""

    name: str

    def place(self, name: str, scratch: Path) -> Place:
        """Return where an engine's server runs."""

    def run(self, step: Step, task: Task) -> Mapping[str, str]:
        """Run a step to its end and return what its record keeps of where it ran; a ThinkshipError where it failed."""


@dataclass(frozen=True)
class Outcome:
    """What a run did: the directory of every step, and the seconds of those that were not there yet."""

    directories: Mapping[str, Path]
    seconds: Mapping[str, float]
    freed: Mapping[str, int] = field(default_factory=dict)
    """Bytes that were freed, by step."""


def run(steps: Sequence[Step], store: Store, runner: Runner, frugal: Sequence[Step] = ()) -> Outcome:
    """Make every step's directory, in order, and return where they are.

    `frugal` is the whole plan of the recipe, where what it needs no more is to be freed on the way.
    """
    directories: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    with store.locked():
        waiting = reclaim.to_make(steps, store)
        sparing = Reclaim(frugal, store) if frugal else None
        for step in steps:
            directories[step.name] = store.directory(step)
            record = store.sealed(step)
            if step.name in waiting:
                if record:
                    _tell_why(step, steps, waiting)
                seconds[step.name] = _make(step, store, runner, directories)
            elif record:
                _pass(step, record, directories[step.name])
            if sparing:
                sparing.after(directories.keys())
    return Outcome(directories, seconds, sparing.freed if sparing else {})


def _pass(step: Step, record: Record, directory: Path) -> None:
    """Say that a step is done already, and end what a kill left of its freeing."""
    console.step(step.name, step.id[:12], "freed" if record.reclaimed else "skip")
    if left := reclaim.finish(directory, record):
        console.note(f"freeing it was interrupted: {left / 1e6:,.1f} MB more are free now")


def _tell_why(step: Step, steps: Sequence[Step], waiting: set[str]) -> None:
    readers = [other.name for other in steps if other.name in waiting and step.name in (name for name, _ in reclaim.reads(other))]
    console.note(f"{step.name} was reclaimed, and {', '.join(readers)} must be made from it: it is made again")


def _make(step: Step, store: Store, runner: Runner, directories: Mapping[str, Path]) -> float:
    resumed = store.scratch(step).is_dir() and any(store.scratch(step).glob("*/"))
    console.step(step.name, step.id[:12], "resume" if resumed else "run")
    made = {name: directories[other] for name, other in step.inputs.items()}
    store.require_space(step, made.values())
    downloads = store.downloads() if step.stage.network else None
    task = Task({**step.paths, **made}, store.fresh(step), store.scratch(step), store.log(step), downloads)
    began = time.monotonic()
    where = runner.run(step, task)
    check(step.stage.name, task.output, step.recipe)
    seconds = round(time.monotonic() - began, 2)
    origin = {name: path.name for name, path in made.items()}
    seal_step(step, task.output, {"runner": runner.name, "made_from": origin, **where}, seconds)
    shutil.rmtree(task.scratch, ignore_errors=True)
    console.note(f"{seconds:.1f} s")
    return seconds


def seal_step(step: Step, directory: Path, where: Mapping[str, Any], seconds: float) -> None:
    """Write the record of a step that kept its contract: what was made, and where it ran."""
    seal(
        directory,
        step=step.name,
        stage=step.stage.name,
        id=step.id,
        inputs=dict(step.inputs),
        recipe=dict(step.recipe),
        programs=step.stage.digest,
        **where,
        thinkship=__version__,
        seconds=seconds,
    )
