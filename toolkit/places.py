"""Where a server runs: as a process of this machine, or, in runners/containers.py, in a container."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from toolkit import process
from toolkit.engines import Target, Tools
from toolkit.process import Command

CREATE_SECONDS = 1800.0
"""Longest time to bring a model into a running server."""


class Running(Protocol):
    """A server that was started."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def log(self) -> Path | None:
        """Where its output goes."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What finds it again, as fields of servers.Server."""

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""

    def alive(self) -> bool:
        """Say whether it still runs."""

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its output."""

    def keep(self) -> None:
        """Have it started again when it dies, where something is there that can."""

    def stop(self, grace: float = 10.0) -> None:
        """End it and all that it started."""


class Place(Protocol):
    """Starts servers, and programs beside them."""

    @property
    def tools(self) -> Tools:
        """What an engine is made of there."""

    def start(self, command: Command, target: Target, port: int, log: Path, detached: bool = False) -> Running:
        """Start a server whose output goes to `log`; a detached one outlives us, any other dies with us."""

    def call(self, server: Running, command: Command) -> None:
        """Run a program beside a running server; FailedError with its own words where it fails."""


class Machine:
    """The machine we run on."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def start(self, command: Command, target: Target, port: int, log: Path, detached: bool = False) -> Running:
        """Start a process."""
        return process.start(command, log=log, detached=detached)

    def call(self, server: Running, command: Command) -> None:
        """Run a process."""
        process.run(command, log=self.tools.scratch / "beside.log", timeout=CREATE_SECONDS)
