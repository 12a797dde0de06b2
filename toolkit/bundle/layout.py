"""Images as an OCI layout: taken apart from what `docker save` says, shared layers once, and put together again for `docker load`.

Only `manifest.json` of a saved image is relied on, which every engine and image store writes; manifest and index are written anew, so that they
do not depend on the engine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.bundle.archive import PIECE, digest, header
from toolkit.bundle.manifest import Image
from toolkit.errors import FailedError

BLOBS = "images/blobs/sha256"
MARK = b'{"imageLayoutVersion":"1.0.0"}'
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
PACKED = {b"\x1f\x8b": "+gzip", b"\x28\xb5\x2f\xfd": "+zstd"}
"""How a layer begins that is compressed: Docker's own store saves plain tars, containerd's what was pulled (OCI image spec, layer.md)."""


@dataclass(frozen=True)
class Blob:
    """A file of the layout, by its content."""

    sha256: str
    size: int


class _Stream(io.RawIOBase):
    """What comes in pieces, as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def staged(chunks: Iterable[bytes], tags: tuple[str, ...], folder: Path) -> Image:
    """Take a saved image apart into blobs by their content below a folder; FailedError where it is not what `docker save` writes."""
    names: dict[str, Blob] = {}
    links: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Stream(chunks), PIECE), mode="r|") as saved:
            for info in saved:
                name = posixpath.normpath(info.name)
                if info.issym() or info.islnk():  # engines before 25 link a layer that an image has twice
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name) if info.issym() else "", info.linkname))
                elif info.isreg() and (stream := saved.extractfile(info)):
                    if name == "manifest.json":
                        texts[name] = stream.read()
                    else:
                        names[name] = _kept(stream, folder)
        (told,) = json.loads(texts["manifest.json"])
        config, *layers = (names[links.get(path, path)] for path in map(posixpath.normpath, (told["Config"], *told["Layers"])))
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise FailedError(f"the Docker Engine saved {tags[0]} in a form that is not known here: {error}", "use Docker 20.10 or later") from error
    data = _manifest(config, layers, folder)
    _kept(io.BytesIO(data), folder)
    return Image(tags=tags, config=config.sha256, manifest=digest(data), layers=tuple(layer.sha256 for layer in layers))


def _kept(stream: Any, folder: Path) -> Blob:
    """Write a blob under its checksum, whole and on the disk, or not at all."""
    draft, total, size = folder / ".draft", hashlib.sha256(), 0
    with draft.open("wb") as sink:
        while piece := stream.read(PIECE):
            total.update(piece)
            size += len(piece)
            sink.write(piece)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(draft, folder / total.hexdigest())
    return Blob(total.hexdigest(), size)


def _manifest(config: Blob, layers: Iterable[Blob], folder: Path) -> bytes:
    described = [_described(f"{LAYER_TYPE}{_packing(folder / layer.sha256)}", layer) for layer in layers]
    return _json({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": _described(CONFIG_TYPE, config), "layers": described})


def _packing(layer: Path) -> str:
    with layer.open("rb") as stream:
        begin = stream.read(4)
    return next((name for magic, name in PACKED.items() if begin.startswith(magic)), "")


def _described(kind: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{blob.sha256}", "size": blob.size}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def indexes(images: Iterable[Image], sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return the files beside the blobs by name: the mark, OCI's index, and the list that `docker load` reads; `sizes` are those of blobs."""
    images = tuple(images)
    index = [
        _described(MANIFEST_TYPE, Blob(image.manifest, sizes[image.manifest]))
        | {"annotations": {"io.containerd.image.name": full(tag), "org.opencontainers.image.ref.name": tag}}
        for image in images
        for tag in image.tags
    ]
    listed = [
        {"Config": f"blobs/sha256/{image.config}", "RepoTags": list(image.tags), "Layers": [f"blobs/sha256/{layer}" for layer in image.layers]}
        for image in images
    ]
    return {"index.json": _json({"schemaVersion": 2, "manifests": index}), "manifest.json": _json(listed), "oci-layout": MARK}


def full(tag: str) -> str:
    """Return an image's name with what Docker leaves out of it: its hub and the hub's own folder."""
    first, slash, _ = tag.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return tag
    return f"docker.io/{tag}" if slash else f"docker.io/library/{tag}"


def loadable(image: Image, sizes: Mapping[str, int], blob: Any) -> Iterator[bytes]:
    """Yield the tar that `docker load` takes of one image; `blob` gives the pieces of a blob by its checksum."""
    for name, data in sorted(indexes([image], sizes).items()):
        yield from (header(name, len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))
    for sha256 in dict.fromkeys((image.manifest, image.config, *image.layers)):
        yield header(f"blobs/sha256/{sha256}", sizes[sha256])
        yield from blob(sha256)
        yield bytes(-sizes[sha256] % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
