"""What is done to the node itself, which is this machine: an engine killed from outside its container, a disk made slow for one pod."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from repeating import repeating
from skips import skip_or_fail

THROTTLE = "blkio.throttle.read_bps_device"


def kill_engine(pod: dict[str, Any]) -> None:
    """Kill a pod's engine as the kernel would: from the node, since process 1 of a container takes no SIGKILL from within."""
    uid = pod["metadata"]["uid"]
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            groups = (place / "cgroup").read_text().replace("_", "-")
            if uid in groups and b"serve.py" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    if not found:
        skip_or_fail("the node is not this machine, or its processes are hidden from us")
    os.kill(min(found), signal.SIGKILL)


@contextmanager
def slow_disk(pod_of: Callable[[], str], file: Path, rate: int) -> Iterator[None]:
    """Read for the containers of one pod at `rate` bytes/s, and nothing of the file from memory when one of them starts.

    The kernel counts by cgroup and device (blkio-controller.rst), version 1 for each group alone: every container's is set as soon as it is there.
    """
    root = Path("/sys/fs/cgroup/blkio")
    if not (root / THROTTLE).exists():
        skip_or_fail("no blkio controller of cgroup v1 on this machine")
    number = file.stat().st_dev
    limit = f"{os.major(number)}:{os.minor(number)} {rate}"
    known: set[Path] = set()

    def watch() -> None:
        uid = pod_of()
        for group in set(root.glob(f"kubepods*/**/*{uid}/*/{THROTTLE}")) - known if uid else ():
            known.add(group)
            with suppress(OSError):  # it has ended
                group.write_text(limit)
            forget(file)

    with repeating(watch, 0.02):
        yield


def forget(file: Path) -> None:
    """Have the kernel drop what it keeps of a file in memory."""
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
