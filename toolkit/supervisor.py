"""Runs one command as the leader of its own process group and ends the whole group when the command or our parent ends.

Started as a script (`python -I supervisor.py [--detached] -- ARGV...`) by process.py alone. A SIGKILL of thinkship cannot be caught there,
so the kernel is asked to tell this process, which then kills everything it started: no trainer or server survives its run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: list[str]) -> int:
    """Run argv after `--` and return its exit code, 128 + n where signal n ended it."""
    detached, command = argv[1] == "--detached", argv[argv.index("--") + 1 :]
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a polite stop is meant for the command, which ends us by ending
    if not detached:
        parent = int(os.environ.pop("THINKSHIP_PARENT"))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the kernel was asked
            return 128 + signal.SIGTERM
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=[signal.SIGTERM, signal.SIGINT])
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    code = main(sys.argv)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # what the command left behind in its group
    os._exit(code)
