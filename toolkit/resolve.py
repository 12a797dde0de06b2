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
"""Section and field of every source that a recipe can have, those of serve.adapters aside."""
Source = PypiSource | PathSource | RemoteSource


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
    adapters: Mapping[str, str] = field(default_factory=dict)
    """The content of each of serve.adapters, by name."""
    pins: Mapping[str, Pin] = field(default_factory=dict)
    """What hubs hold, by section and field: `base/source`."""

    def files(self, section: str) -> dict[str, Any]:
        """Return what a stage is told of the files that it downloads, by field; nothing where its section names no hub."""
        found = {key.rpartition("/")[2]: pin for key, pin in self.pins.items() if key.rpartition("/")[0] == section}
        return {"files": {name: [asdict(file) for file in pin.files] for name, pin in found.items()}} if found else {}


def resolve(recipe: Recipe, folder: Path, engines: tuple[EngineName, ...] = ()) -> Lock:
    """Pin a recipe's sources by its lock file, or by asking the hub, which writes that file, and vLLM's `auto` for the card.

    `engines` replaces the recipe's. InvalidError where a source does not exist, NotReadyError where a hub cannot be reached or no format fits
    the card.
    """
    if "vllm" in (engines or recipe.serve.engines):
        recipe = choice.pinned(recipe, folder)
    known = lock_file.read(lock_file.path_of(folder, recipe.name))
    for key, wanted in _adapters(recipe).items():
        if isinstance(wanted.source, PathSource):
            adapter.require_folder(folder / wanted.source.path, wanted.allow_pickle, key)
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


def _sources(recipe: Recipe) -> dict[str, Source]:
    """Return every source by its key in messages and in the lock file."""
    found = {f"{section}/{name}": getattr(getattr(recipe, section), name) for section, name in _keys(recipe)}
    return found | {key: wanted.source for key, wanted in _adapters(recipe).items()}


def _remote(recipe: Recipe) -> dict[str, RemoteSource]:
    return {key: source for key, source in _sources(recipe).items() if isinstance(source, HubSource | ModelScopeSource)}


def _keys(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    return tuple((section, name) for section, name in KEYS if getattr(recipe, section))


def _adapters(recipe: Recipe) -> dict[str, Adapter]:
    """Return every adapter that was trained elsewhere by the key of its source."""
    own = {"adapter/source": recipe.adapter} if recipe.adapter else {}
    return own | {f"{further(one.name)}/source": one for one in recipe.serve.adapters}


def further(name: str) -> str:
    """Return the section of one of serve.adapters in keys of sources."""
    return f"serve/adapters/{name}"


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
        wanted = _adapters(recipe).get(key)
        return _adapter_pin(wanted, source, subject) if wanted else _listed(source, subject)
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
    found = _sources(recipe)
    content = {
        key: digest([asdict(file) for file in pins[key].files]) if key in pins else _content(source, folder, key) for key, source in found.items()
    }
    base, dataset, holdout = (content[key] for key in ("base/source", "dataset/source", "dataset/holdout"))
    beside = {one.name: content[f"{further(one.name)}/source"] for one in recipe.serve.adapters}
    return Lock(_pinned(recipe, pins), folder, base, dataset, holdout, content.get("adapter/source", ""), beside, pins)


def _pinned(recipe: Recipe, pins: Mapping[str, Pin]) -> Recipe:
    """Return the recipe with the commit of every repository in the place of its revision."""

    def at_commit(section: Any, key: str) -> Any:
        names = {name for name in ("source", "holdout") if f"{key}/{name}" in pins}
        return section.model_copy(
            update={name: getattr(section, name).model_copy(update={"revision": pins[f"{key}/{name}"].commit}) for name in names}
        )

    sections = {section: at_commit(getattr(recipe, section), section) for section, _ in _keys(recipe)}
    beside = tuple(at_commit(one, further(one.name)) for one in recipe.serve.adapters)
    return recipe.model_copy(update={**sections, "serve": recipe.serve.model_copy(update={"adapters": beside})})


def _content(source: Source, folder: Path, key: str) -> str:
    assert isinstance(source, PypiSource | PathSource)  # what hubs hold is pinned
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
