"""A bundle's images on their way into the Docker Engine, and from there to a registry."""

from __future__ import annotations

from toolkit import console
from toolkit.bundle import layout
from toolkit.bundle.archive import Bundle
from toolkit.bundle.manifest import Image, Manifest
from toolkit.errors import BrokenError, UsageError
from toolkit.runners import docker


def require(manifest: Manifest) -> None:
    """Check before anything is restored that there are images, and an engine that takes them."""
    if not manifest.images:
        raise UsageError("the bundle holds no images", "leave out --docker and --registry, or have it saved without --no-images")
    docker.version()


def bring(bundle: Bundle, registry: str) -> None:
    """Load every image that the engine does not have, and push each to a registry where one is named, printing its digest there."""
    for image in bundle.manifest.images:
        missing = [tag for tag in image.tags if not _is(tag, image)]
        console.step(image.tags[0], "", "run" if missing else "skip")
        if missing:
            _load(bundle, image)
        for tag in image.tags if registry else ():
            repository, _, name = tag.rpartition(":")
            pushed = docker.push(tag, f"{registry.rstrip('/')}/{repository}", name)
            console.say(f"{registry.rstrip('/')}/{tag}@{pushed}")


def _is(tag: str, image: Image) -> bool:
    """Say whether the engine has an image by its tag; an image's id is its configuration in Docker's own store, its manifest in containerd's."""
    return docker.digest(tag) in (f"sha256:{image.config}", f"sha256:{image.manifest}")


def _load(bundle: Bundle, image: Image) -> None:
    slots = {slot.path: slot for slot in bundle.slots}
    sizes = {path.rpartition("/")[2]: slots[path].size for path in image.blobs}
    docker.load(layout.loadable(image, sizes, lambda blob: bundle.content(slots[f"{layout.BLOBS}/{blob}"])), image.tags[0])
    if strange := [tag for tag in image.tags if not _is(tag, image)]:
        raise BrokenError(f"{strange[0]} is another image than the bundle's after it was loaded", "see the Docker Engine's log")
