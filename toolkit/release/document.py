"""release.json as it is published: what a store served when it passed, step by step and byte by byte; its schema, and how one is read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolkit.artifact import digest
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError
from toolkit.recipe import EngineName
from toolkit.verify import Status

KEPT = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)
SUM = Field(pattern=r"^[0-9a-f]{64}$")
UNCOUNTED = {"id", "time"}
"""What a release's id does not cover."""


class ReleasedFile(BaseModel):
    """One file that an engine reads."""

    model_config = KEPT
    path: str = Field(pattern=r"^[^/]+/[^/].*$")
    """Below the store."""
    source: str
    """Its path in a repository that holds nothing but this model."""
    size: int
    """Bytes."""
    sha256: str = SUM

    @property
    def directory(self) -> str:
        """The sealed directory it lies in."""
        return self.path.partition("/")[0]


class ReleasedStep(BaseModel):
    """One step that led to the release."""

    model_config = KEPT
    name: str
    stage: str
    id: str = SUM
    """Covers its program, its environment's lock, its part of the recipe and its inputs."""
    directory: str
    """Its sealed directory in the store."""
    runner: str
    image: str
    """Name, tag and digest of the image it ran in, empty for a process of the machine."""
    thinkship: str
    """The toolkit's version that made it."""


class ReleasedEngine(BaseModel):
    """One engine and how it serves: what it is given are the flags of its verified run, with the model below /models."""

    model_config = KEPT
    engine: EngineName
    version: str
    """Its server's own word when it was verified, else what its lock says."""
    variant: str
    """Quantisation that is served."""
    step: str
    """The step that served and observed it."""
    image: str
    """Name and tag by content."""
    gpus: int
    args: tuple[str, ...]
    env: dict[str, str]
    context: int
    """Tokens of one request."""
    parallel: int
    """Requests answered at once."""
    startup_seconds: int
    """Longest time from the start to the first answered token."""
    drain_seconds: int
    """Time for begun answers when it is told to end."""
    resources: dict[str, Any]
    """What a replica asks of a Kubernetes node."""
    files: tuple[ReleasedFile, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


class Verification(BaseModel):
    """The report that the release rests on."""

    model_config = KEPT
    directory: str
    """The verify step's."""
    verdict: Literal["pass"]
    checks: dict[Status, int]
    """How many checks ended how."""
    report_sha256: str = SUM


class Commits(BaseModel):
    """The sources, by git commit; a release is never made from a tree with changes."""

    model_config = KEPT
    thinkship: str
    recipe: str
    """Empty where the recipe lies in no repository."""


class Release(BaseModel):
    """release.json: what is deployed, and all that it rests on."""

    model_config = KEPT
    schema_version: Literal[1] = Field(default=1, alias="schema")
    id: str = SUM
    """SHA-256 of everything but itself and the time, as JSON in canonical form: an altered file is refused."""
    recipe: str
    """The recipe's name."""
    model: str
    """The name that clients ask for."""
    thinkship: str
    """The toolkit's version."""
    commits: Commits
    time: str
    """When it was made, in UTC."""
    verification: Verification
    engines: tuple[ReleasedEngine, ...]
    tools: str
    """The image that loads, checks and tests the model on Kubernetes."""
    steps: tuple[ReleasedStep, ...]

    @property
    def short(self) -> str:
        """The id as people read it."""
        return self.id[:12]

    def step(self, name: str) -> ReleasedStep:
        """Return a step by name; InvalidError where there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise InvalidError(f"the release {self.short} has no step {name}", "make it again: thinkship release RECIPE")

    def engine(self, name: str | None) -> ReleasedEngine:
        """Return an engine by name, or the only one; UsageError where there is none of that name, or several and none is named."""
        names = [one.engine for one in self.engines]
        if name is None and len(names) > 1:
            raise UsageError(f"the release {self.short} serves with {', '.join(names)}", "name one with --engine; each is a deployment of its own")
        for one in self.engines:
            if name in (None, one.engine):
                return one
        raise UsageError(f"the release {self.short} does not serve with {name}", f"one of {', '.join(names)}")

    def text(self) -> str:
        """Return it as the text of release.json."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False) + "\n"


def identified(**content: Any) -> Release:
    """Return a release with the id of its content."""
    draft = Release(id="0" * 64, **content)
    return draft.model_copy(update={"id": identity(draft)})


def identity(release: Release) -> str:
    """Return the SHA-256 of what a release says, its time and id apart."""
    return digest(release.model_dump(mode="json", by_alias=True, exclude=UNCOUNTED))


def schema() -> str:
    """Return the JSON schema of release.json as the text of a file."""
    wanted = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Release.model_json_schema(mode="serialization"), "title": "release.json"}
    return json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"


def load(path: Path) -> Release:
    """Read a release; UsageError where it cannot be read, InvalidError where it is none, BrokenError where it was altered."""
    try:
        found = Release.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a file that `thinkship release` wrote") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise InvalidError(f"{path} is no release: {where}: {first['msg']}{more}", "docs/release.schema.json says what one holds") from error
    if identity(found) != found.id:
        raise BrokenError(f"{path} was altered: its content has another id", "take the file as `thinkship release` wrote it, or make it again")
    return found


def write(release: Release, path: Path) -> None:
    """Write a release whole or not at all; NotReadyError where it cannot be written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(release.text(), encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise NotReadyError(f"{path} cannot be written: {error.strerror}", "name another file with --output") from error
