"""The only door to the Docker Engine: hardened containers that see what they are given, write where they may, and end with the run."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount
from requests import RequestException
from urllib3.exceptions import HTTPError

from toolkit.errors import FailedError, NotReadyError, ThinkshipError

NOBODY = 10001
"""User and group of a container whose caller is root; the images' own."""
MEMORY = "THINKSHIP_MEMORY"
"""Environment variable: memory of a container, as Docker writes it (8g)."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that a container may take unless told otherwise, so that the kernel ends it and not the machine's own programs."""
GONE = (RequestException, HTTPError)
"""What the SDK lets through when the engine's socket breaks off."""
SAVED_AT_ONCE = 1 << 20
"""Bytes of a saved image that come in one piece."""
RUN = "thinkship.run"
"""Label: the run that a container must not outlive."""


@dataclass(frozen=True)
class Box:
    """A container to be. Folders are mounted at their own paths, so that a path means the same inside and outside."""

    image: str
    argv: tuple[str, ...]
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    port: int | None = None
    """Port, the same inside and on the host."""
    address: str = "127.0.0.1"
    """Address of the host at which the port is open."""
    gpu: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


class Container:
    """A running container."""

    def __init__(self, box: Box, made: Any) -> None:
        self.box, self._made = box, made

    @property
    def id(self) -> str:
        """Return the engine's id."""
        return str(self._made.id)

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""
        state = self._state()
        return None if state.get("Running") or state.get("Status") == "created" else int(state.get("ExitCode", 1))

    def alive(self) -> bool:
        """Say whether it still runs."""
        return bool(self._state().get("Running"))

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its output."""
        with translated(self.box):
            return bytes(self._made.logs(tail=lines)).decode("utf-8", "replace").strip()

    def follow(self, on_line: Callable[[str], None], log: Path) -> int:
        """Read its output to the end, standard output line by line, standard error into `log`; return the exit code."""
        rest = b""
        with translated(self.box), log.open("ab") as sink:
            for output, errors in self._made.client.api.attach(self.id, stdout=True, stderr=True, stream=True, logs=True, demux=True):
                sink.write(errors or b"")
                sink.flush()
                *lines, rest = (rest + (output or b"")).split(b"\n")
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))
            self._made.wait()
        return self.code or 0

    def call(self, argv: tuple[str, ...], env: Mapping[str, str]) -> tuple[int, str]:
        """Run another program inside, and return its exit code and output."""
        with translated(self.box):
            done = self._made.exec_run(list(argv), environment=dict(env))
        return int(done.exit_code), bytes(done.output).decode("utf-8", "replace")

    def restart_when_it_dies(self) -> None:
        """Have the engine start it again whenever it ends without having been told to."""
        with translated(self.box):
            self._made.update(restart_policy={"Name": "unless-stopped"})

    def out_of_memory(self) -> bool:
        """Say whether the kernel killed it for memory."""
        return bool(self._state().get("OOMKilled"))

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to end, kill it after `grace` seconds, and remove it."""
        with translated(self.box):
            try:
                self._made.stop(timeout=int(grace))
            except NotFound:
                return
            self.remove()

    def remove(self) -> None:
        """Kill and remove it; nothing where it is gone already."""
        with translated(self.box):
            try:
                self._made.remove(force=True, v=True)
            except APIError as error:
                if error.status_code not in (404, 409):  # 409: it is being removed
                    raise

    def _state(self) -> dict[str, Any]:
        with translated(self.box):
            try:
                self._made.reload()
            except NotFound:
                return {"ExitCode": 137}
            return dict(self._made.attrs["State"])


