"""Servers in the background: started, kept in a state file, found again and stopped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel, ConfigDict, ValidationError

from toolkit import process, serving
from toolkit.engines import NAMES, Endpoint, Target, key_in
from toolkit.errors import NotReadyError
from toolkit.places import Place


class Server(BaseModel):
    """A server in the background: what `stop` needs to end it and nothing else."""

    model_config = ConfigDict(frozen=True)
    engine: str
    url: str
    model: str
    log: Path
    pid: int = 0
    started: int = 0
    """The kernel's start time of the process, in clock ticks since boot: a recycled process id has another one."""
    container: str = ""
    """Id of the container, where it is one."""
    api_key_file: Path | None = None
    """Where its API key lies, if it asks for one."""

    def alive(self) -> bool:
        """Say whether this very process or container still runs."""
        if self.container:
            found = containers().found(self.container)
            return bool(found and found.alive())
        return process.started(self.pid) == self.started

    def stop(self, grace: float) -> None:
        """End it: asked first, killed after `grace` seconds."""
        if not self.container:
            process.stop_group(self.pid, grace, self.alive)
        elif found := containers().found(self.container):
            found.stop(grace)

    def tail(self, lines: int) -> str:
        """Return the last lines of its output."""
        if not self.container:
            return process.tail(self.log, lines)
        found = containers().found(self.container)
        return found.tail(lines) if found else ""

    @property
    def endpoint(self) -> Endpoint:
        """Its address."""
        return Endpoint(self.engine, self.url, self.model, key_in(self.api_key_file))


def start(name: str, target: Target, place: Place, folder: Path, port: int | None = None) -> Server:
    """Start a server that outlives us, wait until it answers, and keep its state in `folder`/<engine>.json; errors as `serving.serving`."""
    old = read_state(folder / f"{name}.json")
    if old:
        raise NotReadyError(f"{name} is being served already, at {old.url}", "`thinkship stop` ends it")
    chosen = serving.pick_port(port)
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    target = _with_own_key(target, place.tools.scratch)
    running = serving.launched(name, target, place, chosen, log, detached=True)
    try:
        endpoint = serving.ready(name, target, place, running, chosen)
        running.keep()  # not before: a server that cannot start must be told of, not started again and again
        key = target.api_key_file
        server = Server(engine=name, url=endpoint.url, model=endpoint.model, log=log, api_key_file=key, **running.identity)
        draft = folder / f".{name}.json"
        draft.write_text(server.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(draft, folder / f"{name}.json")
    except BaseException:
        running.stop()
        raise
    return server


def _with_own_key(target: Target, scratch: Path) -> Target:
    """Return the target with a copy of its API key, for the server alone to read: in a container it may run as another user."""
    if not target.api_key_file:
        return target
    scratch.mkdir(parents=True, exist_ok=True)
    own = scratch.resolve() / "api_key"
    own.unlink(missing_ok=True)
    own.touch(0o600)
    own.write_text(target.api_key or "", encoding="utf-8")
    return replace(target, api_key_file=own)


def running(folder: Path) -> tuple[Server, ...]:
    """Return the servers of ours that still run."""
    return tuple(server for name in NAMES if (server := read_state(folder / f"{name}.json")))


def folder_of(store: Path) -> Path:
    """Return where a store keeps its servers' states and logs."""
    return store / ".servers"


def first(folder: Path) -> Server:
    """Return the server of ours that runs; NotReadyError where none does."""
    found = running(folder)
    if not found:
        raise NotReadyError("no server of this store is running", "start one with `make serve-llamacpp`, or name one with --url")
    return found[0]


def stop(folder: Path, grace: float = 75.0) -> tuple[Server, ...]:
    """Stop every server of ours, which first finishes what it answers, and return them; a process that only inherited a number is left alone."""
    stopped = running(folder)
    for server in stopped:
        server.stop(grace)
    for name in NAMES:
        (folder / f"{name}.json").unlink(missing_ok=True)
    return stopped


def read_state(path: Path) -> Server | None:
    """Return the server of a state file, None where there is none, it is unreadable, or its process is gone."""
    try:
        server = Server.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return server if server.alive() else None


def containers() -> ModuleType:
    """Return the door to the Docker Engine, imported where a container is really looked at."""
    from toolkit.runners import docker

    return docker
