"""The few lines every stage program shares: read args.json, say what happens as JSON lines, end with one clear error.

This file stands unchanged in each images/<env>/ folder, so that a folder can be read and run alone; a test holds the copies equal.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

INVALID, NOT_READY, FAILED, BROKEN = 3, 4, 5, 6
"""Exit codes, the same as toolkit/errors.py: recipe or data invalid, environment not ready, a command failed, a contract is broken."""

T = TypeVar("T")


@dataclass(frozen=True)
class Args:
    """What a program is told: where its inputs lie, the fresh folder it fills, one that outlives a kill, and its slice of the recipe.

    A stage with network is also given a folder for downloads, which all steps of the store share.
    """

    inputs: dict[str, Path]
    output: Path
    scratch: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    downloads: Path | None = None


class ProgramError(Exception):
    """A failure with its cause, its remedy and one of the exit codes above."""

    def __init__(self, message: str, remedy: str, code: int = INVALID) -> None:
        super().__init__(message, remedy, code)  # all three, so that it can be pickled from one process to another
        self.message, self.remedy, self.code = message, remedy, code

    def __str__(self) -> str:
        return self.message


def emit(event: str, **fields: Any) -> None:
    """Write one event as a line of JSON; the host turns it into progress, notes and errors."""
    # in one piece with its end: several processes of a training may speak at once
    print(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n", end="", flush=True)


def note(text: str) -> None:
    """Say one fact worth keeping in the log."""
    emit("note", text=text)


def progress(done: int, total: int, unit: str, text: str = "") -> None:
    """Say how far the work is: `done` of `total` units."""
    emit("progress", done=done, total=total, unit=unit, text=text)


def tracked(items: Iterable[T], total: int, unit: str, every: int = 1) -> Iterator[T]:
    """Yield the items, saying the progress after every n-th and after the last."""
    for done, item in enumerate(items, 1):
        yield item
        if done % every == 0 or done == total:
            progress(done, total, unit)


def run(main: Callable[[Args], int]) -> None:
    """Run `main` on the args.json named on the command line and exit with its code."""
    try:
        given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        inputs = {name: Path(path) for name, path in given["inputs"].items()}
        downloads = Path(given["downloads"]) if given.get("downloads") else None
        args = Args(inputs, Path(given["output"]), Path(given["scratch"]), given["recipe"], downloads)
        sys.exit(main(args))
    except ProgramError as error:
        emit("error", message=error.message, remedy=error.remedy)
        sys.exit(error.code)
    except OSError as error:
        if error.errno != 28:  # ENOSPC is the one the user can mend
            raise
        emit("error", message=f"no space left on the disk: {error.filename or 'while writing'}", remedy="free space or point --store at another disk")
        sys.exit(NOT_READY)
    except MemoryError:
        emit("error", message="out of memory", remedy="use a smaller batch or a machine with more memory")
        sys.exit(NOT_READY)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
