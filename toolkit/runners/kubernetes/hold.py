"""Runs a program while it holds the store, as long as this pod is the one that began the step: `python -c TEXT STORE STEP PROGRAM ARGUMENTS`.

Its text goes into images that have no host package, so that it takes nothing but the standard library. The lock outlives the exec: it belongs to the
open file, which the program and all that it starts inherit.
"""

import fcntl
import json
import os
import sys
import time

PATIENCE = 60.0


def refuse(message: str, remedy: str) -> None:
    """End with an error as stage programs tell it."""
    sys.stdout.write(json.dumps({"event": "error", "message": message, "remedy": remedy}) + "\n")
    sys.exit(4)


def main(store: str, step: str, *argv: str) -> None:
    """Wait for the store, look whether the step is ours, and become the program."""
    if os.path.exists("/given/sealed"):
        sys.exit(0)
    handle = os.open(os.path.join(store, ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > end:
                refuse("another run uses the store on the volume", "wait for it or stop it, then the same command again")
            time.sleep(0.5)
    try:
        with open(os.path.join(store, ".scratch", step, "pod"), encoding="utf-8") as stream:
            owner = json.load(stream)["pod"]
    except OSError:
        owner = ""
    if owner != os.environ["POD_UID"]:
        refuse("another run has begun this step anew", "the same command again follows it or goes on from it")
    os.set_inheritable(handle, True)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(*sys.argv[1:])
