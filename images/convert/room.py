"""What making GGUF files takes, said before the first byte: disk, memory and time; what does not fit is refused with what to free."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from libllama import ffi, library, threads
from mixes import MAIN
from program import NOT_READY, ProgramError, note
from sources import gguf
from tensor_files import Checkpoint

PROGRAM = 800 << 20
"""Bytes that the programs take beside any tensor: torch, blocks, llama.cpp's buffers (benchmarks/convert.py sees 0.6 GiB)."""
WIDE = 10
"""Bytes for each weight of the largest tensor: read in 16 bits, reordered in 32, packed."""
RICHER = 1.2
"""Mixtures hold that much more than their main type, and more still where rows are no multiple of 256."""
SAMPLE = (64, 1024)
"""Rows and columns that are packed to see how long it takes."""


def require(model: Path, wanted: dict[str, Any], folder: Path) -> None:
    """Say what is needed; ProgramError (4) where `folder`'s disk or the memory has not as much."""
    checkpoint = Checkpoint(model)
    sizes = [weight.rows * weight.columns for weight in checkpoint.weights.values()]
    weights, largest = sum(sizes), max(sizes, default=0)
    reference, *others = wanted["types"]
    bytes_of = {reference: 2 * weights} | {kind: int(RICHER * weights * bits(kind) / 8) for kind in others}
    twice = max((bytes_of[kind] for kind in others), default=0) if wanted["imatrix"] and wanted["imatrix"]["compare"] else 0
    disk, free = sum(bytes_of.values()) + twice, shutil.disk_usage(folder).free
    memory, available = PROGRAM + WIDE * largest, available_memory()
    if free < disk:
        shown = ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in bytes_of.items())
        message = f"the GGUF files need about {disk / 1e9:.2f} GB on the disk ({shown}), {free / 1e9:.2f} GB are free"
        gone = f"free {(disk - free) / 1e9:.2f} GB there (older steps of the store, its .downloads)"
        raise ProgramError(message, f"{gone}, use --store on another disk, or state fewer gguf.types", NOT_READY)
    if available < memory:
        what = f"{memory >> 20} MiB of memory (the largest tensor has {largest / 1e6:.0f} M weights)"
        message = f"converting takes about {what}, {available >> 20} MiB are available"
        raise ProgramError(message, "end other programs, or convert on a machine with more memory", NOT_READY)
    seconds = sum(packing(kind) for kind in others) * weights / threads() * (2 if twice else 1)
    about = f"; packing alone takes about {seconds:.0f} s on {threads()} CPUs" if others else ""
    room = f"{free / 1e9:.1f} GB and {available >> 20} MiB are free"
    note(f"the GGUF files take {disk / 1e9:.2f} GB of disk and {memory >> 20} MiB of memory ({room}){about}")
    if bytes_of[reference] > available:
        slow = f"the {reference} file of {bytes_of[reference] / 1e9:.1f} GB does not fit into memory, and is read again for each evaluated row"
        note(f"{slow}: expect hours; lower gguf.rows")


def bits(kind: str) -> float:
    """Return bits a weight of a file's main type."""
    block, size = gguf.GGML_QUANT_SIZES[MAIN[kind]] if kind in MAIN else (1, 2)
    return 8 * size / block


def packing(kind: str) -> float:
    """Return the seconds that a CPU takes to pack one weight, measured on a sample."""
    if kind not in MAIN:
        return 0.0
    values = np.random.default_rng(0).standard_normal(SAMPLE, np.float32)
    importance = np.ones(SAMPLE[1], np.float32)

    def pack(rows: int) -> None:
        room, source = ffi.new("char[]", rows * SAMPLE[1] * 4), ffi.from_buffer("float[]", values)
        library().ggml_quantize_chunk(int(MAIN[kind]), source, room, 0, rows, SAMPLE[1], ffi.from_buffer("float[]", importance))

    pack(1)  # builds the type's tables
    began = time.perf_counter()
    pack(SAMPLE[0])
    return (time.perf_counter() - began) / (SAMPLE[0] * SAMPLE[1])


def available_memory() -> int:
    """Return the bytes of memory that programs can still take."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def known(kinds: Sequence[str]) -> None:
    """Raise ProgramError for a type that does not exist, before anything else is looked at."""
    from mixes import Mix

    for kind in kinds:
        Mix(kind, 1, tied=False)
