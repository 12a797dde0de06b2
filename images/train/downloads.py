"""Files come over HTTP, a few at a time: each goes on where it was cut off, is held against its checksum, and only then gets its name.

huggingface_hub 1.33 downloads into a file of the process and removes it when the process ends, so that nothing outlives a kill.
"""

from __future__ import annotations

import hashlib
import shutil
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from program import INVALID, NOT_READY, ProgramError, note, progress

WORKERS, RETRIES, FIRST_WAIT = 4, 5, 0.5
"""Files at once; tries in a row that may bring nothing; seconds before the first of them, twice as many before each further one."""
ENOUGH = 1 << 16
"""Bytes that make a try count as one that brought something."""
LONGEST_WAIT = 60.0
"""Seconds up to which a hub's Retry-After is kept."""
SPARE = 64 << 20
"""Bytes that must stay free beside the downloads."""
BUSY = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Download:
    """A file to be had: what it is called in its repository, its bytes, its checksum and where it is."""

    path: str
    size: int
    checksum: str
    """`sha256:…`, or `git-sha1:…` of git's blob."""
    url: str

    def name_in(self, folder: Path) -> Path:
        """Return where its bytes are kept: by what they are, so that two repositories with the same file share it."""
        return folder / self.checksum.replace(":", "-")

    def part_in(self, folder: Path) -> Path:
        """Return where its first bytes wait for the rest."""
        return self.name_in(folder).with_suffix(".part")


@dataclass(frozen=True)
class Origin:
    """Whom to ask, with which headers, and how a refusal is told."""

    headers: Mapping[str, str]
    refusal: Callable[[str, Any], ProgramError]
    """(path, response) -> the error for the user."""


class BrokenOffError(Exception):
    """A try ended before the file did; what came is kept."""


class DiffersError(Exception):
    """What came is not what the lock pins; nothing of it is kept."""


class StoppedError(Exception):
    """Another file failed, so that this one is no longer wanted."""


def fetch(files: Sequence[Download], folder: Path, origin: Origin) -> None:
    """Bring files into `folder` under the names of their checksums; ProgramError (4) keeps what came, (3) tells of other bytes than pinned."""
    require_space(files, folder)
    began, meter, stop = time.monotonic(), Meter(files, folder), threading.Event()
    first = meter.done
    with _client() as client, ThreadPoolExecutor(WORKERS) as pool:
        work = [pool.submit(_File(file, folder, client, origin, meter, stop).bring) for file in files]
        try:
            for done in as_completed(work):
                done.result()
        except BaseException:
            stop.set()
            raise
    brought, seconds = (meter.done - first) / (1 << 20), time.monotonic() - began
    kept = f", {first >> 20} MiB were there from an earlier try" if first else ""
    note(f"downloaded {brought:.0f} MiB in {seconds:.0f} s ({brought / max(seconds, 0.1):.1f} MiB/s){kept}")


def require_space(files: Sequence[Download], folder: Path) -> None:
    """Check before the first byte that all files find room; ProgramError (4) says how much is missing."""
    needed = sum(max(0, file.size - _size(file.part_in(folder))) for file in files) + SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"the download needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free in {folder}"
        raise ProgramError(message, "free space or point --store at another disk", NOT_READY)


def matches(path: Path, checksum: str) -> bool:
    """Say whether a file's bytes have a checksum: SHA-256, or SHA-1 over git's head of a blob and its bytes."""
    kind, _, wanted = checksum.partition(":")
    total = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            total.update(chunk)
    return total.hexdigest() == wanted


@contextmanager
def _client() -> Iterator[Any]:
    import httpx

    headers = {"User-Agent": "thinkship", "Accept-Encoding": "identity"}
    with httpx.Client(verify=_trusted(), follow_redirects=True, timeout=httpx.Timeout(30, pool=None), headers=headers) as client:
        yield client


def _trusted() -> ssl.SSLContext:
    """Trust what the system or SSL_CERT_FILE names, and certifi's list, since a slim image brings none; httpx alone would ask certifi only."""
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class Meter:
    """Adds up the bytes of all files and tells rate and remaining time, twice a second."""

    def __init__(self, files: Sequence[Download], folder: Path) -> None:
        self.total = sum(file.size for file in files)
        self.done = self._first = sum(min(file.size, _size(file.part_in(folder))) for file in files)
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that came, or with a minus those that were thrown away."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._told >= 0.5 or self.done == self.total:
                self._told = now
                self._tell(max(now - self._began, 0.1))

    def _tell(self, seconds: float) -> None:
        rate = max(self.done - self._first, 0) / seconds
        left = f", {(self.total - self.done) / rate:.0f} s left" if rate else ""
        progress(self.done >> 20, max(1, self.total >> 20), "MiB", f"{rate / (1 << 20):.1f} MiB/s{left}")


