"""Turns what a recipe names into pinned facts: checksums of local data, commits and checksums of hub repositories. The only planner with network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit import adapter, console, hubs, lock_file, selection
from toolkit.adapter import Adapter
from toolkit.artifact import digest, files_of, sha256
from toolkit.errors import InvalidError, NotReadyError, ThinkshipError
from toolkit.fit import choice
from toolkit.lock_file import Pin
from toolkit.recipe import EngineName, Recipe
from toolkit.sources import HubSource, ModelScopeSource, PathSource, PypiSource, RemoteSource, Rows

HASHED_UP_TO = 64 << 20
"""Larger files are pinned by size and modification time, so that planning stays instant beside a 65 GB model."""
KEYS = (("base", "source"), ("dataset", "source"), ("dataset", "holdout"), ("adapter", "source"))
"""Section and field of every source that a recipe can have."""


@dataclass(frozen=True)
class Lock:
    """A recipe and the pinned content of everything it names."""

    recipe: Recipe
    folder: Path
    """Where the recipe's relative paths start."""
    base: str
    dataset: str
    holdout: str
    adapter: str = ""
    """Empty where the recipe trains."""
    pins: Mapping[str, Pin] = field(default_factory=dict)
    """What hubs hold, by section and field: `base/source`."""

    def files(self, section: str) -> dict[str, Any]:
        """Return what a stage is told of the files that it downloads, by field; nothing where its section names no hub."""
        found = {key.partition("/")[2]: pin for key, pin in self.pins.items() if key.startswith(f"{section}/")}
        return {"files": {name: [asdict(file) for file in pin.files] for name, pin in found.items()}} if found else {}


def resolve(recipe: Recipe, folder: Path, engines: tuple[EngineName, ...] = ()) -> Lock:
    """Pin a recipe's sources by its lock file, or by asking the hub, which writes that file, and vLLM's `auto` for the card.

    `engines` replaces the recipe's. InvalidError where a source does not exist, NotReadyError where a hub cannot be reached or no format fits
    the card.
    """
    if "vllm" in (engines or recipe.serve.engines):
        recipe = choice.pinned(recipe, folder)
    known = lock_file.read(lock_file.path_of(folder, recipe.name))
    if recipe.adapter and isinstance(recipe.adapter.source, PathSource):
        adapter.require_folder(folder / recipe.adapter.source.path, recipe.adapter.allow_pickle)
    pins = {key: known[key] if _fits(known, key, source) else _asked(recipe, key) for key, source in _remote(recipe).items()}
    if any(pins[key] is not known.get(key) for key in pins):
        _keep(recipe, folder, pins)
    return _locked(recipe, folder, pins)


def lock(recipe: Recipe, folder: Path) -> Mapping[str, Pin]:
    """Ask the hubs anew for everything that a recipe names, write its lock file and return the pins; errors as `resolve`."""
    pins = {key: _asked(recipe, key) for key in _remote(recipe)}
    if pins:
        lock_file.write(lock_file.path_of(folder, recipe.name), pins)
    return pins


def _keep(recipe: Recipe, folder: Path, pins: Mapping[str, Pin]) -> None:
    try:
        lock_file.write(lock_file.path_of(folder, recipe.name), pins)
        console.remark(f"pinned {', '.join(pins)} in {lock_file.path_of(folder, recipe.name)}: keep it beside the recipe")
    except NotReadyError as error:
        console.remark(f"{error.message}: the hub is asked again next time")


def _remote(recipe: Recipe) -> dict[str, RemoteSource]:
    found = {f"{section}/{name}": getattr(getattr(recipe, section), name) for section, name in _keys(recipe)}
    return {key: source for key, source in found.items() if isinstance(source, HubSource | ModelScopeSource)}