@cache
def client() -> Any:
    """Connect to the engine that DOCKER_HOST or the usual socket names; NotReadyError where there is none or it may not be used."""
    try:
        _knock(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
        return docker.from_env()
    except PermissionError as error:
        raise NotReadyError("the Docker Engine may not be used by this user", "join the docker group, or use --runner local") from error
    except (OSError, DockerException) as error:
        raise NotReadyError("no Docker Engine answers", "start it (systemctl start docker), set DOCKER_HOST, or use --runner local") from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at a socket: the SDK would leave its own socket open, and hide a missing permission in its text."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(address.removeprefix("unix://"))


def version() -> str:
    """Return the engine's version; errors as `client`."""
    return str(client().version()["Version"])


def start(box: Box) -> Container:
    """Start a container; NotReadyError where the image, the port or the GPU is not to be had."""
    with translated(box):
        made = client().containers.create(box.image, **_settings(box))
        container = Container(box, made)
        try:
            made.start()
        except BaseException:
            container.remove()
            raise
    return container


def found(identity: str) -> Container | None:
    """Return a container by id or name, None where it is gone."""
    try:
        made = client().containers.get(identity)
    except NotFound:
        return None
    return Container(Box(str(made.attrs["Config"]["Image"]), ()), made)


def values(label: str) -> set[str]:
    """Return what a label says on the containers that bear it, running or not."""
    return {str(made.labels[label]) for made in client().containers.list(all=True, filters={"label": label}, ignore_removed=True)}


def remove_labelled(label: str, value: str) -> None:
    """Remove every container that bears a label."""
    for made in client().containers.list(all=True, filters={"label": f"{label}={value}"}, ignore_removed=True):
        Container(Box("", ()), made).remove()


def digest(image: str) -> str | None:
    """Return an image's id (sha256:…), None where it is not here."""
    found = inspect(image)
    return str(found["Id"]) if found else None


def inspect(image: str) -> dict[str, Any] | None:
    """Return what the engine knows of an image, None where it is not here."""
    try:
        return dict(client().images.get(image).attrs)
    except ImageNotFound:
        return None


def push(image: str, repository: str, tag: str) -> str:
    """Push an image under another name and return its digest in that registry; FailedError with the registry's words."""
    box = Box(f"{repository}:{tag}", ())
    with translated(box):
        client().images.get(image).tag(repository, tag)
        told = list(client().images.push(repository, tag=tag, stream=True, decode=True))
    refused = next((line["error"] for line in told if "error" in line), None)
    if refused:
        client().images.remove(f"{repository}:{tag}", noprune=True)
        raise FailedError(f"{repository}:{tag} was not pushed: {refused}", "docker login, or check the registry's address")
    return str(next(line["aux"]["Digest"] for line in told if "Digest" in line.get("aux", {})))


def saved(image: str) -> Iterator[bytes]:
    """Yield an image as `docker save` writes it; NotReadyError where it is not here."""
    with translated(Box(image, ())):
        yield from client().api.get_image(image, SAVED_AT_ONCE)


def load(chunks: Iterator[bytes], image: str) -> None:
    """Load what `docker load` takes; FailedError with the engine's words, in which `image` is named."""
    with translated(Box(image, ())):
        told = list(client().api.load_image(chunks))
    if refused := next((line["error"] for line in told if "error" in line), None):
        kind = NotReadyError if "no space left" in refused else FailedError
        raise kind(f"{image} was not loaded: {refused}", "see `docker info` and the engine's log")


def owner() -> tuple[int, int]:
    """Return user and group of containers: the caller's, and nobody's for root."""
    return (os.getuid(), os.getgid()) if os.getuid() else (NOBODY, NOBODY)


def _settings(box: Box) -> dict[str, Any]:
    user, group = owner()
    memory = os.environ.get(MEMORY) or int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * MEMORY_SHARE)
    mounts = [Mount(str(path), str(path), "bind", read_only=True) for path in dict.fromkeys(box.reads)]
    mounts += [Mount(str(path), str(path), "bind") for path in dict.fromkeys(box.writes)]
    return {
        "entrypoint": [box.argv[0]],
        "command": list(box.argv[1:]),
        "working_dir": str(box.cwd) if box.cwd else None,
        "labels": dict(box.labels),
        "environment": dict(box.env),
        "user": f"{user}:{group}",
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},  # exec: compiled kernels are loaded from there
        "mounts": mounts,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 4096,
        "mem_limit": memory,
        "memswap_limit": memory,
        "shm_size": "1g",  # workers of vLLM and of data loaders meet in /dev/shm; the engine gives 64 MB
        "init": True,
        "network_mode": "bridge" if box.network or box.port else "none",
        "ports": {f"{box.port}/tcp": (box.address, box.port)} if box.port else {},
        "device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])] if box.gpu else [],
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
    }


@contextmanager
def translated(box: Box) -> Iterator[None]:
    """Turn the engine's errors into ours."""
    try:
        yield
    except DockerException as error:
        raise _readable(error, box) from error
    except GONE as error:
        raise FailedError(f"the Docker Engine stopped answering: {error}", "start it again, then the same command") from error


def _readable(error: DockerException, box: Box) -> ThinkshipError:
    words = str(getattr(error, "explanation", None) or error)
    if isinstance(error, ImageNotFound) or "No such image" in words:
        return NotReadyError(f"the image {box.image} is not here", "make images")
    if "port is already allocated" in words or "address already in use" in words:
        return NotReadyError(f"port {box.port} of {box.address} is taken", "stop what uses it (`make stop`) or choose another with --port")
    if "could not select device driver" in words:
        return NotReadyError("containers get no GPU here", "install the NVIDIA Container Toolkit, or run without a GPU (THINKSHIP_VARIANT=cpu)")
    if "no space left" in words:
        return NotReadyError(f"the Docker Engine's disk is full: {words}", "docker system prune, or move its data-root to a larger disk")
    return FailedError(f"the Docker Engine refused {box.image or 'a container'}: {words}", "see `docker info` and the engine's log")
