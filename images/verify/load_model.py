#!/usr/bin/env python3
"""`load_model.py MANIFEST FOLDER`: bring a model's files into a folder, or check those that are there, before an engine starts.

The manifest is {"from": ADDRESS, "files": [{"path", "size", "sha256", "from"}]}. ADDRESS is hf://owner/name@commit, https://host/prefix,
s3://bucket/prefix or file:///folder; empty, nothing is brought. A file goes on where it was cut off, is held against its checksum and only then gets
its name. What was checked and has its size and time since is not read again where the folder can be written. Exit codes as toolkit/errors.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import origin

INVALID, NOT_READY, BROKEN = 3, 4, 6
WORKERS, TRIES, FIRST_WAIT, PIECE = 4, 6, 0.5, 1 << 16
"""Files at once; tries in a row that bring nothing; seconds before the second of them, doubled each time; bytes read at once."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
CHECKED = ".thinkship.json"
"""What was checked: path -> [size, modification time in nanoseconds, SHA-256]."""


class LoadError(Exception):
    """What went wrong, how to mend it, and the exit code."""

    def __init__(self, message: str, remedy: str, code: int) -> None:
        super().__init__(message)
        self.remedy, self.code = remedy, code


class BrokenOffError(Exception):
    """A try ended before the file did; what came is kept."""


@dataclass(frozen=True)
class File:
    """One file that must lie in the folder."""

    path: str
    size: int
    sha256: str
    source: str


@dataclass
class Load:
    """A load under way."""

    folder: Path
    origin: str
    checked: dict[str, list[Any]]
    writable: bool
    total: int
    done: int = 0
    told: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, size: int) -> None:
        """Add bytes and say every few seconds how far it is."""
        with self.lock:
            self.done += size
            if time.monotonic() - self.told > 5:
                self.told = time.monotonic()
                say(f"{self.done >> 20} of {self.total >> 20} MiB")


def main(manifest: Path, folder: Path) -> int:
    """Bring or check every file and say what was done."""
    began = time.monotonic()
    given = json.loads(manifest.read_text(encoding="utf-8"))
    files = [File(one["path"], one["size"], one["sha256"], one.get("from", one["path"])) for one in given["files"]]
    for one in files:
        if one.path.startswith("/") or ".." in one.path.split("/"):
            raise LoadError(f"{one.path!r} leads out of the folder", "the values are not to be trusted", INVALID)
    writable = os.access(folder, os.W_OK)
    if given["from"] and not writable:
        raise LoadError(f"{folder} cannot be written by user {os.getuid()}", "give the volume to that user (fsGroup does where it can)", NOT_READY)
    with ExitStack() as held:
        if given["from"]:
            held.enter_context(alone(folder))
        load = Load(folder, given["from"], known(folder), writable, sum(one.size for one in files))
        require_space(load, files)
        brought = each(files, load)
    if writable:
        remember(load, files)
    seconds = time.monotonic() - began
    say(f"{len(files)} files, {load.total / 1e9:.2f} GB: {brought} brought, {len(files) - brought} there and as they should be, {seconds:.1f} s")
    return 0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two pods that share a volume do not load the same file twice."""
    with (folder / ".thinkship.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def known(folder: Path) -> dict[str, list[Any]]:
    """Return what was checked before."""
    try:
        found = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(load: Load, files: list[File]) -> None:
    """Write down what is there, beside what was written down before: several releases may share a volume."""
    found = {one.path: [one.size, (load.folder / one.path).stat().st_mtime_ns, one.sha256] for one in files}
    draft = load.folder / f"{CHECKED}.{os.getpid()}"
    draft.write_text(json.dumps({**load.checked, **found}), encoding="utf-8")
    draft.replace(load.folder / CHECKED)


def require_space(load: Load, files: list[File]) -> None:
    """Check before the first byte that what is missing finds room."""
    if load.origin:
        needed = sum(max(0, one.size - size(load.folder / one.path) - size(part(load, one))) for one in files)
        state = os.statvfs(load.folder)
        free = state.f_bavail * state.f_frsize
        if free < needed:
            message = f"the model needs {needed / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free in {load.folder}"
            raise LoadError(message, "take a larger volume", NOT_READY)


def each(files: list[File], load: Load) -> int:
    """Bring or check the files, a few at a time, and return how many were brought; the first failure ends the others."""
    with ThreadPoolExecutor(WORKERS) as pool:
        work = [pool.submit(settle, one, load) for one in files]
        try:
            return sum(done.result() for done in as_completed(work))
        except BaseException:
            load.stop.set()
            raise


def settle(one: File, load: Load) -> bool:
    """See to one file; True where it was brought."""
    path = load.folder / one.path
    if path.is_file() and (problem := differs(one, path, load)) is None:
        return False
    if not load.origin:
        where = f"{load.folder}/{one.path}"
        if not path.is_file():
            raise LoadError(f"{where} is not there", "copy the store's directories to the volume, or state model.load.from", NOT_READY)
        raise LoadError(f"{where}: {problem}", "the volume does not hold what was verified: copy it again", BROKEN)
    bring(one, load)
    return True


def differs(one: File, path: Path, load: Load) -> str | None:
    """Say how a file is not what it should be; one whose size and time are as written down is not read."""
    found = path.stat()
    if found.st_size != one.size:
        return f"{found.st_size} bytes instead of {one.size}"
    if load.checked.get(one.path) == [one.size, found.st_mtime_ns, one.sha256]:
        load.count(one.size)
        return None
    return None if digest(path, load.count) == one.sha256 else "its content is another"


def digest(path: Path, count: Callable[[int], None] = lambda _: None) -> str:
    """Return a file's SHA-256."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            total.update(piece)
            count(len(piece))
    return total.hexdigest()


