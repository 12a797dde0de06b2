"""Where a run's Jobs work: the claim that holds the store, the namespace, the images' registry, and what stages with network are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from toolkit.artifact import digest
from toolkit.errors import UsageError
from toolkit.export.place import parse
from toolkit.images import Image
from toolkit.runners.kubernetes import overlay

USUAL = "pvc://thinkship-store"
MOUNT = PurePosixPath("/store")
"""Where pods see the claim."""
TOLD = Path("/etc/thinkship/told.json")
"""Where a pod reads what it is told: an annotation of its own, so that a Job is one object, there whole or not at all."""
GIVEN = Path("/given")
"""A pod's own folder, which its containers share: the chat templates, and the mark that the step was sealed already."""


@dataclass(frozen=True)
class Where:
    """Where Jobs work."""

    claim: str
    folder: str = ""
    """The store's folder on the claim, without slashes at its ends."""
    namespace: str = "default"
    registry: str = ""
    secret: str = ""
    """Secret whose keys become environment variables of stages with network."""
    gpu: bool = False
    """Whether steps that compute with torch are given GPUs."""
    pod: Mapping[str, Any] = field(default_factory=dict)
    """What is laid over the pods (overlay.py)."""

    @property
    def root(self) -> PurePosixPath:
        """The store, as pods see it."""
        return MOUNT / self.folder

    @property
    def volume(self) -> str:
        """The store's address."""
        return f"pvc://{self.claim}" + (f"/{self.folder}" if self.folder else "")

    @property
    def mark(self) -> str:
        """What tells Jobs of several stores in one namespace apart."""
        return digest(self.volume)[:6]

    def image(self, chosen: Image) -> str:
        """Return an image's name in the registry, by content as `images push` leaves it there."""
        return f"{self.registry.rstrip('/')}/{chosen.tag}" if self.registry else chosen.tag


def where(asked: Mapping[str, Any], gpu: bool | None) -> Where:
    """Return the place that the command line names; UsageError where that is no claim, errors of overlay.read. `gpu` is the recipe's verify.gpu."""
    place = parse(asked["volume"] or USUAL, option="--volume")
    if place.kind != "pvc":
        raise UsageError(f"--volume {place.text!r} is no claim", "pvc://CLAIM or pvc://CLAIM/FOLDER, of a PersistentVolumeClaim in the namespace")
    if ".." in PurePosixPath(place.folder).parts:
        raise UsageError(f"--volume {place.text!r} leaves the claim", "name a folder below the claim's own")
    wanted = asked["gpu"] if asked["gpu"] is not None else gpu is not False
    named = (asked["namespace"] or "default", asked["registry"] or "", asked["secret"] or "")
    return Where(place.name, place.folder, *named, wanted, overlay.read(asked["pod"]))
