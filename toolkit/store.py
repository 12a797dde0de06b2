"""The folder in which every step has its directory, its scratch and its log; one run at a time writes there."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolkit.artifact import Record, files_of, read_record, verify_files
from toolkit.errors import NotReadyError
from toolkit.plan import Step

SPARE = 64 << 20
"""Bytes that must stay free beside what a stage is expected to write."""

OWNER = "pod"
"""File in a step's scratch folder: which pod began the step, and when. Whoever begins it anew takes it over."""


@dataclass(frozen=True)
class Store:
    """Where artefacts live: `<step>-<id>/` sealed or absent, `.scratch/` for what outlives a kill, `.downloads/`, `.logs/`."""

    root: Path

    def directory(self, step: Step) -> Path:
        """Return the directory that a step leaves."""
        return self.root / step.directory

    def scratch(self, step: Step) -> Path:
        """Return the folder in which a killed step finds its own half-done work again."""
        return self.root / ".scratch" / step.directory

    def log(self, step: Step) -> Path:
        """Return the step's log."""
        return self.root / ".logs" / f"{step.directory}.log"

    def sealed(self, step: Step, deep: bool = False) -> Record | None:
        """Return the record of a finished step, None where it is not finished; BrokenError where its files were touched."""
        directory = self.directory(step)
        record = read_record(directory)
        if record:
            verify_files(directory, record, deep)
        return record

    def downloads(self) -> Path:
        """Make the folder that keeps downloaded files by their checksums; whatever lies there can be fetched again."""
        folder = self.root / ".downloads"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fresh(self, step: Step) -> Path:
        """Make the step's empty directory, removing what an interrupted run left there."""
        directory = self.directory(step)
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            self.scratch(step).mkdir(parents=True, exist_ok=True)
            (self.scratch(step) / OWNER).unlink(missing_ok=True)
            self.log(step).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotReadyError(f"the store {self.root} cannot be written: {error.strerror}", "use --store with a folder of yours") from error
        return directory

    def require_space(self, step: Step, inputs: Iterable[Path]) -> None:
        """Check the free bytes before a step starts, measured by the directories it reads; NotReadyError says how many are missing."""
        size = sum(path.stat().st_size for directory in inputs for path in files_of(directory))
        needed = int(size * step.stage.disk) + SPARE
        free = shutil.disk_usage(self.root).free
        if free < needed:
            message = f"{step.name}: about {needed >> 20} MiB are needed in {self.root}, {free >> 20} MiB are free"
            raise NotReadyError(message, "free space or point --store at another disk")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for one run; NotReadyError where another one holds it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / ".lock").open("w")
        except OSError as error:
            raise NotReadyError(f"the store {self.root} cannot be written: {error.strerror}", "use --store with a folder of yours") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NotReadyError(f"another run uses the store {self.root}", "wait for it, stop it, or use --store") from error
            yield
