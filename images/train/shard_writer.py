"""Writes the files of a merged checkpoint block by block, reading, computing and writing at the same time: its memory does not grow with the model.

Some more threads than there are cores read blocks of rows and add to them, one writes.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from adapter_delta import Change, rows_at_once
from block_arithmetic import Delta, Sums
from block_files import CHUNK, PAGE, Buffer, Sink, Sources
from tensor_files import KINDS, Weight

READERS = 2
"""Threads beyond the cores: a disk is slow where it is asked for one block at a time."""
MOST = 8
"""Threads that compute, however many cores there are: each has 32 MiB of buffers, and eight add faster than disks write (1.2 GB/s a core)."""
READ_AHEAD, WRITE_BEHIND = 1, 3
"""Blocks that wait between the threads."""
NAMES = {kind: name for name, kind in KINDS.items()}
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """A tensor of the file that is written."""

    name: str
    source: Weight
    change: Change | None
    dtype: torch.dtype
    start: int
    """Where its bytes begin in the new file."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self.source.rows * self.source.columns * self.dtype.itemsize

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that fit into a chunk before and after."""
        width = max(1, self.source.columns) * max(self.dtype.itemsize, self.source.dtype.itemsize)
        tile = rows_at_once(self.source)
        step = tile * max(1, CHUNK // (width * tile))
        yield from ((first, min(first + step, self.source.rows)) for first in range(0, self.source.rows, step))


@dataclass(frozen=True)
class Shard:
    """A file that is to be written."""

    name: str
    header: bytes
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.items[-1].start + self.items[-1].size if self.items else len(self.header)


def plan_shard(name: str, parts: list[tuple[str, Weight, Change | None, torch.dtype]], metadata: dict[str, str]) -> Shard:
    """Lay a file out: its tensors in the order given, after a header that tells where they lie."""
    place, entries = 0, {}
    for one, source, _, dtype in parts:
        size = source.rows * source.columns * dtype.itemsize
        entries[one] = {"dtype": NAMES[dtype], "shape": list(source.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({"__metadata__": metadata, **entries} if metadata else entries, separators=(",", ":")).encode()
    header = struct.pack("<Q", len(text) + -len(text) % 8) + text + b" " * (-len(text) % 8)
    items = (Item(one, source, change, dtype, len(header) + entries[one]["data_offsets"][0]) for one, source, change, dtype in parts)
    return Shard(name, header, tuple(items))


@dataclass
class Block:
    """Rows on their way: read, changed, put into the buffers that are written."""

    item: Item
    first: int
    last: int
    raw: Buffer
    targets: list[Buffer]
    skipped: int = 0
    """Bytes before the first row in the buffer: what is read begins at a page."""


@dataclass
class Work:
    """The threads of one file and what goes between them."""

    shard: Shard
    path: Path
    arithmetic: Delta
    told: Callable[[int], None]
    """Told the bytes that were written."""
    sources: Sources = field(default_factory=Sources)
    failed: list[BaseException] = field(default_factory=list)
    ready: queue.Queue[Block | None] = field(default_factory=lambda: queue.Queue(READ_AHEAD))
    full: queue.Queue[Buffer | None] = field(default_factory=queue.Queue)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, workers: int, inputs: queue.Queue[Buffer], outputs: queue.Queue[Buffer]) -> Sums:
        """Write the file; what went wrong in a thread is raised here."""
        self.inputs, self.outputs = inputs, outputs
        computing = [threading.Thread(target=self._guard, args=(self._compute,)) for _ in range(workers)]
        writing = threading.Thread(target=self._guard, args=(self._write,))
        for thread in (*computing, writing):
            thread.start()
        self._guard(self._share_out)
        for _ in computing:
            self._put(self.ready, None)
        for thread in computing:
            thread.join()
        self._put(self.full, None)
        writing.join()
        self.sources.close()
        if self.failed:
            raise self.failed[0]
        return self.arithmetic.sums

    def _guard(self, part: Callable[[], None]) -> None:
        try:
            part()
        except BaseException as error:
            self.failed.append(error)

    def _get(self, waiting: queue.Queue[T]) -> T:
        while True:
            try:
                return waiting.get(timeout=0.2)
            except queue.Empty:
                self._stop_where_failed()

    def _put(self, waiting: queue.Queue[Any], value: Any) -> None:
        while not self.failed:
            try:
                waiting.put(value, timeout=0.2)
            except queue.Full:
                continue
            return

    def _stop_where_failed(self) -> None:
        if self.failed:
            raise InterruptedError("another thread failed")

    def _share_out(self) -> None:
        """Hand out blocks in the order of the file, each with the buffers that it will be written from."""
        current = self._target(0)
        current.bytes[: len(self.shard.header)] = torch.frombuffer(bytearray(self.shard.header), dtype=torch.uint8)
        self._filled([current], 0, len(self.shard.header))
        for item in self.shard.items:
            for first, last in item.blocks():
                width = item.source.columns * item.dtype.itemsize
                begin, end = item.start + first * width, item.start + last * width
                targets = [] if begin >= current.start + CHUNK else [current]
                while end > (targets[-1] if targets else current).start + CHUNK or not targets:
                    targets.append(self._target((targets[-1] if targets else current).start + CHUNK))
                current = targets[-1]
                self._put(self.ready, Block(item, first, last, self._get(self.inputs), targets))
                self._stop_where_failed()

    def _target(self, start: int) -> Buffer:
        buffer = self._get(self.outputs)
        buffer.start, buffer.missing = start, min(CHUNK, self.shard.size - start)
        return buffer

    def _compute(self) -> None:
        while block := self._get(self.ready):
            item, width = block.item, block.item.source.columns * block.item.dtype.itemsize
            block.skipped = self.sources.read(item.source.path, *item.source.extent(block.first, block.last), block.raw)
            begin = item.start + block.first * width
            for offset, values in self.arithmetic.pieces(block):
                _place(block.targets, begin + offset, values, item.dtype)
            self.inputs.put(block.raw)
            self._filled(block.targets, begin, item.start + block.last * width)

    def _filled(self, targets: list[Buffer], begin: int, end: int) -> None:
        """Count what the buffers hold now; full ones are written."""
        for buffer in targets:
            share = min(end, buffer.start + CHUNK) - max(begin, buffer.start)
            with self.lock:
                buffer.missing -= share
                done = buffer.missing == 0
            if done:
                self.full.put(buffer)

    def _write(self) -> None:
        sink, whole = Sink(self.path, self.shard.size), False
        try:
            while buffer := self._get(self.full):
                size = min(CHUNK, self.shard.size - buffer.start)
                sink.write(buffer, size)
                self.outputs.put(buffer)
                self.told(size)
            whole = True
        finally:
            sink.close(whole)


def _place(targets: list[Buffer], begin: int, values: torch.Tensor, dtype: torch.dtype) -> None:
    """Put values, rounded to their type, to a place of the file that one or two buffers hold."""
    width = dtype.itemsize
    if begin % width:  # no type of its own can be seen there
        values, dtype, width = values.to(dtype).contiguous().view(torch.uint8), torch.uint8, 1
    flat, done = values.view(-1), 0
    for buffer in targets:
        offset = begin + done * width - buffer.start
        count = min(flat.numel() - done, (CHUNK - offset) // width)
        if 0 <= offset < CHUNK and count:
            buffer.bytes[offset : offset + count * width].view(dtype).copy_(flat[done : done + count])
            done += count


def write_shards(shards: list[Shard], folder: Path, make: Callable[[], Delta], told: Callable[[int], None]) -> Iterator[tuple[Shard, Sums]]:
    """Write files one after the other, each under another name until it is whole."""
    workers = min(MOST, len(os.sched_getaffinity(0)) + READERS)
    inputs: queue.Queue[Buffer] = queue.Queue()
    outputs: queue.Queue[Buffer] = queue.Queue()
    for _ in range(READ_AHEAD + workers):
        inputs.put(Buffer(CHUNK + 2 * PAGE))
    for _ in range(WRITE_BEHIND + workers):
        outputs.put(Buffer(CHUNK))
    for shard in shards:
        partial = folder / f"{shard.name}.partial"
        sums = Work(shard, partial, make(), told).run(workers, inputs, outputs)
        os.replace(partial, folder / shard.name)
        yield shard, sums
