"""The archive itself: a plain tar whose every byte follows from its manifest and its members' contents, so that nothing else can hide in it."""

from __future__ import annotations

import errno
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from toolkit.bundle.manifest import Manifest, decoded
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError

HEAD, SUM = "manifest.json", "manifest.json.sha256"
"""The first two members; the second is what `sha256sum --check` reads."""
LARGEST_HEAD = 256 << 20
"""Bytes that a manifest may have: what calls itself larger is no bundle."""
PIECE = 1 << 20
"""Bytes read at once."""
Count = Callable[[int], None]


@dataclass(frozen=True)
class Slot:
    """Where one member stands in the archive."""

    path: str
    size: int
    sha256: str
    header: bytes
    start: int

    @property
    def data(self) -> int:
        """Return where its content starts."""
        return self.start + len(self.header)

    @property
    def padding(self) -> int:
        """Return the zeros behind its content."""
        return -self.size % tarfile.BLOCKSIZE

    @property
    def end(self) -> int:
        """Return where the next one starts."""
        return self.data + self.size + self.padding


def header(path: str, size: int, executable: bool = False) -> bytes:
    """Return a member's header: nobody's, of no time, readable for all."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o755 if executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def slots(manifest: Manifest) -> tuple[Slot, ...]:
    """Return every member's place, the manifest and its checksum first."""
    head = manifest.encoded()
    checksum = checksum_line(head)
    own = [(HEAD, len(head), digest(head), False), (SUM, len(checksum), digest(checksum), False)]
    found: list[Slot] = []
    for path, size, sha256, executable in [*own, *((one.path, one.size, one.sha256, one.executable) for one in manifest.members)]:
        found.append(Slot(path, size, sha256, header(path, size, executable), found[-1].end if found else 0))
    return tuple(found)


def length(places: tuple[Slot, ...]) -> int:
    """Return the archive's bytes: two empty blocks end it, filled up as tar does."""
    end = places[-1].end + 2 * tarfile.BLOCKSIZE
    return end + -end % tarfile.RECORDSIZE


def checksum_line(head: bytes) -> bytes:
    """Return the content of the second member."""
    return f"{digest(head)}  {HEAD}\n".encode()


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield up to `size` bytes of a stream, fewer where it ends before."""
    while size and (piece := source.read(min(PIECE, size))):
        size -= len(piece)
        yield piece


@dataclass(frozen=True)
class Wanted:
    """Bytes that must stand somewhere in a file: from `offset` on, with this size and checksum."""

    offset: int
    size: int
    sha256: str


def fill(sink: BinaryIO, wanted: Wanted, source: BinaryIO, count: Count) -> bool:
    """Have bytes stand in a file and say whether they now do; False where the source holds others.

    What the file holds of them already is read and kept, and the source is read from there on: so work that was cut off goes on, whatever a
    power failure left. `source` stands at its first byte and can be sought in.
    """
    first = source.tell()
    for keep in (True, False):
        total, there = hashlib.sha256(), 0
        sink.seek(wanted.offset)
        for piece in pieces(sink, wanted.size if keep else 0):
            total.update(piece)
            there += len(piece)
        source.seek(first + there)
        sink.seek(wanted.offset + there)
        count(there)
        for piece in pieces(source, wanted.size - there):
            total.update(piece)
            sink.write(piece)
            count(len(piece))
            there += len(piece)
        if there == wanted.size and total.hexdigest() == wanted.sha256:
            return True
        count(-there)
    return False


class Bundle:
    """An archive that is open for reading; its manifest is checked, and its length is what the manifest says."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self._size = stream.seek(0, 2)
        self.manifest = self._head()
        self.slots = slots(self.manifest)
        self._require_length()

    def _head(self) -> Manifest:
        """Read the manifest and hold it against its checksum."""
        self.stream.seek(0)
        block = self.stream.read(tarfile.BLOCKSIZE)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            if block.startswith(f"{HEAD}\0".encode()):
                self._require(HEAD, block, tarfile.BLOCKSIZE)
                raise BrokenError(f"{self.path}: the header of {HEAD} was changed", "copy the bundle again") from error
            raise self._no_bundle() from error
        if info.name != HEAD or not info.isreg() or not 0 < info.size <= LARGEST_HEAD:
            raise self._no_bundle()
        head = self._whole(HEAD, info.size)
        self.stream.seek(-info.size % tarfile.BLOCKSIZE, 1)
        line = checksum_line(head)
        second = header(SUM, len(line))
        if self._whole(SUM, len(second)) != second or self._whole(SUM, len(line)) != line:
            raise BrokenError(f"{self.path}: {HEAD} is not what its checksum says", "copy the bundle again")
        found = decoded(head, str(self.path))
        if found.encoded() != head:
            raise InvalidError(f"{self.path}: {HEAD} is not written as this version writes it", "have it saved again by this version")
        return found

    def _no_bundle(self) -> InvalidError:
        return InvalidError(f"{self.path} is no bundle", "name a file that `thinkship bundle save` wrote")

    def _whole(self, name: str, size: int) -> bytes:
        data = self.stream.read(size)
        self._require(name, data, size)
        return data

    def _require(self, name: str, data: bytes, size: int) -> None:
        if len(data) < size:
            raise BrokenError(f"{self.path} ends after {self._size} bytes, in {name}", "copy the bundle again")

    def _require_length(self) -> None:
        wanted = length(self.slots)
        if self._size < wanted:
            where = next((slot.path for slot in self.slots if slot.end > self._size), "the blocks that end it")
            raise BrokenError(f"{self.path} ends after {self._size} of {wanted} bytes, in {where}", "copy the bundle again")
        if self._size > wanted:
            raise BrokenError(f"{self.path} has {self._size - wanted} bytes behind its end", "copy the bundle again")

    def require_frame(self, slot: Slot) -> None:
        """Hold what stands around a member's content against what belongs there; BrokenError names the member."""
        self.stream.seek(slot.start)
        head = self.stream.read(len(slot.header))
        self.stream.seek(slot.data + slot.size)
        if head != slot.header or any(self.stream.read(slot.padding)):
            raise self.broken(slot)

    def require_end(self) -> None:
        """Check that nothing stands behind the last member."""
        self.stream.seek(self.slots[-1].end)
        if any(self.stream.read()):
            raise BrokenError(f"{self.path}: there is something behind its last member", "copy the bundle again")

    def require_content(self, slot: Slot, count: Count) -> None:
        """Read a member to its end; BrokenError where its content is another."""
        total = hashlib.sha256()
        for piece in self.content(slot):
            total.update(piece)
            count(len(piece))
        if total.hexdigest() != slot.sha256:
            raise self.broken(slot)

    def content(self, slot: Slot) -> Iterator[bytes]:
        """Yield a member's bytes."""
        self.stream.seek(slot.data)
        yield from pieces(self.stream, slot.size)

    def broken(self, slot: Slot) -> BrokenError:
        """Return the error for a member that is not what the manifest says."""
        return BrokenError(f"{self.path}: {slot.path} is not what the manifest says", "copy the bundle again, or have it saved again")


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """Open a bundle; UsageError where there is no such file, InvalidError where it is none, BrokenError where it is cut off or was changed."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", "name the archive that `thinkship bundle save` wrote")
    with disk(path), path.open("rb") as stream:
        yield Bundle(path, stream)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into our words; what was written so far stays, for the next go."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NotReadyError(f"{path}: the disk is full", "free space, then the same command goes on") from error
        raise NotReadyError(f"{error.filename or path}: {error.strerror or error}", "see that it can be read and written") from error