def bring(one: File, load: Load) -> None:
    """Try until a file is here whole; LoadError where further tries would not help."""
    draft = part(load, one)
    draft.parent.mkdir(parents=True, exist_ok=True)
    receive = copied if load.origin.startswith("file://") else downloaded
    load.count(size(draft))
    fruitless = differed = 0
    while True:
        before = size(draft)
        try:
            receive(one, load, draft)
        except BrokenOffError as error:
            fruitless = 0 if size(draft) > before else fruitless + 1
            if fruitless >= TRIES:
                message = f"{one.source}: {fruitless} tries in a row brought nothing, the last: {error}"
                raise LoadError(message, "check the network and model.load.from", NOT_READY) from error
            load.stop.wait(FIRST_WAIT * 2 ** max(0, fruitless - 1))
            if load.stop.is_set():
                raise
            continue
        if digest(draft) == one.sha256:
            draft.replace(load.folder / one.path)
            return
        draft.unlink()
        differed += 1
        if differed > 1:
            message = f"{one.source}: what {load.origin} holds is not what was verified"
            raise LoadError(message, "export again from the store that was verified", BROKEN)


def copied(one: File, load: Load, draft: Path) -> None:
    """Append to the draft what another volume holds beyond it."""
    source = Path(load.origin.removeprefix("file://")) / one.source
    try:
        with source.open("rb") as stream, draft.open("ab") as sink:
            stream.seek(sink.tell())
            _append(one, iter(lambda: stream.read(PIECE), b""), sink, load)
    except FileNotFoundError as error:
        raise LoadError(f"{source} is not there", "look at model.load.source", NOT_READY) from error


def downloaded(one: File, load: Load, draft: Path) -> None:
    """Append to the draft what one answer brings."""
    import requests

    had = size(draft)
    if had == one.size and draft.exists():
        return
    url, headers = origin.locate(load.origin, one.source)
    try:
        ranged = {**headers, **({"Range": f"bytes={had}-"} if had else {}), "Accept-Encoding": "identity"}
        with requests.get(url, headers=ranged, stream=True, timeout=(30, 60)) as answer:
            judge(one, load, answer.status_code)
            if had and answer.status_code == 200:  # it knows no ranges and starts at the beginning
                draft.unlink()
            with draft.open("ab") as sink:
                _append(one, answer.iter_content(PIECE), sink, load)
    except requests.RequestException as error:
        raise BrokenOffError(type(error).__name__) from error  # its own words would show a signed address
    if size(draft) < one.size:
        raise BrokenOffError(f"it ended after {size(draft)} of {one.size} bytes")


def judge(one: File, load: Load, status: int) -> None:
    """Refuse an answer that is not the wanted part of the file."""
    if status in BUSY:
        raise BrokenOffError(f"the answer was {status}")
    if status in (401, 403):
        raise LoadError(f"{load.origin}: {one.source}: refused ({status})", "name a Secret with HF_TOKEN or AWS keys as model.load.secret", NOT_READY)
    if status not in (200, 206):
        raise LoadError(f"{load.origin}: {one.source}: the answer was {status}", "look at model.load.from", NOT_READY)


def _append(one: File, pieces: Iterator[bytes], sink: Any, load: Load) -> None:
    for piece in pieces:
        if load.stop.is_set():
            raise BrokenOffError("another file failed")
        sink.write(piece)
        load.count(len(piece))
        if sink.tell() > one.size:
            return  # longer than it should be: its checksum will tell


def part(load: Load, one: File) -> Path:
    """Return where a file's first bytes wait for the rest: by its content, so that another release's are not taken for them."""
    return load.folder / f"{one.path}.{one.sha256[:12]}.part"


def size(path: Path) -> int:
    """Return a file's bytes, 0 where it is not there."""
    return path.stat().st_size if path.is_file() else 0


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except LoadError as error:
        print(f"error: {error}\nfix: {error.remedy}", file=sys.stderr)
        sys.exit(error.code)
