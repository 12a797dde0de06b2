"""Turns what a recipe names into pinned facts: checksums of local data, commit ids of hub repositories. The only planner with network."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, assert_never

from toolkit.artifact import digest, files_of, sha256
from toolkit.errors import InvalidError, NotReadyError
from toolkit.recipe import HubSource, PathSource, PypiSource, Recipe
from toolkit.section import Section

SectionT = TypeVar("SectionT", bound=Section)
COMMIT = re.compile(r"^[0-9a-f]{40}$")
HASHED_UP_TO = 64 << 20
"""Larger files are pinned by size and modification time, so that planning stays instant beside a 65 GB model."""


@dataclass(frozen=True)
class Lock:
    """A recipe and the pinned content of everything it names."""

    recipe: Recipe
    folder: Path
    """Where the recipe's relative paths start."""
    base: str
    dataset: str
    holdout: str


def resolve(recipe: Recipe, folder: Path) -> Lock:
    """Pin a recipe's sources; InvalidError where one does not exist, NotReadyError where a hub cannot be reached."""
    dataset = _pinned(_pinned(recipe.dataset, "source", "datasets"), "holdout", "datasets")
    recipe = recipe.model_copy(update={"base": _pinned(recipe.base, "source", "models"), "dataset": dataset})
    data = recipe.dataset
    return Lock(
        recipe,
        folder,
        _content(recipe.base.source, folder, "base/source"),
        _content(data.source, folder, "dataset/source"),
        _content(data.holdout, folder, "dataset/holdout"),
    )


def _pinned(section: SectionT, field: str, kind: str) -> SectionT:
    source = getattr(section, field)
    if not isinstance(source, HubSource) or COMMIT.match(source.revision):
        return section
    pinned = source.model_copy(update={"revision": commit_of(source, kind)})
    return section.model_copy(update={field: pinned})


def commit_of(source: HubSource, kind: str) -> str:
    """Ask the hub for the commit a branch points to; `kind` is models or datasets."""
    import urllib.error  # here, since planning what is pinned already needs no network
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    url = f"{endpoint}/api/{kind}/{source.hub}/revision/{source.revision}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return str(json.load(answer)["sha"])
    except urllib.error.HTTPError as error:
        message = f"{source.hub}@{source.revision}: the hub answered {error.code}"
        raise InvalidError(message, "check the name, the revision and your access") from error
    except (OSError, ValueError, KeyError) as error:
        remedy = "state the 40-digit commit id as revision, set HF_ENDPOINT to a mirror, or use source: {path: …}"
        raise NotReadyError(f"{source.hub}: the hub cannot be reached to pin {source.revision!r}: {error}", remedy) from error


def _content(source: PypiSource | HubSource | PathSource, folder: Path, key: str) -> str:
    match source:
        case PypiSource():
            return source.sha256
        case HubSource():
            return f"{source.hub}@{source.revision}"
        case PathSource():
            return content_of_path(folder / source.path, key)
    assert_never(source)


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
