"""A sealed directory: complete with a record of every file, or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from toolkit.errors import BrokenError

RECORD = "record.json"
DRAFT = ".record.json"
"""A record that is being written: what a kill leaves of it is replaced by the next one."""


class FileEntry(BaseModel):
    """One file of a sealed directory."""

    model_config = ConfigDict(frozen=True)
    path: str
    size: int
    sha256: str
    mtime_ns: int


class Record(BaseModel):
    """What was made, from what, by what, and how long it took; written last, so that its presence means done."""

    model_config = ConfigDict(frozen=True)
    schema_version: int = 1
    step: str
    stage: str
    id: str
    inputs: dict[str, str]
    recipe: dict[str, Any]
    programs: str
    runner: str
    image: str = ""
    """Name, tag and digest of the image it ran in, empty for a process of the machine."""
    thinkship: str
    seconds: float
    files: tuple[FileEntry, ...]
    made_from: dict[str, str] = {}
    """Input name -> directory of the step that it came from, beside this one in the store."""
    reclaimed: bool = False
    """Whether files of it were freed, which `files` still tells of."""
    freed: tuple[str, ...] = ()
    """Which: they may be gone, or be about to go."""

    @property
    def held(self) -> tuple[FileEntry, ...]:
        """The files that must be there: all but the freed ones."""
        return tuple(file for file in self.files if file.path not in self.freed)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(directory: Path) -> Iterator[Path]:
    """Yield every file below a directory in sorted order, the record aside."""
    records = (directory / RECORD, directory / DRAFT)
    yield from sorted(path for path in directory.rglob("*") if path.is_file() and path not in records)


def entry(directory: Path, path: Path) -> FileEntry:
    """Measure one file."""
    status = path.stat()
    return FileEntry(path=path.relative_to(directory).as_posix(), size=status.st_size, sha256=sha256(path), mtime_ns=status.st_mtime_ns)


def seal(directory: Path, **facts: Any) -> Record:
    """Write the record of a finished directory; from here on it counts as done."""
    record = Record(files=tuple(entry(directory, path) for path in files_of(directory)), **facts)
    write_record(directory, record)
    return record


def write_record(directory: Path, record: Record) -> None:
    """Write a record whole or not at all."""
    draft = directory / DRAFT
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(record.model_dump_json(indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, directory / RECORD)


def read_record(directory: Path) -> Record | None:
    """Return the record of a sealed directory, None where it is not sealed; BrokenError where the record is unreadable."""
    path = directory / RECORD
    if not path.exists():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise BrokenError(f"{path}: the record is damaged: {str(error).splitlines()[0]}", f"rm -r {directory} and run again") from error


def verify_files(directory: Path, record: Record, deep: bool = False) -> None:
    """Check that a sealed directory holds exactly its recorded files; BrokenError names each that is missing, edited, truncated or new.

    A file whose size and modification time are as recorded counts as unchanged unless `deep` asks for every checksum. What the record has freed
    need not be there.
    """
    problems = [problem for file in record.held if (problem := _compare(directory / file.path, file, deep))]
    known = {file.path for file in record.files}
    problems += [f"{name}: was added later" for path in files_of(directory) if (name := path.relative_to(directory).as_posix()) not in known]
    if problems:
        message = "\n  ".join([f"{directory} is not what was sealed:", *problems])
        raise BrokenError(message, f"rm -r {directory} and run again; what it was made from is kept")


def _compare(path: Path, file: FileEntry, deep: bool) -> str | None:
    if not path.is_file():
        return f"{file.path}: is missing"
    status = path.stat()
    if status.st_size != file.size:
        return f"{file.path}: {status.st_size} bytes instead of {file.size}"
    if (deep or status.st_mtime_ns != file.mtime_ns) and sha256(path) != file.sha256:
        return f"{file.path}: its content was changed"
    return None


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
