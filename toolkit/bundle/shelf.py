"""Images on their way into a bundle: each is saved once by the Docker Engine into blobs beside the archive, which a later go finds again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from toolkit import __version__, console
from toolkit.bundle import layout, manifest
from toolkit.errors import NotReadyError
from toolkit.images import NAMES, Image
from toolkit.runners import docker
from toolkit.section import Section


class _Note(Section):
    """An image that lies on the shelf, and which of the engine's it is."""

    id: str
    image: manifest.Image


def shelved(tags: Iterable[str], folder: Path) -> tuple[manifest.Image, ...]:
    """Have every image in a folder as blobs; NotReadyError where there is no engine, an image is not here or the disk is too small."""
    wanted = tuple(dict.fromkeys(tags))
    ids = {tag: _known(tag) for tag in wanted}
    waiting = [tag for tag in wanted if not _noted(tag, ids[tag][0], folder)]
    _require_space(sum(ids[tag][1] for tag in waiting), folder)
    folder.mkdir(parents=True, exist_ok=True)
    for tag in wanted:
        console.step(tag, "", "run" if tag in waiting else "skip")
        if tag in waiting:
            image = layout.staged(docker.saved(tag), names(tag), folder)
            _write(folder / _file(tag), _Note(id=ids[tag][0], image=image))
    found: dict[str, manifest.Image] = {}
    for tag in wanted:
        noted = _noted(tag, ids[tag][0], folder)
        assert noted  # it was there, or has just been saved
        before = found.get(noted.config, noted).tags
        found[noted.config] = noted.model_copy(update={"tags": tuple(sorted({*before, *noted.tags}))})
    return tuple(sorted(found.values(), key=lambda image: image.tags))


def names(tag: str) -> tuple[str, ...]:
    """Return an image's tag and, for one of ours by its content, the version's beside it: compose names images so."""
    repository = tag.rpartition(":")[0]
    ours = {Image(name, variant).repository for name in NAMES for variant in ("", "cpu")}
    return tuple(sorted({tag, f"{repository}:{__version__}"})) if repository in ours else (tag,)


def _known(tag: str) -> tuple[str, int]:
    """Return an image's id and its bytes."""
    try:
        found = docker.inspect(tag)
    except NotReadyError as error:
        raise NotReadyError(error.message, "start it (systemctl start docker), set DOCKER_HOST, or leave images out with --no-images") from error
    if not found:
        raise NotReadyError(f"the image {tag} is not here", "`thinkship images build` makes ours, docker pull brings others; or --no-images")
    return str(found["Id"]), int(found["Size"])


def _require_space(size: int, folder: Path) -> None:
    """Check for the images that are still to be saved; the archive itself is checked when its size is known."""
    free = shutil.disk_usage(folder.parent).free
    if free < size:
        message = f"{folder.parent}: up to {size >> 20} MiB are needed for the images, {free >> 20} MiB are free"
        raise NotReadyError(message, "free space, or write the bundle to another disk")


def _file(tag: str) -> str:
    return tag.replace("/", "_") + ".json"


def _noted(tag: str, identity: str, folder: Path) -> manifest.Image | None:
    """Return an image that lies on the shelf whole, None where it does not, or is another than the engine's now."""
    try:
        note = _Note.model_validate_json((folder / _file(tag)).read_bytes())
    except (OSError, ValidationError):
        return None
    blobs = (note.image.manifest, note.image.config, *note.image.layers)
    return note.image if note.id == identity and all((folder / blob).is_file() for blob in blobs) else None


def _write(path: Path, note: _Note) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(note.model_dump_json(), encoding="utf-8")
    os.replace(draft, path)
