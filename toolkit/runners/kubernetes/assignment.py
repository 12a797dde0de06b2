"""A step as its pods are told of it: what the plan knows, in JSON, from this machine to the cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import InvalidError
from toolkit.plan import Step
from toolkit.stages import IMPORTED, MODELFILES, STAGES, Stage

MOST = 250 << 10
"""Bytes of all annotations of an object: Kubernetes takes 256 KiB (apimachinery, TotalAnnotationSizeLimitB)."""
RECIPE, TEMPLATES = "recipe_dir", "modelfiles"
"""Inputs that no step makes: the recipe's folder, and the chat templates, which the verify image has."""


@dataclass(frozen=True)
class Told(Stage):
    """A stage whose programs lie in another image: their digest is what the planner said."""

    programs: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over the programs, as planned."""
        return self.programs


@dataclass(frozen=True)
class Assignment:
    """One step."""

    name: str
    stage: str
    id: str
    program: str
    programs: str
    """The digest of the stage's programs."""
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Input name -> name of the step that makes it."""
    made: Mapping[str, str]
    """Input name -> directory of that step in the store."""
    paths: tuple[str, ...] = ()
    """Inputs that no step makes."""
    given: str = ""
    """Folder below the store with the recipe's own files, where the step reads any."""
    image: str = ""
    """What the record tells of the image; empty for a stage of the host package."""
    again: bool = False
    """Whether it is made anew although it is sealed: its files were freed, and a later step reads them."""

    def step(self) -> Step:
        """Return it as the pipeline takes it."""
        stage = IMPORTED if self.program == IMPORTED.program else STAGES[self.stage]
        told = Told(stage.name, stage.program, stage.slice, stage.network, stage.disk, stage.lock, self.programs)
        return Step(self.name, told, self.recipe, self.inputs, {}, self.id)


def of(step: Step, planned: Sequence[Step], *, given: str, image: str, again: bool = False) -> Assignment:
    """Return a step of a plan as an assignment; InvalidError where it reads a folder that pods cannot have."""
    directories = {other.name: other.directory for other in planned}
    for name, path in step.paths.items():
        if name != RECIPE and path != MODELFILES:
            raise InvalidError(f"{step.name} reads {path}, which is not on the volume", "--runner local or docker")
    made = {name: directories[other] for name, other in step.inputs.items()}
    facts = (step.name, step.stage.name, step.id, step.stage.program, step.stage.digest)
    return Assignment(*facts, step.recipe, step.inputs, made, tuple(step.paths), given, image, again)


def written(value: Any) -> str:
    """Return assignments as JSON; InvalidError where no annotation takes them."""
    plain = [asdict(one) for one in value] if isinstance(value, tuple) else asdict(value)
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > MOST:
        raise InvalidError(f"the plan has {len(text.encode()):,} bytes, and a pod is told at most {MOST:,}", "--runner local or docker")
    return text


def read(path: Path) -> tuple[Assignment, ...]:
    """Read one assignment, or a list of them."""
    found = json.loads(path.read_text(encoding="utf-8"))
    several = found if isinstance(found, list) else [found]
    return tuple(Assignment(**{**one, "paths": tuple(one["paths"])}) for one in several)