def _keys(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    return tuple((section, name) for section, name in KEYS if getattr(recipe, section))


def _fits(known: Mapping[str, Pin], key: str, source: RemoteSource) -> bool:
    return key in known and known[key].source == _stated(source)


def _stated(source: RemoteSource) -> dict[str, str | None]:
    """Return a source as the lock file keeps it: all slices of a split have the same files."""
    stated: dict[str, str | None] = source.model_dump(mode="json")
    return stated | {"split": source.split.partition("[")[0]} if isinstance(source, Rows) else stated


def _asked(recipe: Recipe, key: str) -> Pin:
    """Ask the hub of one of a recipe's sources what it holds."""
    source = _remote(recipe)[key]
    name = source.hub if isinstance(source, HubSource) else source.modelscope
    subject = f"{name}@{source.revision}"
    if hubs.offline():
        remedy = "run `thinkship lock RECIPE` once where the hub can be reached, and keep the lock file beside the recipe"
        raise NotReadyError(f"{key}: {subject} is not locked, and the hub may not be asked offline", remedy)
    try:
        return _adapter_pin(recipe.adapter, source, subject) if recipe.adapter and key == "adapter/source" else _listed(source, subject)
    except ThinkshipError as error:
        raise type(error)(f"{key}: {error.message}", error.remedy) from error
    except (KeyError, TypeError) as error:
        message = f"{key}: {subject}: the hub's answer lacks {error}"
        raise NotReadyError(message, "check that HF_ENDPOINT or MODELSCOPE_ENDPOINT has the hub's API") from error


def _listed(source: RemoteSource, subject: str) -> Pin:
    kind: hubs.Kind = "datasets" if isinstance(source, Rows) else "models"
    hub = hubs.hub_of(source, kind)
    commit = hub.commit(source.revision)
    files = hub.files(commit)
    if isinstance(source, Rows):
        readme = hub.text(commit, "README.md") if any(file.path == "README.md" for file in files) else ""
        chosen = selection.rows(files, readme, source.config, source.split)
    else:
        chosen = selection.checkpoint(files, subject)
        hub.text(commit, "config.json")  # a gated repository lists its files to everyone: find out now whether they may be read
    return Pin(source=_stated(source), commit=commit, files=chosen)


def _adapter_pin(wanted: Adapter, source: RemoteSource, subject: str) -> Pin:
    hub = hubs.hub_of(source, "models")
    commit = hub.commit(source.revision)
    chosen = selection.adapter(hub.files(commit), subject, wanted.allow_pickle)
    adapter.require_config(hub.text(commit, adapter.CONFIG), subject)
    return Pin(source=_stated(source), commit=commit, files=chosen)


def _locked(recipe: Recipe, folder: Path, pins: Mapping[str, Pin]) -> Lock:
    sections = {section: getattr(recipe, section) for section, _ in _keys(recipe)}
    content = {}
    for section, name in _keys(recipe):
        key, source = f"{section}/{name}", getattr(sections[section], name)
        if key in pins:
            pinned = source.model_copy(update={"revision": pins[key].commit})
            sections[section] = sections[section].model_copy(update={name: pinned})
        content[key] = digest([asdict(file) for file in pins[key].files]) if key in pins else _content(source, folder, key)
    base, dataset, holdout = (content[key] for key in ("base/source", "dataset/source", "dataset/holdout"))
    return Lock(recipe.model_copy(update=sections), folder, base, dataset, holdout, content.get("adapter/source", ""), pins)


def _content(source: PypiSource | PathSource, folder: Path, key: str) -> str:
    return source.sha256 if isinstance(source, PypiSource) else content_of_path(folder / source.path, key)


def content_of_path(path: Path, key: str) -> str:
    """Return what pins a file or a folder of this machine; InvalidError where it does not exist, `key` naming the recipe's section."""
    if path.is_file():
        return _pin(path)
    if path.is_dir():
        return digest([[file.relative_to(path).as_posix(), _pin(file)] for file in files_of(path)])
    raise InvalidError(f"{key}/path: {path} does not exist", "correct the path; it is taken from the recipe's folder")


def _pin(path: Path) -> str:
    status = path.stat()
    return sha256(path) if status.st_size <= HASHED_UP_TO else f"{status.st_size}:{status.st_mtime_ns}"
