"""Files read and written in large blocks, which drive nothing else out of memory.

They are read past the page cache (O_DIRECT) where the file system can, and written through it, each block sent to the disk at once and dropped when
it is there: so the disk has as many writes to order as it likes (16 s against 21 s past the cache, for 15 GB of benchmarks/merge.py).
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from pathlib import Path

import torch
from program import BROKEN, ProgramError

CHUNK = 16 << 20
"""Bytes of a block, and of a write."""
PAGE = 4096
ON_THE_WAY = 8
"""Blocks that the kernel has time to write before their pages are dropped."""


class Buffer:
    """Memory that begins at a page, as reading and writing past the page cache want it."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self.view = memoryview(self.memory)
        self.bytes = torch.frombuffer(self.memory, dtype=torch.uint8)
        self.start = self.missing = 0
        """Of a buffer to be written: its place in the file, and how many bytes of it are not there yet."""


class Sources:
    """Opens files past the page cache where the file system can, and drops their pages behind it where not."""

    def __init__(self) -> None:
        self.opened: dict[Path, tuple[int, bool]] = {}
        self.lock = threading.Lock()

    def open(self, path: Path) -> tuple[int, bool]:
        """Return a descriptor, and whether it goes past the page cache."""
        with self.lock:
            if path not in self.opened:
                try:
                    self.opened[path] = os.open(path, os.O_RDONLY | os.O_DIRECT), True
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    self.opened[path] = os.open(path, os.O_RDONLY), False
            return self.opened[path]

    def close(self) -> None:
        """Close all of them."""
        for number, _ in self.opened.values():
            os.close(number)
        self.opened.clear()

    def read(self, path: Path, start: int, size: int, into: Buffer) -> int:
        """Read bytes from a page's beginning on; return how many there are before those that were asked for."""
        number, direct = self.open(path)
        begin = start - start % PAGE
        wanted, done = start + size - begin, 0
        while done < wanted:
            got = os.preadv(number, [into.view[done : done + (wanted - done + PAGE - 1) // PAGE * PAGE]], begin + done)
            if not got:
                raise ProgramError(f"{path.name} ended while it was read", "see that nothing else writes there, and run again", BROKEN)
            done += got
        if not direct:
            os.posix_fadvise(number, begin, wanted, os.POSIX_FADV_DONTNEED)
        return start - begin


class Sink:
    """The file that is written, in blocks of any order."""

    def __init__(self, path: Path, size: int) -> None:
        self.number, self.size = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), size
        os.ftruncate(self.number, size)
        self.sent: deque[int] = deque()
        """Where the blocks on their way to the disk begin."""

    def write(self, buffer: Buffer, size: int) -> None:
        """Write a buffer to its place."""
        done = 0
        while done < size:
            done += os.pwrite(self.number, buffer.view[done:size], buffer.start + done)
        self._drop(buffer.start)  # pages that are not on the disk yet are sent there by this, and stay
        self.sent.append(buffer.start)
        if len(self.sent) > ON_THE_WAY:
            self._drop(self.sent.popleft())

    def _drop(self, start: int) -> None:
        os.posix_fadvise(self.number, start, CHUNK, os.POSIX_FADV_DONTNEED)

    def close(self, whole: bool) -> None:
        """Close it; a whole one is on the disk then."""
        try:
            if whole:
                os.fsync(self.number)
                os.posix_fadvise(self.number, 0, self.size, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(self.number)
