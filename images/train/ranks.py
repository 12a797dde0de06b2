"""Several processes of one program that train together on one machine; a launcher that has started them already (torchrun) is left in charge."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from program import INVALID, NOT_READY, Args, ProgramError, run

Main = Callable[[Args], int]


def first() -> bool:
    """Say whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def missing(processes: int) -> bool:
    """Say whether that many processes are wanted and nobody has started them; ProgramError (3) where a launcher started another number."""
    world = os.environ.get("WORLD_SIZE")
    if world is not None and int(world) != processes:
        raise ProgramError(f"train.processes is {processes}, and the launcher started {world}", "make them equal", INVALID)
    return world is None and processes > 1


def launch(main: Main, processes: int) -> int:
    """Run `main`, on this program's own args.json, in that many new processes; the first that fails ends the others, and this one with its code.

    torch's spawn and not torchrun: that one gives each worker a session of its own, which a killed run would leave behind.
    """
    import torch
    from torch.multiprocessing import ProcessExitedException, start_processes

    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and gpus < processes:
        raise ProgramError(f"train.processes is {processes}, and there are {gpus} GPUs", f"set train.processes: {gpus}", NOT_READY)
    try:
        start_processes(_rank, (main, processes, _free_port()), nprocs=processes, start_method="spawn")
    except ProcessExitedException as error:
        sys.exit(error.exit_code if error.exit_code > 0 else 1)
    return 0


def _rank(rank: int, main: Main, processes: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        run(main)
    except SystemExit as end:
        if end.code:  # 0 is an end like any other; torch reports each exit by a code as a failure
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
