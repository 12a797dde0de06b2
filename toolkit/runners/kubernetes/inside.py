"""What runs in the pods, in the verify image: `python -m toolkit.runners.kubernetes.inside look|open|host|seal|begin|keep STORE …`.

`look` tells which steps of a plan are sealed. `open` makes a step's fresh directory and its args.json, `seal` holds what the stage left against its
contract and writes the record: the same code as on any machine, under the store's own lock.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from toolkit import console, pipeline, reclaim
from toolkit.artifact import read_record
from toolkit.contracts import check
from toolkit.errors import FailedError, NotReadyError, ThinkshipError
from toolkit.host import HOST_STAGES
from toolkit.pipeline import Task
from toolkit.places import Place
from toolkit.runners.events import write_arguments
from toolkit.runners.kubernetes import assignment, belongings
from toolkit.runners.kubernetes.assignment import RECIPE, TEMPLATES, Assignment
from toolkit.runners.kubernetes.hold import PATIENCE
from toolkit.runners.kubernetes.place import GIVEN, TOLD
from toolkit.stages import MODELFILES
from toolkit.store import OWNER, Store

SEALED = GIVEN / "sealed"


def look(store: Store) -> None:
    """Tell of each step of a plan whether it is sealed, freed or to be made, and whether the recipe's own files are there.

    NotReadyError where the volume cannot be written, BrokenError where a sealed file was touched.
    """
    _require_writable(store.root)
    told = assignment.read(TOLD)
    steps = [one.step() for one in told]
    for step in steps:
        store.sealed(step)
    waiting = reclaim.to_make(steps, store)
    for step in steps:
        record = read_record(store.directory(step))
        state = "make" if step.name in waiting else "freed" if record and record.reclaimed else "sealed"
        _emit("step", step=step.name, state=state, again=bool(record and step.name in waiting))
    for given in sorted({one.given for one in told if one.given}):
        _emit("given", folder=given, there=(store.root / given).is_dir())


def open_(store: Store) -> None:
    """Begin a step, unless it is sealed: NotReadyError where its inputs are not, or room is missing."""
    (told,) = assignment.read(TOLD)
    step, task = told.step(), _task(store, told)
    with _locked(store):
        record = store.sealed(step)
        if record and not told.again:
            SEALED.touch()
            _emit("note", text="sealed meanwhile")
            return
        for name, directory in told.made.items():
            if not (store.root / directory / "record.json").is_file():
                raise NotReadyError(f"{step.name}: its input {name} ({directory}) is not on the volume", "the same command again makes it")
        resumed = any(store.scratch(step).glob("*/"))
        store.require_space(step, [store.root / directory for directory in told.made.values()])
        store.fresh(step)
        if step.stage.network:
            store.downloads()
        if TEMPLATES in told.paths:
            shutil.copytree(MODELFILES, GIVEN / TEMPLATES, dirs_exist_ok=True)
        write_arguments(step, task)
        _own(store, told)
    if resumed:
        _emit("note", text="goes on from what an earlier pod left")


def host(store: Store) -> None:
    """Run a stage of the host package; hold.py has the lock."""
    (told,) = assignment.read(TOLD)
    HOST_STAGES[told.stage](told.recipe, _task(store, told), _nowhere)


def seal(store: Store) -> None:
    """Check what a stage left and write its record; BrokenError where it breaks its contract. hold.py has the lock."""
    (told,) = assignment.read(TOLD)
    step, task = told.step(), _task(store, told)
    began = json.loads((store.scratch(step) / OWNER).read_text(encoding="utf-8"))["began"]
    check(step.stage.name, task.output, step.recipe)
    seconds = round(max(0.0, time.time() - began), 2)
    where = {"runner": "kubernetes", "made_from": dict(told.made), **({"image": told.image} if told.image else {})}
    pipeline.seal_step(step, task.output, where, seconds)
    shutil.rmtree(task.scratch, ignore_errors=True)
    _emit("note", text=f"{seconds:.1f} s")


def begin(store: Store, growing: str, paths: str) -> None:
    """Make room for a recipe's own files."""
    belongings.begin(store.root, growing, _paths(paths))


def keep(store: Store, growing: str, given: str, paths: str, expected: str) -> None:
    """Take a recipe's own files for whole; errors as belongings.keep."""
    belongings.keep(store.root, growing, given, _paths(paths), expected)


def _require_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        message = f"user {os.getuid()} of the pods cannot write on the volume: {error.strerror}"
        raise NotReadyError(message, "a volume that takes fsGroup, or one whose folder belongs to that user") from error


def _paths(text: str) -> dict[str, Path]:
    return {path: Path(path) for path in json.loads(text)}


def _task(store: Store, told: Assignment) -> Task:
    step = told.step()
    inputs = {name: store.root / directory for name, directory in told.made.items()}
    places = {RECIPE: store.root / told.given if told.given else GIVEN, TEMPLATES: GIVEN / TEMPLATES}
    inputs = {**{name: places[name] for name in told.paths}, **inputs}
    downloads = store.root / ".downloads" if step.stage.network else None
    return Task(inputs, store.directory(step), store.scratch(step), store.log(step), downloads)


def _own(store: Store, told: Assignment) -> None:
    """Say that this pod has the step."""
    text = json.dumps({"pod": os.environ["POD_UID"], "began": time.time()})
    (store.scratch(told.step()) / OWNER).write_text(text, encoding="utf-8")


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """Hold the store, after a wait for the pod before this one, which may be about to end; NotReadyError where another run keeps it."""
    end = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(store.locked())
                break
            except NotReadyError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > end:
                    raise
                time.sleep(0.5)
        yield


def _nowhere(name: str, scratch: Path) -> Place:
    raise FailedError(f"no server of {name} runs in a Job", "--until modelfile")


def _emit(event: str, **fields: Any) -> None:
    console.emit(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")


VERBS: dict[str, Callable[..., None]] = {"look": look, "open": open_, "host": host, "seal": seal, "begin": begin, "keep": keep}


def main(verb: str, root: str, *words: str) -> int:
    """Do one of them and return its exit code; an error is told as stage programs tell it."""
    try:
        VERBS[verb](Store(Path(root)), *words)
    except ThinkshipError as error:
        _emit("error", message=error.message, remedy=error.remedy)
        return error.exit_code
    except OSError as error:
        if error.errno != 28:  # ENOSPC is the one the user can mend
            raise
        _emit("error", message=f"no space left on the volume: {error.filename or 'while writing'}", remedy="enlarge the claim or free space on it")
        return NotReadyError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
