"""What a bundle holds: the recipe, the directories that serving and verifying need, the reports that prove them, chart and compose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import lock_file, recipe_file, reclaim, runs, service
from toolkit.artifact import RECORD, Record, sha256
from toolkit.bundle.archive import digest
from toolkit.bundle.manifest import Member
from toolkit.errors import InvalidError, NotReadyError
from toolkit.export.served import ENGINES
from toolkit.plan import Step
from toolkit.recipe import EngineName, Recipe
from toolkit.resolve import HASHED_UP_TO, KEYS
from toolkit.sources import PathSource
from toolkit.stages import ROOT
from toolkit.store import Store

COMPOSE = (".env.example", ".gitignore", "Caddyfile", "compose.yaml", "front.yaml", "init.sh", "slot.yaml")
"""What compose/ is made of. Keys, certificates and settings of a host lie there too and are nobody else's."""
CHART = Path("charts") / "thinkship"


@dataclass(frozen=True)
class Item:
    """A member and where its bytes come from."""

    member: Member
    source: Path | bytes


@dataclass(frozen=True)
class Wish:
    """What of a recipe is wanted: for which engines, and whether all that it was made from comes along."""

    recipe: Path
    engines: tuple[EngineName, ...]
    store: Store
    training: bool = False

    def served(self) -> tuple[EngineName, ...]:
        """Return the engines that have an image."""
        wanted = self.engines or recipe_file.load(self.recipe).serve.engines
        return tuple(name for name in wanted if name in ENGINES)


def directories(wish: Wish) -> tuple[tuple[Step, Record], ...]:
    """Return the sealed directories; NotReadyError where one that is needed is not there or was reclaimed, BrokenError where one was touched.

    Serving needs what the engines are given; the data set, from which the questions of `thinkship run` come, holds the training rows and stays
    behind with all else that the model was made from.
    """
    planned = runs.steps(wish.recipe, wish.engines)
    wanted = {name for engine in wish.served() for name in _given(wish, engine)}
    found: list[tuple[Step, Record]] = []
    for step in planned:
        proof = step.stage.name in ("serve", "verify")
        if not (wish.training or proof or step.name in wanted):
            continue
        if record := wish.store.sealed(step):
            found.append((step, record))
        elif not proof:
            remedy = f"thinkship run {wish.recipe} --store {wish.store.root}"
            raise NotReadyError(f"{wish.store.directory(step)} is not there or not finished", remedy)
    return tuple(found)


def _given(wish: Wish, engine: EngineName) -> set[str]:
    step, needed = service.steps(wish.recipe, engine, None)
    reclaim.require(wish.store, step, needed)
    return {name for key, name in step.inputs.items() if key != "dataset"}


def sealed(store: Store, found: Iterable[tuple[Step, Record]]) -> Iterator[Item]:
    """Yield the files of sealed directories with the sizes and checksums of their records, and the records, which tell what was reclaimed."""
    for step, record in found:
        place, folder = f"store/{step.directory}", store.directory(step)
        for entry in record.held:
            member = Member(path=f"{place}/{entry.path}", size=entry.size, sha256=entry.sha256, mtime_ns=entry.mtime_ns)
            yield Item(member, folder / entry.path)
        yield plain(f"{place}/{RECORD}", folder / RECORD)


def plain(path: str, source: Path) -> Item:
    """Return a file as a member: what others may run keeps that right."""
    status = source.stat()
    executable = bool(status.st_mode & 0o100)
    return Item(Member(path=path, size=status.st_size, sha256=sha256(source), executable=executable), source)


def text(path: str, data: bytes) -> Item:
    """Return bytes as a member."""
    return Item(Member(path=path, size=len(data), sha256=digest(data)), data)


def around(root: Path = ROOT) -> Iterator[Item]:
    """Yield chart and compose; NotReadyError where this is no checkout of the repository."""
    chart, compose = root / CHART, root / "compose"
    if not (chart / "Chart.yaml").is_file() or not (compose / "compose.yaml").is_file():
        raise NotReadyError(f"{root} holds neither charts/ nor compose/", "save bundles from a checkout of the repository")
    files = [path for path in chart.rglob("*") if path.is_file()] + [compose / name for name in COMPOSE]
    for path in (*files, *(path for path in (compose / "monitoring").rglob("*") if path.is_file())):
        yield plain(path.relative_to(root).as_posix(), path)


def recipe(wish: Wish) -> Iterator[Item]:
    """Yield the recipe, its lock and, where all is wanted, what it names beside itself; InvalidError where that lies elsewhere."""
    loaded, folder = recipe_file.load(wish.recipe), wish.recipe.resolve().parent
    yield plain(f"recipe/{loaded.name}.yml", wish.recipe)
    lock = lock_file.path_of(folder, loaded.name)
    if lock.is_file():
        yield plain(f"recipe/{lock.name}", lock)
    for path in sorted(set(_beside(loaded, folder))) if wish.training else ():
        yield _dated(f"recipe/{path.relative_to(folder).as_posix()}", path)


def _dated(path: str, source: Path) -> Item:
    """Return a file of the recipe's; a plan knows a large one by its time."""
    item, status = plain(path, source), source.stat()
    large = {"mtime_ns": status.st_mtime_ns} if status.st_size > HASHED_UP_TO else {}
    return Item(item.member.model_copy(update=large), source)


def _beside(loaded: Recipe, folder: Path) -> Iterator[Path]:
    for key, value in _paths(loaded):
        path = (folder / value).resolve()
        if not path.is_relative_to(folder):
            raise InvalidError(f"{key}: {path} lies outside the recipe's folder", "put it beside the recipe, or save without --with-training")
        yield from (found for found in path.rglob("*") if found.is_file()) if path.is_dir() else (path,)


def _paths(loaded: Recipe) -> Iterator[tuple[str, Path]]:
    """Yield every file and folder that a recipe names on this machine."""
    for section, name in KEYS:
        source: Any = getattr(getattr(loaded, section), name, None)
        if isinstance(source, PathSource):
            yield f"{section}/{name}", Path(source.path)
    if loaded.gguf.imatrix and loaded.gguf.imatrix.path:
        yield "gguf/imatrix", Path(loaded.gguf.imatrix.path)
    for benchmark in loaded.verify.benchmarks:
        if benchmark.folder:
            yield "verify/benchmarks/folder", benchmark.folder
