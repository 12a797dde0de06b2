"""Merge in a process that kills itself, or whose disk fills, in the middle: `merge_interrupted.py BASE ADAPTER SCRATCH kill|fill|no ROOM`.

Runs in the train environment. `kill`: SIGKILL after the sixth write. `fill`: other files take all but ROOM bytes of the disk after the first.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import block_files
import merged_checkpoint
from program import Args, run

base, adapter, scratch = map(Path, sys.argv[1:4])
how, room = sys.argv[4], int(sys.argv[5])
writes = 0
plain = block_files.Sink.write


def counted(sink: block_files.Sink, buffer: block_files.Buffer, size: int) -> None:
    """Write, and count."""
    global writes
    plain(sink, buffer, size)
    writes += 1
    if how == "kill" and writes == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fill" and writes == 1:
        free = os.statvfs(scratch)
        with (scratch / "other").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize - room)


def main(args: Args) -> int:
    """Merge."""
    merged = merged_checkpoint.make(base, adapter, scratch / "merged", "bfloat16", "one")
    sys.stdout.write(f"resumed {merged.resumed}\n")
    return 0


block_files.Sink.write = counted  # type: ignore[method-assign]
arguments = scratch / "args.json"
arguments.write_text('{"inputs": {}, "output": "/", "scratch": "/", "recipe": {}}')
sys.argv[1:] = [str(arguments)]
run(main)
