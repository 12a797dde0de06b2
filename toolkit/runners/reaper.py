"""Removes a run's containers when the run is gone: `python -m toolkit.runners.reaper PID:START`. A SIGKILL leaves nobody else to do it."""

from __future__ import annotations

import sys
import time

from toolkit import process
from toolkit.runners import docker


def main(run: str) -> None:
    """Wait until the process with this id and start time is gone, then remove what bears its label."""
    pid, _, began = run.partition(":")
    while str(process.started(int(pid))) == began:
        time.sleep(0.5)
    docker.remove_labelled(docker.RUN, run)


if __name__ == "__main__":
    main(sys.argv[1])
