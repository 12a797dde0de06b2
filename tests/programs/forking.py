"""An interpreter that has loaded a room's heavy packages once and forks itself for every program it is told to run.

Loading torch, transformers, PEFT and bitsandbytes takes 5 to 12 s of a core, more than most of what is tested here. Each program still has a process
of its own that ends as Python ends; only the imports are shared. tests/e2e starts the programs as the local runner does, cold.

Standard input holds a line of JSON for each: {"argv": [...], "stdout": path, "stderr": path};
standard output gets its exit code, below 0 for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys


def next_program(codes: int) -> dict[str, str]:
    """Fork for each line and return it in the child; the parent writes exit codes to a descriptor until there are no more lines."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return json.loads(line)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(codes, f"{status}\n".encode())
    sys.exit()


def become(told: dict[str, str], codes: int) -> None:
    """Give this process the streams, the words and the first folder of imports that a program started by itself has."""
    os.close(codes)
    for descriptor, path, how in ((0, os.devnull, os.O_RDONLY), (1, told["stdout"], os.O_WRONLY), (2, told["stderr"], os.O_WRONLY)):
        opened = os.open(path, how)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv[:] = told["argv"]
    sys.path[0] = os.path.dirname(sys.argv[0])


if __name__ == "__main__":
    kept = os.dup(1)
    os.dup2(2, 1)  # what a package prints while it is loaded is no exit code
    for name in sys.argv[1:]:
        importlib.import_module(name)
    become(next_program(kept), kept)
    runpy.run_path(sys.argv[0], run_name="__main__")
