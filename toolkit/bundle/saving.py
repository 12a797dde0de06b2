"""`thinkship bundle save`: everything is known with its checksum before the first byte is written; what is there of a cut-off go is kept."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from toolkit import __version__, console, recipe_file
from toolkit.bundle import archive, contents, deployment, layout, shelf
from toolkit.bundle.archive import Slot, Wanted, fill
from toolkit.bundle.contents import Item, Wish
from toolkit.bundle.manifest import Image, Manifest, Member, words
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError
from toolkit.export import served as export
from toolkit.export.served import Served

MIB = 1 << 20


@dataclass(frozen=True)
class Images:
    """Which images come along: those of the engines, others by their tags, or none at all."""

    more: tuple[str, ...] = ()
    none: bool = False
    gpu: bool | None = None
    """Whether engines are served on GPUs; by the recipe where None."""


def save(wish: Wish, images: Images, path: Path) -> Manifest:
    """Write a bundle and return its manifest.

    NotReadyError where something that it should hold is not here, or the disk is too small; BrokenError where a sealed file was touched.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name the file to be written with --output")
    part, folder = _beside(path, "part"), _beside(path, "images")
    with archive.disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            items, manifest = _planned(wish, images, folder)
        except ValidationError as error:
            raise InvalidError(words(error), "rename it: a bundle holds plain names alone") from error
        _require_space(manifest, part)
        _write(manifest, items, part)
        os.replace(part, path)
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _planned(wish: Wish, images: Images, folder: Path) -> tuple[dict[str, Item], Manifest]:
    found = contents.directories(wish)
    several = [export.served(wish.recipe, export.Wish(name, gpu=images.gpu), wish.store.root) for name in wish.served()]
    if not several:
        raise UsageError("the recipe serves with none of the engines that have an image", f"--engine {'|'.join(export.ENGINES)}")
    shelved = () if images.none else _shelved(several, images.more, folder)
    everything = [*contents.recipe(wish), *contents.sealed(wish.store, found), *contents.around()]
    everything += [*_layout(shelved, folder), contents.text("values.yaml", deployment.chart_values(several))]
    items = {item.member.path: item for item in sorted(everything, key=lambda item: item.member.path)}
    verdicts = {one.verdict for one in several}
    manifest = Manifest(
        schema_version=1,
        thinkship=__version__,
        recipe=recipe_file.load(wish.recipe).name,
        model=several[0].name,
        verdict=verdicts.pop() if len(verdicts) == 1 else "",
        serving={one.engine: deployment.serving(one) for one in several},
        directories=tuple(sorted(step.directory for step, _ in found)),
        images=shelved,
        members=tuple(item.member for item in items.values()),
    )
    return items, manifest


def _shelved(several: Iterable[Served], more: tuple[str, ...], folder: Path) -> tuple[Image, ...]:
    return shelf.shelved([*(one.image for one in several), export.image("verify", ""), *more], folder)


def _layout(images: tuple[Image, ...], folder: Path) -> Iterator[Item]:
    """Yield the members of the OCI layout, each blob once."""
    blobs = {blob for image in images for blob in (image.manifest, image.config, *image.layers)}
    sizes = {blob: (folder / blob).stat().st_size for blob in blobs}
    for name, data in layout.indexes(images, sizes).items() if images else ():
        yield contents.text(f"images/{name}", data)
    for blob, size in sizes.items():
        yield Item(Member(path=f"{layout.BLOBS}/{blob}", size=size, sha256=blob), folder / blob)


def _require_space(manifest: Manifest, part: Path) -> None:
    there = part.stat().st_size if part.is_file() else 0
    needed = archive.length(archive.slots(manifest)) - there
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        message = f"{part.parent}: {needed / MIB:,.1f} MiB are needed for the bundle, {free / MIB:,.1f} MiB are free"
        raise NotReadyError(message, "free space, or write it to another disk")


def _write(manifest: Manifest, items: dict[str, Item], part: Path) -> None:
    """Write the archive; BrokenError names the file whose content is not what the manifest says."""
    places = archive.slots(manifest)
    total = archive.length(places)
    head = manifest.encoded()
    own = {archive.HEAD: head, archive.SUM: archive.checksum_line(head)}
    if part.exists():
        console.note(f"goes on with {part}: what is there is read again and kept")
    part.touch()
    with part.open("r+b") as sink, console.bar() as bar:
        done = 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            bar.report(done // MIB, total // MIB, "MiB")

        for slot in places:
            sink.seek(slot.start)
            if sink.read(len(slot.header)) != slot.header:
                sink.seek(slot.start)
                sink.write(slot.header)
            source = own[slot.path] if slot.path in own else items[slot.path].source
            with _open(source) as stream:
                if not fill(sink, Wanted(slot.data, slot.size, slot.sha256), stream, count):
                    raise _changed(slot, source)
            sink.seek(slot.data + slot.size)
            sink.write(bytes(slot.padding))
        sink.truncate(places[-1].end)
        sink.truncate(total)
        sink.flush()
        os.fsync(sink.fileno())


def _changed(slot: Slot, source: Path | bytes) -> BrokenError:
    where = source if isinstance(source, Path) else slot.path
    sealed = slot.path.startswith("store/")
    return BrokenError(f"{where} was changed", "rm -r its directory and run the recipe again" if sealed else "run the same command again")


@contextmanager
def _open(source: Path | bytes) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    with source.open("rb") as stream:
        yield stream
