"""A host with Docker Compose: two places for releases, blue and green, each a project of its own, and one proxy before them that stays."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit import process, serving
from toolkit.deployment.acts import Access, Act, Prove, Run, Write
from toolkit.deployment.plan import Acts
from toolkit.deployment.state import Deployed, Deployment, Ledger
from toolkit.engines import engine
from toolkit.errors import FailedError, NotReadyError
from toolkit.export.served import MODELS
from toolkit.process import Command
from toolkit.runners import docker
from toolkit.stages import ROOT

COMPOSE = ROOT / "compose"
GPU = {"vllm": "vllm-gpu", "ollama": "ollama-gpu"}
"""The services of compose.yaml that use GPUs."""
PROFILES = {"vllm-gpu": "gpu"}
"""Profiles that are not called as their service."""
NOBODY = "nobody nobody 0000\n"
"""The route before the first release has passed."""
OF_ALL = 0x10000
"""What the share of a route is a part of: the proxy holds four hexadecimal digits of chance against it (compose/Caddyfile)."""
SPARE = 60
"""Seconds beside those that a program should take."""


@dataclass(frozen=True)
class Compose:
    """Deployments on this host."""

    name: str
    store: Path
    """With its whole path."""
    folder: Path
    """The deployment's own: the proxy reads its route there."""
    port: int = 0
    """A free port, for a release that is placed."""
    key_file: Path | None = None

    @property
    def project(self) -> str:
        """The proxy's project."""
        return f"thinkship-{self.name}"

    def placed(self, new: Deployed, old: Deployed | None) -> Deployed:
        """Return the release in the place that the old one leaves free."""
        return new.model_copy(update={"slot": "green" if old and old.slot == "blue" else "blue", "port": self.port})

    def mended(self, state: Deployment) -> Acts:
        """Return nothing: what is done twice is done."""
        return ()

    def tried(self, old: Deployed | None, new: Deployed, percent: int) -> Acts:
        """Return what starts a release beside the old one, gives it its share and proves it."""
        shared = self._routed(f"{percent} % of the requests go to {new.slot}", share(old, new, percent), new) if old and percent else ()
        access = Access(new.port, key_file=self.key_file)
        return (*self.started(old, new), *shared, Prove(f"{new.slot} is held against what its release passed", new, access))

    def started(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what starts a release; the proxy first, whose network it joins, and which has nobody to ask before the first promotion."""
        closed = () if old else (Write("nobody is asked before the first release has passed", self.folder / "route", NOBODY),)
        served = new.served
        settings = "".join(f"{name}={value}\n" for name, value in sorted(served.env.items()))
        words = ("up", "--detach", "--wait", "--no-build", "--remove-orphans", "--wait-timeout", str(served.startup_seconds))
        return (
            *closed,
            self._door(new),
            Write(f"the settings of {new.slot}", self._settings_file(new), settings),
            Run(f"{new.title} starts in {new.slot}", self._slot(new, *words), served.startup_seconds + SPARE),
        )

    def promoted(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what sends all requests to the new release."""
        return self._routed(f"all requests go to {new.slot}", whole(new), new)

    def witnessed(self, new: Deployed) -> Acts:
        """Return what shows the engine's last lines."""
        words = ("logs", "--no-color", "--no-log-prefix", "--tail", "15", service(new))
        return (Run(f"the last lines of {new.slot}", self._slot(new, *words), SPARE, must=False, told=True),)

    def removed(self, gone: Deployed, kept: Deployed | None) -> Acts:
        """Return what leaves the kept release alone, the proxy with it; without one the proxy goes too."""
        if kept:
            return (*self._routed(f"all requests go to {kept.slot}", whole(kept), kept), *self._ended(gone))
        return (*self._ended(gone), Run("the proxy ends", self._front(gone, "down"), 2 * SPARE))

    def retired(self, old: Deployed | None, new: Deployed) -> Acts:
        """Return what ends the old release."""
        return self._ended(old) if old else ()

    def _ended(self, gone: Deployed) -> Acts:
        """Return what ends a release to which no requests go any more; what it began to answer it finishes."""
        drain = gone.served.drain_seconds
        wait = ("exec", "-T", service(gone), "/opt/thinkship/drain.sh", "1", str(drain))
        waiting = Run("Ollama drops what it has begun when it ends: wait for it", self._slot(gone, *wait), drain + SPARE, must=False)
        ends = Run(f"{gone.title} ends in {gone.slot}", self._slot(gone, "down", "--remove-orphans"), drain + 2 * SPARE)
        return (waiting, ends) if gone.engine == "ollama" else (ends,)

    def _routed(self, why: str, route: str, one: Deployed) -> Acts:
        return (Write(why, self.folder / "route", route), self._door(one))

    def _door(self, one: Deployed) -> Act:
        words = ("up", "--detach", "--wait", "--no-build", "--no-recreate")
        return Run("the proxy runs; one that does is left as it is", self._front(one, *words), 5 * SPARE)

    def _front(self, one: Deployed, *words: str) -> Command:
        env = {"DEPLOYMENT": str(self.folder), **self._needed(one)}
        return _compose(self.project, "front.yaml", "proxy", words, env)

    def _slot(self, one: Deployed, *words: str) -> Command:
        name = service(one)
        env = {
            **self._needed(one),
            "CONTEXT": str(one.served.context),
            "PARALLEL": str(one.served.parallel),
            "MODELFILE": one.served.env.get("MODELFILE", "").removeprefix(f"{MODELS}/"),
            f"{one.engine.upper()}_PORT": str(one.port),
            "BIND": "127.0.0.1",
            "ENGINE_ARGS": shlex.join(one.served.args),
            "ENGINE_ENV": str(self._settings_file(one)),
            "GRACE": f"{one.served.drain_seconds + 30}s",
            "SLOT": one.slot,
            "FRONT": f"{self.project}_default",
        }
        return _compose(f"{self.project}-{one.slot}", "slot.yaml", PROFILES.get(name, name), words, env)

    def _needed(self, one: Deployed) -> dict[str, str]:
        """Return what compose.yaml must be told, whatever of it is started."""
        repository, _, tag = one.image.rpartition(":")
        return {"MODEL_DIR": str(self.store), "MODEL_NAME": one.release.model, "IMAGES": repository.rpartition("/")[0], "TAG": tag}

    def reading(self, one: Deployed) -> Command:
        """Return what prints how Compose reads a place, without the file of settings that is written when it is filled."""
        command = self._slot(one, "config", "--format", "json")
        return replace(command, env={**command.env, "ENGINE_ENV": os.devnull})

    def _settings_file(self, one: Deployed) -> Path:
        return self.folder / f"{one.slot}.env"


def _compose(project: str, file: str, profile: str, words: tuple[str, ...], env: Mapping[str, str]) -> Command:
    files = ("--project-directory", str(COMPOSE), "--file", str(COMPOSE / "compose.yaml"), "--file", str(COMPOSE / file))
    return Command(("docker", "compose", "--project-name", project, *files, "--profile", profile, *words), env)


def service(one: Deployed) -> str:
    """Return the service of compose.yaml that serves a release."""
    return GPU.get(one.engine, one.engine) if one.served.gpus else one.engine


def address(one: Deployed) -> str:
    """Return where the proxy finds a release: its place is its name in the proxy's network."""
    return f"{one.slot}:{engine(one.engine).port}"


def whole(one: Deployed) -> str:
    """Return the route to one release: who is asked of a share, who of the rest, and the share."""
    return f"{address(one)} {address(one)} 0000\n"


def share(old: Deployed, new: Deployed, percent: int) -> str:
    """Return the route that gives the new release so many of a hundred requests."""
    return f"{address(new)} {address(old)} {OF_ALL * percent // 100:04x}\n"


def here(ledger: Ledger, state: Deployment, wanted: Deployed | None) -> Compose:
    """Look at this host and return it; NotReadyError where Docker, a Docker Engine, an image or the API key is missing. Nothing is changed."""
    process.which("docker", "install Docker with its compose plugin (2.24 or newer)")
    try:
        docker.client()
    except NotReadyError as error:
        raise NotReadyError(error.message, "start it (systemctl start docker) or set DOCKER_HOST") from error
    goal = Compose(ledger.name, ledger.store.resolve(), ledger.folder, serving.pick_port())
    if wanted is None:
        return goal
    if not wanted.registry and docker.digest(wanted.image) is None:
        remedy = f"thinkship images build {wanted.engine}, at the commit {wanted.release.commits.thinkship[:12]}, or --registry"
        raise NotReadyError(f"the image {wanted.image} is not here", remedy)
    return replace(goal, key_file=_key_file(goal, goal.placed(wanted, state.current)))


def _key_file(goal: Compose, one: Deployed) -> Path | None:
    """Return the file with the API key that Compose gives an engine, None for an engine that asks for none; the proxy asks in any case."""
    command = goal.reading(one)
    try:
        told = process.run(command, timeout=SPARE).output
    except FailedError as error:
        raise NotReadyError(f"Docker Compose cannot read {COMPOSE}: {error.message}", "`docker compose version` must say 2.24 or newer") from error
    file = Path(json.loads(told)["secrets"]["api_key"]["file"])
    if not file.is_file():
        raise NotReadyError(f"there is no API key at {file}", f"{COMPOSE}/init.sh makes one; API_KEY_FILE names another")
    return file if engine(one.engine).asks_for_key else None
