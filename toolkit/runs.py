"""What `plan` and `run` do with a recipe: its steps as values, as a table, and made one after another to a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from toolkit import console, lock_file, pipeline, recipe_file, resolve
from toolkit.errors import BrokenError, UsageError
from toolkit.fit import review
from toolkit.pipeline import Runner
from toolkit.plan import Step, plan, until
from toolkit.recipe import Recipe
from toolkit.report import NOWHERE, Files
from toolkit.stages import STAGES
from toolkit.store import Store


@dataclass(frozen=True)
class How:
    """In which way a recipe is run."""

    runner: str = "local"
    dry: bool = False
    """Only show the steps."""
    reclaim: bool = False
    """Free what no later step needs."""
    cluster: Mapping[str, Any] = field(default_factory=dict)
    """What is said of a cluster: volume, namespace, registry, secret, gpu, pod; None where it is not."""


def steps(path: Path, engines: tuple[Any, ...] = (), last: str | None = None) -> tuple[Step, ...]:
    """Load, pin and plan a recipe; `last` ends the plan after that stage."""
    planned = plan(resolve.resolve(recipe_file.load(path), path.resolve().parent, engines), engines or None)
    return until(planned, last) if last else planned


def require(recipe: Recipe, folder: Path, engines: tuple[Any, ...], last: str | None, root: Path) -> None:
    """Raise NotReadyError where a stage up to `last` cannot work on this machine: before anything is fetched, and before a hub is asked.

    A stage that has left a sealed directory in the store is not looked at again; `engines` replaces the recipe's.
    """
    order = list(STAGES)
    stages = order[: order.index(last) + 1] if last else order
    waiting = {name for name in stages if name == "serve" or not any(root.glob(f"{name}-*/record.json"))}
    review.require(review.here(recipe, folder, engines), waiting)


def lock(path: Path) -> None:
    """Write a recipe's lock file and say what it pins."""
    recipe, folder = recipe_file.load(path), path.resolve().parent
    for key, pin in resolve.lock(recipe, folder).items():
        where = pin.source.get("hub") or pin.source.get("modelscope")
        console.say(f"{key}: {where}@{pin.commit}: {len(pin.files)} files, {pin.size / 1e9:.2f} GB")
    if not lock_file.path_of(folder, recipe.name).exists():
        console.say(f"{path} names no hub: there is nothing to lock")


def described(step: Step) -> dict[str, Any]:
    """Return a step as plain data."""
    return {
        "step": step.name,
        "id": step.id,
        "stage": step.stage.name,
        "environment": step.stage.environment,
        "program": step.stage.program,
        "inputs": dict(step.inputs),
        "recipe": dict(step.recipe),
    }


def table(planned: tuple[Step, ...], root: Path) -> Table:
    """Return the steps as a table that says which are done already."""
    store = Store(root)
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("step", "id", "runs in", "program", "from", "state"):
        rows.add_column(column)
    for step in planned:
        record = store.sealed(step)
        state = "[dim]reclaimed[/]" if record and record.reclaimed else "[green]sealed[/]" if record else "to do"
        where = step.stage.environment or "host"
        rows.add_row(step.name, step.id[:12], where, escape(step.stage.program), " ".join(step.inputs.values()), state)
    return rows


def runner(name: str, engines: Iterable[str] = ()) -> Runner:
    """Return a runner by name, having checked that the engines can be had there; NotReadyError says what is missing."""
    if name == "docker":
        from toolkit.runners.containers import DockerRunner

        return DockerRunner()
    from toolkit.runners.local import LocalRunner
    from toolkit.runners.tools import require

    require(engines)
    return LocalRunner()


def start(path: Path, engines: tuple[Any, ...], last: str | None, root: Path, how: How) -> None:
    """Do what `thinkship run` says; errors as `require` and `run`."""
    if how.runner == "kubernetes":
        from toolkit.runners.kubernetes import session

        if how.reclaim:
            raise UsageError("--reclaim frees files of a store on this machine", "leave it out, or run where the volume is mounted")
        session.run(path, steps(path, engines, last), root, how.cluster, how.dry)
        return
    if alien := [f"--{name}" for name, value in how.cluster.items() if value is not None]:
        raise UsageError(f"{', '.join(alien)} are for a cluster", "--runner kubernetes, or leave them out")
    if how.dry:
        console.show(table(steps(path, engines, last), root))
        return
    require(recipe_file.load(path), path.resolve().parent, engines, last, root)
    whole = steps(path, engines)
    run(until(whole, last) if last else whole, root, how.runner, frugal=whole if how.reclaim else ())


def run(planned: tuple[Step, ...], root: Path, where: str = "local", files: Files = NOWHERE, frugal: tuple[Step, ...] = ()) -> None:
    """Make every step; BrokenError where the last one is a report whose verdict is fail. `files` are written beside the store.

    What the plan `frugal` needs no more is freed on the way.
    """
    files.require()
    chosen = runner(where, [str(step.recipe["engine"]) for step in planned if "engine" in step.recipe])
    outcome = pipeline.run(planned, Store(root), chosen, frugal)
    if outcome.freed:
        console.say(f"reclaimed {sum(outcome.freed.values()) / 1e6:,.1f} MB of {', '.join(outcome.freed)}")
    if planned[-1].stage.name == "verify":
        conclude(outcome.directories[planned[-1].name], files)
    elif not outcome.seconds:
        console.say("nothing to do: every step is sealed")


def conclude(directory: Path, files: Files = NOWHERE) -> None:
    """Show the report of a run and say where it lies; BrokenError where its verdict is fail."""
    from toolkit.report import terminal

    found = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    files.write(found)
    terminal.show(found)
    console.say(f"\nreport: {directory / 'report.html'}")
    if found["verdict"] != "pass":
        broken = dict.fromkeys(check["name"] for check in found["checks"] if check["status"] == "fail")
        message = f"the verdict is fail: {', '.join(broken) or 'a required check was skipped'}"
        raise BrokenError(message, "each failed check names its remedy in the report")
