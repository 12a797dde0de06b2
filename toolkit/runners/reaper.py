"""Removes containers whose run is gone: beside a run, `python -m toolkit.runners.reaper RUN`, since a SIGKILL leaves nobody else to do it, and what a
dead engine held back, before the next one.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from toolkit import process
from toolkit.runners import docker


def name() -> str:
    """Return what no other run is called: machine, process id and start of the process."""
    return f"{socket.gethostname()}:{os.getpid()}:{process.started(os.getpid())}"


def is_gone(run: str) -> bool:
    """Say whether a run of this machine has ended; of another machine's, which may share the engine, nothing is known."""
    host, *rest = run.rsplit(":", 2)
    return host == socket.gethostname() and str(process.started(int(rest[0]))) != rest[1]


def sweep() -> None:
    """Remove the containers of runs that are gone."""
    for run in filter(is_gone, docker.values(docker.RUN)):
        docker.remove_labelled(docker.RUN, run)


def main(run: str) -> None:
    """Wait until a run is gone, then remove its containers."""
    while not is_gone(run):
        time.sleep(0.5)
    docker.remove_labelled(docker.RUN, run)


if __name__ == "__main__":
    main(sys.argv[1])
