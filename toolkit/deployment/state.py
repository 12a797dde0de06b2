"""What is deployed under one name: the release that serves, the one before it, and what is being tried or taken away just now."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.errors import InvalidError, NotReadyError, UsageError
from toolkit.release.document import Release, ReleasedEngine

Goal = Literal["compose", "k8s"]
NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
"""What Docker Compose takes for a project and Kubernetes for an object, with room for what is added to it."""
FOLDER = "deployments"
KEPT = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)


class Deployed(BaseModel):
    """A release as it was put to work."""

    model_config = KEPT
    release: Release
    engine: str
    registry: str = ""
    slot: Literal["", "blue", "green"] = ""
    """Which of the two places of a host it has."""
    port: int = 0
    """Port of 127.0.0.1 at which it alone is reached."""
    values: dict[str, Any] = {}
    """What Helm was given."""

    @property
    def served(self) -> ReleasedEngine:
        """What the release says of the engine."""
        return self.release.engine(self.engine)

    @property
    def image(self) -> str:
        """The engine's image, where it is found."""
        return f"{self.registry.rstrip('/')}/{self.served.image}" if self.registry else self.served.image

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"{self.release.short} ({self.engine} {self.served.variant})"

    def same(self, other: Deployed | None) -> bool:
        """Say whether another one serves the same in the same way, wherever it is."""
        return other is not None and self._serving == other._serving

    @property
    def _serving(self) -> tuple[Any, ...]:
        return self.release.id, self.engine, self.registry, self.values


class Deployment(BaseModel):
    """deployments/NAME.json."""

    model_config = KEPT
    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    goal: Goal
    namespace: str = ""
    current: Deployed | None = None
    """What serves."""
    previous: Deployed | None = None
    """What served before it, for a rollback."""
    candidate: Deployed | None = None
    """What is being tried."""
    leftover: Deployed | None = None
    """What still has to be taken away: a candidate that failed, or the old one after a promotion."""

    def trying(self, candidate: Deployed) -> Deployment:
        """Return it with a release on trial."""
        return self.model_copy(update={"candidate": candidate})

    def promoted(self) -> Deployment:
        """Return it with the candidate serving, and the old one still to be taken away."""
        return self.model_copy(update={"current": self.candidate, "previous": self.current, "candidate": None, "leftover": self.current})

    def refused(self) -> Deployment:
        """Return it with the candidate to be taken away."""
        return self.model_copy(update={"candidate": None, "leftover": self.candidate})

    def cleared(self) -> Deployment:
        """Return it with nothing left over."""
        return self.model_copy(update={"leftover": None})


@dataclass(frozen=True)
class Ledger:
    """Where a store keeps what is deployed under a name; one command at a time changes it."""

    store: Path
    name: str

    def __post_init__(self) -> None:
        if not NAME.match(self.name):
            raise UsageError(f"{self.name!r} cannot name a deployment", "--name with lower-case letters, digits and '-', at most 40 of them")
        if not self.store.is_dir():
            raise NotReadyError(f"there is no store {self.store}", "name with --store the one in which the release was made, or a copy of it")

    @property
    def path(self) -> Path:
        """The state's file."""
        return self.store / FOLDER / f"{self.name}.json"

    @property
    def folder(self) -> Path:
        """What belongs to the deployment: the proxy's route, values, reports, logs."""
        return (self.store / FOLDER / self.name).resolve()

    def read(self, goal: Goal, namespace: str = "") -> Deployment:
        """Return what is deployed, an empty deployment where nothing was; UsageError where the name stands for another place."""
        try:
            found = Deployment.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return Deployment(name=self.name, goal=goal, namespace=namespace or ("default" if goal == "k8s" else ""))
        except OSError as error:
            raise NotReadyError(f"{self.path} cannot be read: {error.strerror}", "run thinkship as the user who deployed it") from error
        except ValidationError as error:
            message = f"{self.path} is damaged: {error.errors()[0]['msg']}"
            raise InvalidError(message, "restore the file; it tells what serves, and without it nothing is changed") from error
        if found.goal != goal or (namespace and found.namespace != namespace):
            where = " in ".join(filter(None, (found.goal, found.namespace)))
            raise UsageError(f"{self.name} is deployed to {where}", "take another --name, or the place it is in")
        return found

    def write(self, state: Deployment) -> None:
        """Keep what is deployed, on the disk before anything else happens; NotReadyError where that is not possible."""
        draft = self.path.with_name(f".{self.path.name}")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
                stream.write(state.model_dump_json(indent=2, by_alias=True) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, self.path)
        except OSError as error:
            raise NotReadyError(f"{self.path} cannot be written: {error.strerror}", "free space, or make the store writable") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the deployment; NotReadyError where another command changes it."""
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            self.folder.chmod(0o755)  # the proxy's user reads its route here; others do not get as far
            handle = self.path.with_name(f".{self.name}.lock").open("w")
        except OSError as error:
            raise NotReadyError(f"{self.store} cannot be written: {error.strerror}", "deploy as the user to whom the store belongs") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise NotReadyError(f"{self.name} is being deployed just now", "wait until that is done, or stop it") from error
            yield
