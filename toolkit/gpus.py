"""What lies on this machine's GPUs, for metrics: apart from what verification reads, so that the ids of its steps do not move with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from toolkit import process

QUERY = ("nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Gpu:
    """The memory of one GPU, in bytes."""

    index: str
    used: int
    memory: int


def seen() -> tuple[Gpu, ...]:
    """Return the GPUs whose memory nvidia-smi tells, none where there is no such program or it fails."""
    if not shutil.which(QUERY[0]):
        return ()
    told = process.run(process.Command(QUERY), timeout=20, check=False)
    rows = ([part.strip() for part in line.split(",")] for line in told.output.splitlines() if told.code == 0)
    return tuple(Gpu(row[0], int(row[1]) << 20, int(row[2]) << 20) for row in rows if len(row) == 3 and all(map(str.isdecimal, row)))
