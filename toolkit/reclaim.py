"""Frees intermediates as soon as nothing of the plan needs them: what a step reads of another's weights, what may go, and how it goes.

Freed are files with weights that no server of the tuned model is given: the merged checkpoint, GGUF files. Never an input, an adapter, what is
served or a report; a step keeps its small files, which tell later steps of the model, and its record with every checksum.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

from toolkit import console
from toolkit.artifact import FileEntry, Record, read_record, write_record
from toolkit.errors import NotReadyError, ThinkshipError
from toolkit.plan import Step
from toolkit.stages import STAGES
from toolkit.store import Store
from toolkit.variants import is_apart, quantization

CHECKPOINT = "model/*.safetensors"
FREEABLE = {"merge": CHECKPOINT, "gguf": "model-*.gguf"}
"""The files that may go of a stage's directory."""
JOURNAL = "reclaimed.jsonl"
"""Beside the steps' logs: a line for each time that files were freed."""
Read = tuple[str, str]
"""The name of a step and the pattern of its files that are read."""


def reads(step: Step) -> tuple[Read, ...]:
    """Return whose weights a step reads, of those that may be freed at all."""
    match step.stage.name:
        case "gguf" | "compress":
            return ((step.inputs["model"], CHECKPOINT),)
        case "serve":
            return (_served(step),)
        case _:
            return ()


def _served(step: Step) -> Read:
    """Return what a serve step gives its engine (toolkit/targets.py)."""
    variant = step.recipe["variant"]
    if "gguf" in step.inputs:
        return step.inputs["gguf"], f"model-{quantization(variant)}.gguf"
    return step.inputs["base"] if is_apart(variant) else step.inputs.get("checkpoint", step.inputs["model"]), CHECKPOINT


def to_make(steps: Sequence[Step], store: Store) -> set[str]:
    """Return the steps that must be made: those that are not sealed, and the reclaimed ones whose files one of these reads."""
    waiting: set[str] = set()
    wanted: list[Read] = []
    for step in reversed(steps):
        record = read_record(store.directory(step))
        if record is None or _matching(record.freed, [pattern for name, pattern in wanted if name == step.name]):
            waiting.add(step.name)
            wanted += reads(step)
    return waiting


def require(store: Store, step: Step, steps: Iterable[Step]) -> None:
    """Raise NotReadyError where the files that `step` reads of sealed `steps` were freed."""
    for name, pattern in reads(step):
        for other in (other for other in steps if other.name == name):
            record, directory = read_record(store.directory(other)), store.directory(other)
            gone = _matching(record.freed, [pattern]) if record else ()
            if record and gone:
                message = f"{directory} was reclaimed: {_told(record, gone)} went with `run --reclaim`, and {step.name} needs them"
                raise NotReadyError(message, f"rm -r {directory}, then thinkship run RECIPE --store {store.root}: it is made again from what is kept")


@dataclass
class Reclaim:
    """The frugal half of one run: after each step it frees what the rest of the whole plan needs no more."""

    plan: Sequence[Step]
    """All steps of the recipe, those that this run does not come to as well."""
    store: Store

    def __post_init__(self) -> None:
        self.kept = [read for step in self.plan if step.stage.name == "serve" and not step.recipe["base"] for read in reads(step)]
        self.freed: dict[str, int] = {}

    def after(self, sealed: Collection[str]) -> None:
        """Free what the steps in `sealed`, which this run has come to, hold for nobody."""
        waiting = to_make(self.plan, self.store)  # anew each time: a step that is sealed and reclaimed may be among them
        needed = self.kept + [read for step in self.plan if step.name in waiting for read in reads(step)]
        for step in self.plan:
            pattern = FREEABLE.get(step.stage.name)
            record = read_record(self.store.directory(step)) if pattern and step.name in sealed else None
            if not pattern or record is None:
                continue
            mine = [other for name, other in needed if name == step.name]
            freeable = _matching([file.path for file in record.held], [pattern])
            if paths := [path for path in freeable if not _matching([path], mine)]:
                self.freed[step.name] = self.freed.get(step.name, 0) + self._free(step, record, paths)

    def _free(self, step: Step, record: Record, paths: list[str]) -> int:
        others = sorted(_others(self.store, step, {other.directory for other in self.plan}, paths))
        free(self.store.directory(step), record, paths)
        console.note(f"reclaimed of {step.name}: {_told(record, paths)}")
        if others:
            console.note(f"another plan read them too ({', '.join(others)}): to serve or to run that again, {step.name} must be made again")
        size = sum(entry.size for entry in _entries(record, paths))
        line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "directory": step.directory, "files": paths, "bytes": size, "others": others}
        self.store.log(step).parent.mkdir(parents=True, exist_ok=True)
        with (self.store.log(step).parent / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        return size


def free(directory: Path, record: Record, paths: Iterable[str]) -> None:
    """Remove files of a sealed directory. The record says so first: killed in between, a directory holds files that its record gave up."""
    written = record.model_copy(update={"reclaimed": True, "freed": (*record.freed, *paths)})
    write_record(directory, written)
    finish(directory, written)


def finish(directory: Path, record: Record) -> int:
    """Remove what the record gave up and is still there, after a kill; return its bytes."""
    left = [path for name in record.freed if (path := directory / name).is_file()]
    size = sum(path.stat().st_size for path in left)
    for path in left:
        path.unlink()
    return size


def _others(store: Store, step: Step, known: set[str], paths: list[str]) -> Iterator[str]:
    """Yield the sealed directories outside of this plan that were made from these files."""
    for place in store.root.glob("*/record.json"):
        try:
            record = read_record(place.parent)
        except ThinkshipError:  # a damaged record is told to whoever needs that directory
            continue
        if record is None or place.parent.name in known or record.stage not in STAGES or step.directory not in record.made_from.values():
            continue
        made = Step(record.step, STAGES[record.stage], record.recipe, record.made_from)
        if any(name == step.directory and _matching(paths, [pattern]) for name, pattern in reads(made)):
            yield place.parent.name


def _matching(paths: Iterable[str], patterns: Collection[str]) -> tuple[str, ...]:
    return tuple(path for path in paths if any(fnmatch(path, pattern) for pattern in patterns))


def _entries(record: Record, paths: Collection[str]) -> Iterator[FileEntry]:
    return (entry for entry in record.files if entry.path in paths)


def _told(record: Record, paths: Collection[str]) -> str:
    size = sum(entry.size for entry in _entries(record, paths))
    return f"{', '.join(sorted(paths))} ({size / 1e6:,.1f} MB)"
