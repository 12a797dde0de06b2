"""What a bundle says of itself: every member with its size and checksum, and which of them make up directories and images."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from toolkit.errors import InvalidError
from toolkit.recipe import EngineName
from toolkit.section import Section

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DIRECTORY = re.compile(r"^[a-z0-9][A-Za-z0-9_.-]*$")
"""The name of a step's directory: it lies in the store itself."""
ROOTS = ("charts", "compose", "images", "recipe", "store")
"""Folders of an archive; beside them lies values.yaml."""
RECORD = "record.json"


def _inside(path: str) -> str:
    """Refuse a path that could lead out of the folder that a bundle is unpacked to."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} leads out of the folder that it is unpacked to")
    if path != "values.yaml" and (parts[0] not in ROOTS or len(parts) < 2):
        raise ValueError(f"{path!r} is nothing that a bundle holds")
    return path


class Member(Section):
    """One file of the archive."""

    path: Annotated[str, AfterValidator(_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    executable: bool = False
    mtime_ns: Annotated[int, Field(ge=0)] | None = None
    """The time that the file is given when it is restored: a record tells sealed files by it, and a plan large data files."""


class Image(Section):
    """One image of the archive, as the OCI layout in `images/` holds it."""

    tags: tuple[str, ...]
    config: Sha256
    """Of its configuration, which is its id in Docker's own store."""
    manifest: Sha256
    """Of its manifest, which is its id in containerd's store."""
    layers: tuple[Sha256, ...]

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return the paths of all that it is made of, once each."""
        return tuple(f"images/blobs/sha256/{digest}" for digest in dict.fromkeys((self.manifest, self.config, *self.layers)))


class Serving(Section):
    """How compose serves the model with one engine."""

    profile: str
    settings: dict[str, str]
    """Variables of compose.yaml; MODEL_DIR is known where the bundle is loaded."""


class Manifest(Section):
    """The first member of every bundle."""

    schema_version: Literal[1]
    thinkship: str
    recipe: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Its name, by which the recipe's file is called too."""
    model: str
    """The name that clients ask for."""
    verdict: str
    """Of the report that covers the engines; empty where there is none."""
    serving: dict[EngineName, Serving]
    directories: tuple[str, ...]
    images: tuple[Image, ...]
    members: tuple[Member, ...]

    @model_validator(mode="after")
    def _holds_together(self) -> Manifest:
        paths = [member.path for member in self.members]
        if paths != sorted(set(paths)):
            raise ValueError("the members are not sorted, or one is there twice")
        folders = {path[:end] for path in paths for end in (place.start() for place in re.finditer("/", path))}
        if both := folders & set(paths):
            raise ValueError(f"{min(both)!r} is a file and a folder")
        found = {path.split("/")[1] for path in paths if path.startswith("store/")}
        if found != set(self.directories) or not all(map(DIRECTORY.match, self.directories)):
            raise ValueError("the members below store/ are not those of the directories")
        wanted = [f"store/{name}/{RECORD}" for name in self.directories] + [path for image in self.images for path in image.blobs]
        if missing := [path for path in wanted if path not in set(paths)]:
            raise ValueError(f"{missing[0]} is missing")
        return self

    def encoded(self) -> bytes:
        """Return it as the archive holds it: the same values give the same bytes."""
        return (json.dumps(self.model_dump(mode="json", exclude_defaults=True), indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()

    @property
    def id(self) -> str:
        """Return its SHA-256, by which a bundle is known."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def of_directory(self, name: str) -> tuple[Member, ...]:
        """Return the members of one sealed directory."""
        return tuple(member for member in self.members if member.path.startswith(f"store/{name}/"))

    def below(self, *roots: str) -> int:
        """Return the bytes below some of the archive's folders."""
        return sum(member.size for member in self.members if member.path.split("/")[0] in roots)


def decoded(data: bytes, name: str) -> Manifest:
    """Read a manifest; InvalidError where it is none of this version, or names what may not be unpacked."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidError(f"{name}: manifest.json: {words(error)}", "have it saved again by this version") from error


def words(error: ValidationError) -> str:
    """Return the first thing that is wrong, with its place."""
    first = error.errors()[0]
    place = "/".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")
