"""What a server of this machine holds: the processes behind its port, their memory, and what they have on NVIDIA GPUs.

Read from /proc and nvidia-smi, so that it does not matter who started the server; one behind a port of a container or of another machine has no
processes here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from toolkit import process
from toolkit.engines.wire import is_loopback
from toolkit.processors import has_nvidia

LISTENING = "0A"
"""State of a socket that waits for connections (Linux, include/net/tcp_states.h)."""
PAGE = os.sysconf("SC_PAGE_SIZE")
FORWARDERS = ("docker-proxy", "rootlessport", "conmon", "slirp4netns")
"""Programs that only hold the port of a container."""


def serving(url: str) -> frozenset[int]:
    """Return the process that listens at an address of this machine and all its descendants; none where it is not to be found."""
    port = urlsplit(url).port
    if port is None or not is_loopback(url):
        return frozenset()
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    holders = {pid for pid in _pids() if sockets and not sockets.isdisjoint(_open_files(pid))}
    if any(_name(pid) in FORWARDERS for pid in holders):
        return frozenset()
    return frozenset(_with_descendants(holders))


def private(pids: frozenset[int]) -> int:
    """Return the bytes of memory that processes hold for themselves: what is resident without files (mapped weights) and shared memory."""
    return sum(_private_pages(pid) * PAGE for pid in pids)


def on_gpu(pids: frozenset[int]) -> int | None:
    """Return the bytes that processes hold on NVIDIA GPUs, none without a driver; None where nvidia-smi does not tell of them.

    In a container it sees no processes, or their ids outside.
    """
    if pids and not has_nvidia():
        return 0
    held = dict(_pairs(_asked("--query-compute-apps=pid,used_gpu_memory")))
    seen = any(Path(f"/proc/{pid}").exists() for pid in held)
    return sum(size for pid, size in held.items() if pid in pids) if seen else None


def gpu_used() -> int | None:
    """Return the bytes in use on all NVIDIA GPUs of this machine, None where there is none."""
    sizes = [int(line) << 20 for line in _asked("--query-gpu=memory.used").splitlines() if line.strip().isdecimal()]
    return sum(sizes) if sizes else None


def _asked(query: str) -> str:
    """Return nvidia-smi's lines of comma-separated values, sizes in MiB; nothing where there is no such program or it fails."""
    if not shutil.which("nvidia-smi"):
        return ""
    told = process.run(process.Command(("nvidia-smi", query, "--format=csv,noheader,nounits")), timeout=20, check=False)
    return told.output if told.code == 0 else ""


def _pairs(output: str) -> Iterator[tuple[int, int]]:
    """Yield process id and bytes of each line, as `4711, 1024`; a driver that hides the size says [N/A]."""
    for line in output.splitlines():
        pid, _, size = (part.strip() for part in line.partition(","))
        if pid.isdecimal() and size.isdecimal():
            yield int(pid), int(size) << 20


def _listening(port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen at a port (proc_net_tcp: local address in field 2, state in 4, inode in 10)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = Path(table).read_text(encoding="ascii").splitlines()[1:] if Path(table).is_file() else []
        for fields in map(str.split, lines):
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _open_files(pid: int) -> set[str]:
    """Return what a process has open, nothing where it is gone or another user's."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry.path))
    return found


def _with_descendants(pids: set[int]) -> set[int]:
    parents = {pid: _parent(pid) for pid in _pids()}
    found, waiting = set(pids), list(pids)
    while waiting:
        parent = waiting.pop()
        children = {pid for pid, own in parents.items() if own == parent} - found
        found |= children
        waiting += children
    return found


def _parent(pid: int) -> int:
    """Return the parent of a process (proc(5), field 4 of stat; the name in field 2 may hold spaces), 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _private_pages(pid: int) -> int:
    """Return the resident pages of a process without its shared ones (proc(5), fields 2 and 3 of statm), 0 where it is gone."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:
        return 0
    return int(resident) - int(shared)
