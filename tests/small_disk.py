"""A file system too small for what is written to it, so that a full disk is a real one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skips import skip_or_fail


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Path]:
    """Make a folder that holds so much while the block runs."""
    folder.mkdir()
    done = subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)), capture_output=True)
    if done.returncode:
        skip_or_fail("a small file system can only be mounted by root, where the machine lets it")
    try:
        yield folder
    finally:
        subprocess.run(("umount", str(folder)), check=True)
