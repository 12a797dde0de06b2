"""What a machine makes once and keeps outside the repository: one process makes it, others wait for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit import console
from toolkit.errors import NotReadyError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thinkship"


@contextmanager
def making(name: str) -> Iterator[None]:
    """Hold the making of something in the cache, after any other process that is at it; NotReadyError where nothing can be written there.

    What another process has made meanwhile is there: look again.
    """
    locks = CACHE / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        handle = (locks / name).open("w")
    except OSError as error:
        raise NotReadyError(f"the cache {CACHE} cannot be written: {error.strerror}", "name another one with XDG_CACHE_HOME") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.note(f"another process is making {name}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
