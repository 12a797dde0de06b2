"""Looks at a dataset before anything is trained on it: images/train/inspect_dataset.py reads and counts, the page and the table show."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import console, pipeline, recipe_file, runs
from toolkit.artifact import digest
from toolkit.errors import NotReadyError, UsageError
from toolkit.plan import Step, plan, until
from toolkit.recipe import Columns, Think
from toolkit.report import Files
from toolkit.resolve import resolve
from toolkit.stages import MODELFILES, Stage
from toolkit.store import Store

Findings = dict[str, Any]
"""inspection.json as data, with the name of what was looked at."""


@dataclass(frozen=True)
class Ways:
    """Where and how it is looked."""

    runner: str
    store: Path
    model_dir: Path | None = None
    """A checkpoint whose tokenizer is used; the recipe's base if not given."""
    samples: int = 12


@dataclass(frozen=True)
class Subject:
    """A dataset to look at: its name, the arguments of the program and the folders it reads."""

    name: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, Path]


def inspect(path: Path, ways: Ways) -> Findings:
    """Look at a recipe's dataset or at a data file; UsageError where there is none, then errors as the dataset stage's, overlap aside.

    For a recipe its base is made first, for the tokenizer, unless `ways.model_dir` has one.
    """
    if ways.model_dir and not (ways.model_dir / "tokenizer_config.json").is_file():
        raise UsageError(f"--model-dir: {ways.model_dir} has no tokenizer_config.json", "name the folder of an HF checkpoint")
    subject = _of_recipe(path, ways) if path.suffix in (".yml", ".yaml") else _of_file(path, ways)
    stage = Stage("inspect", "images/train/inspect_dataset.py", lambda _: dict(subject.recipe), network=True)
    step = Step("inspect", stage, subject.recipe, paths=subject.inputs, id=digest(dict(subject.recipe)))
    return {"name": subject.name, **_looked(step, Store(ways.store), runs.runner(ways.runner))}


def _looked(step: Step, store: Store, runner: pipeline.Runner) -> Findings:
    """Run the program in folders that nobody else uses and nothing is left of: a dataset can be looked at while a run holds the store."""
    with _folder(store, step) as made:
        output, scratch = made / "output", made / "scratch"
        output.mkdir()
        scratch.mkdir()
        runner.run(step, pipeline.Task(step.paths, output, scratch, store.log(step), store.downloads()))
        found: Findings = json.loads((output / "inspection.json").read_text(encoding="utf-8"))
    return found


@contextmanager
def _folder(store: Store, step: Step) -> Iterator[Path]:
    try:
        for folder in (store.scratch(step).parent, store.log(step).parent):
            folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(prefix="inspect-", dir=store.scratch(step).parent)
    except OSError as error:
        raise NotReadyError(f"the store {store.root} cannot be written: {error.strerror}", "use --store with a folder of yours") from error
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _of_recipe(path: Path, ways: Ways) -> Subject:
    recipe = recipe_file.load(path)
    planned = plan(resolve(recipe, path.resolve().parent))
    wanted = next(step for step in planned if step.stage.name == "dataset")
    inputs = dict(wanted.paths)
    if ways.model_dir:
        inputs |= {"model": ways.model_dir, "modelfiles": MODELFILES}
    else:
        outcome = pipeline.run(until(planned, "base"), Store(ways.store), runs.runner(ways.runner))
        inputs |= {"base": outcome.directories["base"]}
    return Subject(recipe.name, {**wanted.recipe, "family": recipe.base.family, "samples": ways.samples}, inputs)


def _of_file(path: Path, ways: Ways) -> Subject:
    if not path.exists():
        raise UsageError(f"{path}: there is no such recipe or data file", "name a recipe (.yml), a data file or a folder of them")
    open_to_all = {"allow_no_reasoning": True, "max_length": None, "limit": None, "shape": None}
    wanted = {"source": {"path": path.resolve().name}, "holdout": None, "columns": Columns().model_dump(), **open_to_all}
    model = {"model": ways.model_dir} if ways.model_dir else {}
    return Subject(
        path.name,
        {"dataset": wanted, "think": Think(add_tokens=True).model_dump(), "samples": ways.samples},
        {"recipe_dir": path.resolve().parent, **model},
    )


def show(found: Findings, page: Path | None, as_json: bool) -> None:
    """Print the findings as a table or as JSON, and write the page; UsageError where it cannot be written."""
    from toolkit.inspection import page as room
    from toolkit.inspection import table

    target = page or (None if as_json else Path(f"{Path(found['name']).stem}-data.html"))
    Files(html=target).require()
    if target:
        try:
            target.write_text(room.html(found), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror}", "name a file in a folder of yours with --html") from error
    if as_json:
        console.emit_json(found)
    else:
        table.show(found)
        console.say(f"\npage: {target}")
