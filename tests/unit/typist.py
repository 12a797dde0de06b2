"""A person at a terminal: a real process on a pseudo-terminal, what it shows, and what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from toolkit.stages import ROOT

LEADING = """import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])"""
"""Makes the terminal the process's own, so that Ctrl-C is its signal; tests that were started in the background were told to ignore it."""
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Typist:
    """Runs a module of this interpreter on a terminal of 24 lines and 80 columns."""

    def __init__(self, module: str, *arguments: object, cwd: object = ROOT) -> None:
        self._end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        argv = (sys.executable, "-c", LEADING, module, *map(str, arguments))
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(argv, cwd=str(cwd), stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
        os.close(theirs)
        self.raw = ""
        """All that was sent to the terminal."""
        self._seen = 0

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    @property
    def text(self) -> str:
        """What was sent without what steers the terminal; lines that were drawn over are still there."""
        return STEERING.sub("", self.raw).replace("\r", "")

    def sees(self, words: str, seconds: float = 20.0) -> None:
        """Wait until something is shown that was not yet seen."""
        deadline = time.monotonic() + seconds
        while words not in self.text[self._seen :]:
            assert time.monotonic() < deadline, f"{words!r} was not shown: {self.text[self._seen :]!r}"
            assert self._read(0.2) or self.process.poll() is None, f"it ended without {words!r}: {self.text[self._seen :]!r}"
        self._seen = self.text.index(words, self._seen) + len(words)

    def types(self, keys: str) -> None:
        """Type as soon as a person can; `\\r` is Enter, `\\x03` Ctrl-C, `\\x04` Ctrl-D.

        A signal between readline's prompt and its wait for a key is not looked at before the next key: nobody is that quick.
        """
        time.sleep(0.15)
        os.write(self._end, keys.encode())

    def ended(self, seconds: float = 20.0) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.text[-500:]!r}"
            self._read(0.1)
        while self._read(0.05):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._end], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):  # the other side is closed
            piece = os.read(self._end, 65536).decode(errors="replace")
            self.raw += piece
            return bool(piece)
        return False
