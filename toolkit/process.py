"""The only door to other programs: argv in, exit code out, secrets hidden, and the whole process group ended with its time limit or with us."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from toolkit.errors import FailedError, NotReadyError

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
WAITING = {"GOMP_SPINCOUNT": "2000"}
"""How OpenMP's threads wait at barriers, unless the user's environment says otherwise: a short spin, then sleep. Threads that sleep at once
make one computing process 1.5 times slower, threads that spin long make two of them ten times slower (benchmarks/threads.py)."""
SUPERVISOR = Path(__file__).with_name("supervisor.py")


@dataclass(frozen=True)
class Command:
    """A program to run: no shell, the environment added to ours."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None

    def __str__(self) -> str:
        """Return the command as a person would type it, secrets as `***`."""
        settings = [f"{name}={'***' if SECRET.search(name) else value}" for name, value in self.env.items()]
        return " ".join([*settings, *self.argv])


@dataclass(frozen=True)
class Completed:
    """How a command ended: its exit code (128 + n for signal n) and its standard output."""

    code: int
    output: str


class Process:
    """A running command and all that it started; a context manager that stops it."""

    def __init__(self, command: Command, popen: subprocess.Popen[str], log: Path | None) -> None:
        self.command, self.log, self._popen = command, log, popen

    @property
    def pid(self) -> int:
        """Process id, which is the group's id too."""
        return self._popen.pid

    @property
    def name(self) -> str:
        """The program's name."""
        return Path(self.command.argv[0]).name

    @property
    def identity(self) -> dict[str, int]:
        """What finds this very process again."""
        return {"pid": self.pid, "started": started(self.pid) or 0}

    @property
    def code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._popen.poll()

    def alive(self) -> bool:
        """Say whether the command still runs."""
        return self._popen.poll() is None

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        return tail(self.log, lines) if self.log else ""

    def keep(self) -> None:
        """Do nothing: nobody here starts a process again."""

    def stop(self, grace: float = 10.0) -> None:
        """Interrupt the command, and after `grace` seconds kill whatever is left of its group."""
        stop_group(self.pid, grace, self.alive)
        self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a text file, empty where there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def ending(code: int) -> str:
    """Return an exit code in words; 137 is SIGKILL, which the kernel sends when memory runs out."""
    return f"exit code {code}" + (" (killed, most likely out of memory)" if code == 137 else "")


def started(pid: int) -> int | None:
    """Return the start time of a process that is no zombie (proc(5), field 22 of stat; the name in field 2 may hold spaces)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def which(tool: str, remedy: str) -> Path:
    """Find a program on PATH; NotReadyError with the remedy where it is missing."""
    found = shutil.which(tool)
    if not found:
        raise NotReadyError(f"{tool} is not on PATH", remedy)
    return Path(found)


def stop_group(pid: int, grace: float, alive: Callable[[], bool]) -> None:
    """Send SIGINT to the group's children, wait, then SIGKILL the group."""
    try:
        os.killpg(pid, signal.SIGINT)
        deadline = time.monotonic() + grace
        while alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def start(command: Command, *, log: Path, detached: bool = False) -> Process:
    """Start a command whose output goes to `log`; a detached one outlives us, any other dies with us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        return Process(command, _popen(command, detached=detached, stdout=sink, stderr=subprocess.STDOUT), log)


def run(
    command: Command, *, log: Path | None = None, timeout: float | None = None, on_line: Callable[[str], None] | None = None, check: bool = True
) -> Completed:
    """Run a command to its end and return its exit code and output.

    Standard output goes line by line to `on_line`, standard error to `log`. FailedError where `check` and the code is not 0,
    or where `timeout` seconds passed; NotReadyError where the program does not exist.
    """
    with log.open("ab") if log else open(os.devnull, "ab") as errors:
        process = Process(command, _popen(command, stdout=subprocess.PIPE, stderr=errors), log)
    lines: list[str] = []
    late = _Deadline(process, timeout)
    with late, process, _stdout(process) as output:
        for line in output:
            lines.append(line)
            if on_line:
                on_line(line.rstrip("\n"))
        code = process._popen.wait()
    _judge(command, code, late, process.tail() or "".join(lines[-15:]), check)
    return Completed(code, "".join(lines))


def _stdout(process: Process) -> IO[str]:
    stream = process._popen.stdout
    assert stream is not None
    return stream


def _judge(command: Command, code: int, late: _Deadline, last_words: str, check: bool) -> None:
    name = Path(command.argv[0]).name
    if code == 127:
        raise NotReadyError(f"{name} could not be started", f"install {name} or put it on PATH")
    if late.passed:
        raise FailedError(f"{name} did not end within {late.seconds:.0f} s and was killed\n{last_words}", "raise the limit or look at the log")
    if check and code != 0:
        raise FailedError(f"{name} ended with {ending(code)}\n{last_words}", f"the command was: {command}")


class _Deadline:
    """Stops the process when its seconds are over."""

    def __init__(self, process: Process, seconds: float | None) -> None:
        self.seconds, self.passed, self._process = seconds or 0.0, False, process
        self._timer = threading.Timer(seconds, self._fire) if seconds else None

    def _fire(self) -> None:
        self.passed = True
        self._process.stop(grace=2.0)

    def __enter__(self) -> None:
        if self._timer:
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()


class _Outliving(subprocess.Popen[str]):
    """A program that is meant to outlive us: Python need not complain that nobody waited for it."""

    def __del__(self, *_: Any) -> None:
        return


def _popen(command: Command, detached: bool = False, **streams: Any) -> subprocess.Popen[str]:
    argv: Sequence[str] = (sys.executable, "-I", str(SUPERVISOR), "--detached" if detached else "--attached", "--", *command.argv)
    env = {**WAITING, **os.environ, "THINKSHIP_PARENT": str(os.getpid()), **command.env}
    kind = _Outliving if detached else subprocess.Popen
    return kind(argv, env=env, cwd=command.cwd, text=True, stdin=subprocess.DEVNULL, start_new_session=True, **streams)