@dataclass
class _File:
    """One file on its way."""

    file: Download
    folder: Path
    client: Any
    origin: Origin
    meter: Meter
    stop: threading.Event
    fruitless: int = 0
    """Tries in a row that brought nothing."""
    differed: int = field(default=0)

    def bring(self) -> None:
        """Try until the file is here whole."""
        from httpx import TransportError

        part = self.file.part_in(self.folder)
        while True:
            before = _size(part)
            try:
                self._receive(part)
                return self._settle(part)
            except (BrokenOffError, TransportError) as error:
                self.fruitless = 0 if _size(part) >= before + ENOUGH else self.fruitless + 1
                self._wait(error)
            except DiffersError as error:
                self._forget(part)
                self.differed += 1
                if self.differed > 1:
                    remedy = "the hub or what lies between has changed it: find out why, then run `thinkship lock` on the recipe"
                    raise ProgramError(f"{self.file.path}: {error}", remedy, INVALID) from error

    def _receive(self, part: Path) -> None:
        """Append to the part what one answer brings."""
        had = _size(part)
        if had == self.file.size and part.exists():
            return
        headers = {**self.origin.headers, **({"Range": f"bytes={had}-"} if had else {})}
        with self.client.stream("GET", self.file.url, headers=headers) as answer:
            self._judge(answer, had)
            if had and answer.status_code == 200:  # it knows no ranges and starts at the beginning
                self._forget(part)
            with part.open("ab", buffering=0) as sink:
                for chunk in answer.iter_raw():
                    if self.stop.is_set():
                        raise StoppedError
                    sink.write(chunk)
                    self.meter.add(len(chunk))
                    if sink.tell() > self.file.size:
                        raise DiffersError(f"more than the {self.file.size} bytes that the lock pins")
        if _size(part) < self.file.size:
            raise BrokenOffError(f"it ended after {_size(part)} of {self.file.size} bytes")

    def _judge(self, answer: Any, had: int) -> None:
        """Refuse an answer that is not the wanted part of the file."""
        if answer.status_code in BUSY:
            self._rest(answer.headers.get("Retry-After", ""))
            if self.fruitless < RETRIES:
                raise BrokenOffError(f"the hub answered {answer.status_code}")
        if answer.status_code == 416:
            raise DiffersError(f"the hub has fewer than the {self.file.size} bytes that the lock pins")
        if answer.status_code not in (200, 206):
            answer.read()
            raise self.origin.refusal(self.file.path, answer)
        if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {had}-"):
            raise DiffersError(f"the hub sent {answer.headers.get('Content-Range')!r} where bytes from {had} on were asked for")

    def _settle(self, part: Path) -> None:
        """Give a file its name if it is what the lock pins."""
        if not matches(part, self.file.checksum):
            raise DiffersError(f"its checksum is not {self.file.checksum}, which the lock pins")
        part.replace(self.file.name_in(self.folder))

    def _forget(self, part: Path) -> None:
        self.meter.add(-_size(part))
        part.unlink(missing_ok=True)

    def _wait(self, error: Exception) -> None:
        """Wait before the next try, twice as long each time; ProgramError where it was the last, or where no other would help."""
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "name a file with your authority's certificate in SSL_CERT_FILE, or correct HF_ENDPOINT or MODELSCOPE_ENDPOINT"
            raise ProgramError(f"{self.file.path}: the hub's certificate is not trusted: {error}", remedy, NOT_READY) from error
        if self.fruitless > RETRIES:
            message = f"{self.file.path}: {self.fruitless} tries in a row brought nothing, the last: {error or type(error).__name__}"
            remedy = "check the network, or set HF_ENDPOINT or MODELSCOPE_ENDPOINT to a mirror; the same command goes on where this one ended"
            raise ProgramError(message, remedy, NOT_READY) from error
        if self.fruitless:
            self.stop.wait(FIRST_WAIT * 2 ** (self.fruitless - 1))
        if self.stop.is_set():
            raise StoppedError

    def _rest(self, seconds: str) -> None:
        """Keep a busy hub's Retry-After."""
        if seconds.isdigit():
            self.stop.wait(min(LONGEST_WAIT, float(seconds)))
