"""Runs a step as a hardened container of its environment's image, with the same programs, arguments and records as the local runner."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit import hubs, process
from toolkit.engines import Target, Tools, engine
from toolkit.errors import FailedError, NotReadyError
from toolkit.fit.card import present
from toolkit.host import HOST_STAGES
from toolkit.images import Image, ensure, image
from toolkit.pipeline import Task
from toolkit.places import Place
from toolkit.plan import Step
from toolkit.process import Command
from toolkit.runners import docker, reaper
from toolkit.runners.docker import Box, Container
from toolkit.runners.events import OFFLINE, QUIET, Events, write_arguments

PYTHON, PROGRAMS = Path("/opt/venv/bin/python"), Path("/opt/thinkship")
"""Where every image of images/ has its interpreter and its folder's programs."""
NETWORK_FILES = (Path("/etc/pip.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))
NETWORK_SETTINGS = re.compile(r"^(PIP_|HF_|MODELSCOPE_|(https?|no)_proxy$|SSL_CERT_FILE$|REQUESTS_CA_BUNDLE$)", re.IGNORECASE)
"""How this host reaches indexes and hubs, which a stage with network is given too: pip's settings, certificates, proxies, mirrors, tokens."""


class DockerRunner:
    """The runner behind `--runner docker`."""

    name = "docker"

    def __init__(self) -> None:
        docker.client()  # before anything is made
        reaper.sweep()
        self.labels = {docker.RUN: reaper.name()}
        self._guarded = False

    def run(self, step: Step, task: Task) -> dict[str, str]:
        """Run a step in its image, or on this host where its stage has none, and return what its record keeps of the image."""
        if step.stage.environment is None:
            HOST_STAGES[step.stage.name](step.recipe, task, self.place)
            return {}
        chosen = ensure(image(step.stage.environment, step.stage.lock(step.recipe)))
        self._guard()
        inputs = tuple(path.resolve() for path in task.inputs.values())
        check_readable(inputs)
        arguments, online = write_arguments(step, task), step.stage.online(step.recipe) and not hubs.offline()
        writes = (task.output, task.scratch, *((task.downloads,) if task.downloads else ()))
        box = Box(
            chosen.tag,
            (str(PYTHON), str(PROGRAMS / Path(step.stage.program).name), str(arguments)),
            reads=(*inputs, *(path for path in NETWORK_FILES if online and path.is_file())),
            writes=tuple(path.resolve() for path in writes),
            env=QUIET | process.WAITING | (_online() if online else OFFLINE) | _trackers(step),
            network=online,
            gpu=chosen.gpu,
            labels=self.labels,
        )
        with Events() as events, lent(box.writes):
            container = docker.start(box)
            try:
                code = container.follow(events.read, task.log)
                memory = container.out_of_memory()
            finally:
                container.remove()
        events.judge(step, 137 if memory else code, task)
        return {"image": chosen.digest()}

    def place(self, name: str, scratch: Path) -> Place:
        """Return where an engine's server runs."""
        self._guard()
        return Containers(name, scratch, self.labels)

    def _guard(self) -> None:
        """Start the process that removes this run's containers when we are killed."""
        if not self._guarded:
            command = Command((sys.executable, "-m", "toolkit.runners.reaper", self.labels[docker.RUN]))
            process.start(command, log=Path(os.devnull), detached=True)
            self._guarded = True


class Containers:
    """Where an engine's server runs as a container."""

    def __init__(self, name: str, scratch: Path, labels: dict[str, str]) -> None:
        environment = engine(name).environment or name
        self.image: Image = ensure(image(environment))
        self.labels = labels
        scratch.mkdir(parents=True, exist_ok=True)
        card = next(iter(present()), None) if self.image.gpu else None
        self.tools = Tools({environment: PYTHON}, PROGRAMS, scratch.resolve(), Path("ollama"), bind="0.0.0.0", gpu=self.image.gpu, card=card)

    def start(self, command: Command, target: Target, port: int, log: Path, detached: bool = False) -> Served:
        """Start a container; a detached one outlives us."""
        files = (target.gguf, target.modelfile, target.adapter, *target.adapters.values())
        given = (target.model, *(path and (path if path.is_dir() else path.parent) for path in files))
        reads = tuple(path.resolve() for path in given if path)
        check_readable(reads)
        box = Box(
            self.image.tag,
            command.argv,
            reads=reads,
            writes=(self.tools.scratch,),
            env=process.WAITING | dict(command.env),
            port=port,
            address=os.environ.get("BIND", "127.0.0.1"),
            gpu=self.image.gpu,
            cwd=command.cwd,
            labels={} if detached else self.labels,
        )
        _give(box.writes, docker.owner())
        return Served(docker.start(box), log)

    def call(self, server: Any, command: Command) -> None:
        """Run a program inside the server's container."""
        code, words = server.container.call(command.argv, command.env)
        if code:
            name, end = Path(command.argv[0]).name, process.ending(code)
            raise FailedError(f"{name} ended with {end}\n{words.strip()[-2000:]}", f"the command was: {command}")


class Served:
    """A server's container, as places.Running has it."""

    def __init__(self, container: Container, log: Path) -> None:
        self.container, self.log = container, log

    @property
    def name(self) -> str:
        """The image's name."""
        return self.container.box.image

    @property
    def identity(self) -> dict[str, str]:
        """What finds this very container again."""
        return {"container": self.container.id}

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs; 137 where the kernel killed it for memory."""
        return 137 if self.container.out_of_memory() else self.container.code

    def alive(self) -> bool:
        """Say whether it still runs."""
        return self.container.alive()

    def keep(self) -> None:
        """Have the engine restart it whenever it dies."""
        self.container.restart_when_it_dies()

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its output."""
        return self.container.tail(lines)

    def stop(self, grace: float = 10.0) -> None:
        """Keep its output in the log, then end and remove it."""
        with self.log.open("a", encoding="utf-8") as sink:
            sink.write(self.tail(2000) + "\n")
        self.container.stop(grace)
        _give(self.container.box.writes, (os.getuid(), os.getgid()))


def check_readable(folders: Iterable[Path]) -> None:
    """Raise NotReadyError where a caller who is root hands over a folder that is closed to the containers' user."""
    if os.getuid():
        return
    wanted = stat.S_IROTH | stat.S_IXOTH
    for folder in folders:
        if folder.stat().st_mode & wanted != wanted:
            message = f"{folder} is closed to user {docker.NOBODY}, as whom containers run where the caller is root"
            raise NotReadyError(message, f"chmod -R o+rX {folder}, or run thinkship as a user who is not root")


def _online() -> dict[str, str]:
    """Return the settings of a stage with network: the images are offline by themselves."""
    given = {name: value for name, value in os.environ.items() if NETWORK_SETTINGS.match(name)}
    token = hubs.hugging_face_token()  # it may lie in a file, which the container does not see
    return dict.fromkeys(OFFLINE, "0") | given | ({"HF_TOKEN": token} if token else {})


def _trackers(step: Step) -> dict[str, str]:
    """Return the trackers' own settings, addresses and keys, for a step that reports to one."""
    tracks = step.recipe.get("train", {}).get("track")
    return {name: value for name, value in os.environ.items() if tracks and name.startswith(("WANDB_", "MLFLOW_"))}


@contextmanager
def lent(folders: Iterable[Path]) -> Iterator[None]:
    """Let the container's user write into folders of root's while the block runs; any other caller's containers run as the caller."""
    places = tuple(folders)
    _give(places, docker.owner())
    try:
        yield
    finally:
        _give(places, (os.getuid(), os.getgid()))


def _give(folders: Iterable[Path], owner: tuple[int, int]) -> None:
    if os.getuid() == 0:
        for folder in folders:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, *owner, follow_symlinks=False)
