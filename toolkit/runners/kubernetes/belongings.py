"""The recipe's own files, which no step makes: rows, a model, an adapter, an importance matrix. They go to the volume once, by content."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from toolkit.artifact import digest, files_of, sha256
from toolkit.errors import BrokenError, InvalidError
from toolkit.recipe import Recipe
from toolkit.resolve import content_of_path
from toolkit.sources import PathSource

FOLDER = ".given"
"""Folder of the store in which they lie, each recipe's by what it holds."""
DRAFT = ".part"
"""End of the name of what is not whole yet."""
ABANDONED = 2 * 86400
"""Seconds after which a copy that did not end is taken for one that was killed."""


def local(recipe: Recipe) -> dict[str, Path]:
    """Return the paths that a recipe names on this machine, by key; InvalidError where one is not below the recipe's folder."""
    sources = {"base/source": recipe.base.source, "dataset/source": recipe.dataset.source, "dataset/holdout": recipe.dataset.holdout}
    sources |= {"adapter/source": recipe.adapter.source} if recipe.adapter else {}
    sources |= {f"serve/adapters/{one.name}/source": one.source for one in recipe.serve.adapters}
    found = {key: source.path for key, source in sources.items() if isinstance(source, PathSource)}
    if recipe.gguf.imatrix and recipe.gguf.imatrix.path:
        found["gguf/imatrix"] = Path(recipe.gguf.imatrix.path)
    for key, path in found.items():
        if path.is_absolute() or ".." in path.parts:
            raise InvalidError(f"{key}/path: {path} does not lie below the recipe's folder", "put it there, where pods are given it from")
    return found


def name(folder: Path, paths: Mapping[str, Path]) -> str:
    """Return the folder of a recipe's files on the volume, named by their content; empty where there are none. InvalidError where one is missing."""
    content = sorted({path.as_posix(): content_of_path(folder / path, key) for key, path in paths.items()}.items())
    return f"{FOLDER}/{digest(content)[:16]}" if content else ""


def contents(folder: Path, paths: Mapping[str, Path]) -> str:
    """Return one SHA-256 over the bytes of all files and their names."""
    return digest([[path.relative_to(folder).as_posix(), sha256(path)] for path in _files(folder, paths)])


def _files(folder: Path, paths: Mapping[str, Path]) -> Iterator[Path]:
    for path in sorted({folder / path for path in paths.values()}):
        yield from files_of(path) if path.is_dir() else (path,)


def draft(given: str, copy: str) -> str:
    """Return where one copy of a recipe's files grows, below the store: two clients may bring the same ones."""
    return f"{given}.{copy}{DRAFT}"


def begin(root: Path, growing: str, paths: Mapping[str, Path]) -> None:
    """Make the folders that a recipe's files are to be copied into, and take away what copies that were killed have left."""
    for old in (root / growing).parent.glob(f"*{DRAFT}"):
        if time.time() - old.stat().st_mtime > ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    for path in paths.values():
        (root / growing / path).parent.mkdir(parents=True, exist_ok=True)


def keep(root: Path, growing: str, given: str, paths: Mapping[str, Path], expected: str) -> None:
    """Give what was copied its name, unless another copy has it; BrokenError where it is not what was sent."""
    grown, place = root / growing, root / given
    missing = [str(path) for path in paths.values() if not (grown / path).exists()]
    if missing or contents(grown, paths) != expected:
        what = f"{', '.join(missing)} did not come" if missing else "other bytes came than were sent"
        shutil.rmtree(grown, ignore_errors=True)
        raise BrokenError(f"copying the recipe's files to the volume: {what}", "the same command again; links inside a folder are not followed")
    try:
        os.rename(grown, place)
    except OSError:
        if not place.is_dir():
            raise
        shutil.rmtree(grown)


def remote(root: PurePosixPath, growing: str, path: Path) -> str:
    """Return where one of them is copied to."""
    return str(root / growing / path.as_posix())
