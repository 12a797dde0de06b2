"""Environments of programs that tests alone run, each pinned by a lock beside its test and kept where the product keeps its own."""

from __future__ import annotations

import sys
from pathlib import Path

from toolkit import process
from toolkit.runners.cache import CACHE, making
from toolkit.runners.environment import uv
from toolkit.stages import digest_files


def environment(lock: Path, name: str) -> Path:
    """Return the folder of the environment that a lock pins. It is made once: of two suites that need it at a time, one makes it."""
    folder = CACHE / "envs" / f"{name}-{digest_files((lock,))[:12]}"
    complete = folder / ".complete"
    if not complete.is_file():
        with making(folder.name):
            if not complete.is_file():
                process.run(process.Command((uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))))
                python = str(folder / "bin" / "python")
                process.run(process.Command((uv(), "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(lock))))
                complete.touch()
    return folder
