"""The lock file beside a recipe: the commit and the checksum of every file that its hub repositories hold, so that a plan needs no network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit.errors import InvalidError, NotReadyError
from toolkit.hubs import RemoteFile


class Pin(BaseModel):
    """What one source of a recipe was when it was locked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: dict[str, str | None]
    """The source as the recipe states it, without the slice of its split."""
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class LockFile(BaseModel):
    """The pins of a recipe by the key of their source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    pins: dict[str, Pin]


def path_of(folder: Path, name: str) -> Path:
    """Return where the lock of the recipe called `name` lies."""
    return folder / f"{name}.lock.json"


def read(path: Path) -> Mapping[str, Pin]:
    """Return the pins of a lock file, none where there is no file; InvalidError where it was damaged."""
    try:
        return LockFile.model_validate_json(path.read_text(encoding="utf-8")).pins
    except FileNotFoundError:
        return {}
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidError(f"{path} is no lock file of this version", "restore it, or remove it and run: thinkship lock RECIPE") from error


def write(path: Path, pins: Mapping[str, Pin]) -> None:
    """Write a lock file whole or not at all; NotReadyError where the folder cannot be written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(LockFile(pins=dict(pins)).model_dump(mode="json"), indent=1, ensure_ascii=False)
    try:
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise NotReadyError(f"{path} cannot be written: {error.strerror}", "lock the recipe where its folder can be written") from error
