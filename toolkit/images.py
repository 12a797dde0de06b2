"""The images of images/: what each is made of, its name by content, and building and pushing it."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from toolkit import __version__, console, process
from toolkit.artifact import digest
from toolkit.errors import FailedError, NotReadyError, UsageError
from toolkit.process import Command
from toolkit.processors import has_nvidia
from toolkit.runners import docker
from toolkit.runners.cache import CACHE
from toolkit.stages import IMAGES, ROOT, digest_files

NAMES = ("verify", "llamacpp", "ollama", "convert", "train", "vllm")
"""The images, the light ones first."""
WITH_VARIANTS = ("vllm",)
"""Images built apart for GPU (`cuda`) and CPU (`cpu`); the others serve both."""
FLAGS = "THINKSHIP_BUILD_FLAGS"
"""Environment variable with more flags for `docker buildx build`: proxies, mirrors, secrets with a company's certificates."""


@dataclass(frozen=True)
class Image:
    """One image: a folder under images/ and, where there are two, its variant."""

    name: str
    variant: str = ""

    @property
    def repository(self) -> str:
        """Its name without a tag; `cuda`, the one for production, stands without its own."""
        return f"thinkship/{self.name}" + ("" if self.variant in ("", "cuda") else f"-{self.variant}")

    @property
    def content(self) -> str:
        """SHA-256 over every file it is built from."""
        files = self.files()
        return digest([[path.relative_to(ROOT).as_posix() for path in files], digest_files(files), self.variant])

    @property
    def tag(self) -> str:
        """Its name by content: another file makes another tag."""
        return f"{self.repository}:{self.content[:12]}"

    @property
    def gpu(self) -> bool:
        """Whether its containers are given the machine's GPUs."""
        return variant() == "cuda" and self.name in ("train", "vllm", "ollama")

    @property
    def lock(self) -> Path:
        """The lock of what is installed in it."""
        usual = "versions.env" if self.name == "ollama" else "requirements.lock"
        return IMAGES / self.name / (usual if self.variant in ("", "cpu") else f"{self.variant}.lock")

    def files(self) -> tuple[Path, ...]:
        """Return what it is built from, sorted: its folder, and for `verify` the host package too."""
        folders = [IMAGES / self.name, *((ROOT / name for name in ("toolkit", "modelfiles", "recipes")) if self.name == "verify" else ())]
        found = {path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        pins = {IMAGES / "base.env"} | ({IMAGES / "ollama" / "versions.env"} if self.name == "verify" else set())
        return tuple(sorted({*found, *pins}))

    def digest(self) -> str:
        """Return the id of the built image; NotReadyError where it is not built."""
        found = docker.digest(self.tag)
        if not found:
            raise NotReadyError(f"the image {self.tag} is not here", "make images")
        return f"{self.tag}@{found}"


def variant() -> str:
    """Return `cuda` where THINKSHIP_VARIANT or an NVIDIA driver says so, `cpu` elsewhere."""
    wanted = os.environ.get("THINKSHIP_VARIANT")
    if wanted not in (None, "cpu", "cuda"):
        raise UsageError(f"THINKSHIP_VARIANT is {wanted!r}", "cpu or cuda")
    return wanted or ("cuda" if has_nvidia() else "cpu")


def image(name: str, lock: str = "requirements.lock") -> Image:
    """Return an image by name, in the variant that a stage's lock asks for or else this machine's; UsageError where there is none."""
    if name not in NAMES:
        raise UsageError(f"no image is called {name!r}", f"one of {', '.join(NAMES)}")
    other = "" if lock == "requirements.lock" else lock.removesuffix(".lock")
    return Image(name, variant() if name in WITH_VARIANTS else other)


def ensure(chosen: Image) -> Image:
    """Build an image unless it is here, and return it."""
    if docker.digest(chosen.tag) is None:
        console.note(f"building the image {chosen.tag}, once")
        build(chosen)
    return chosen


def build(chosen: Image) -> None:
    """Build one image from its folder; errors as `buildx`."""
    folder = IMAGES / chosen.name
    facts = {"REVISION": revision(), "VERSION": __version__, "LOCK_SHA256": digest_files((chosen.lock,))}
    facts |= {"VARIANT": chosen.variant} if chosen.variant else {}
    words = [word for name, value in facts.items() for word in ("--build-arg", f"{name}={value}")]
    context = ROOT if chosen.name == "verify" else folder
    where = ("--file", str(folder / "Dockerfile"), str(context))
    buildx(chosen.tag, ("--tag", chosen.tag, "--tag", f"{chosen.repository}:{__version__}", *words, *where))


def buildx(tag: str, words: tuple[str, ...], dockerfile: str = "") -> None:
    """Run `docker buildx build`, on a Dockerfile given as text where there is one; NotReadyError where the base image or the disk is the cause,
    FailedError elsewhere, both with the last words and the log.
    """
    log = CACHE / "logs" / f"image-{tag.partition('/')[2].partition(':')[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    more = shlex.split(os.environ.get(FLAGS, ""))
    with console.bar() as bar, tempfile.TemporaryDirectory() as empty:
        bar.report(0, 1, f"building {tag}")
        if dockerfile:
            (Path(empty) / "Dockerfile").write_text(dockerfile, encoding="utf-8")
            words = (*words, empty)
        done = process.run(Command(("docker", "buildx", "build", "--load", "--progress", "plain", *more, *words)), log=log, check=False)
    if done.code:
        last = process.tail(log, 12)
        kind = NotReadyError if "no space left" in last or "failed to resolve source metadata" in last else FailedError
        raise kind(f"{tag} was not built\n{last}", f"see {log}; proxies, mirrors and certificates go into {FLAGS}")


def build_all(names: tuple[str, ...]) -> None:
    """Build the named images, or all, one after the other; what is here by content is left."""
    docker.client()
    for chosen in map(image, names or NAMES):
        here = docker.digest(chosen.tag)
        console.step(chosen.tag, "", "skip" if here else "run")
        if not here:
            build(chosen)


def push(registry: str, names: tuple[str, ...]) -> Iterator[tuple[Image, str]]:
    """Push images to a registry under their content's tag and the version's; print and yield each with its name by digest there."""
    for chosen in map(image, names or NAMES):
        chosen.digest()
        for tag in (chosen.content[:12], __version__):
            pushed = docker.push(chosen.tag, f"{registry}/{chosen.repository}", tag)
        console.say(f"{registry}/{chosen.repository}:{__version__}@{pushed}")
        yield chosen, f"{registry}/{chosen.repository}@{pushed}"


def table() -> Table:
    """Return the images with their tags, sizes and ids."""
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("image", "tag", "size", "id"):
        rows.add_column(column)
    for chosen in map(image, NAMES):
        found = docker.inspect(chosen.tag)
        size, identity = (f"{found['Size'] / 1e6:,.0f} MB", found["Id"][:19]) if found else ("not built", "")
        rows.add_row(chosen.repository, chosen.content[:12], size, identity)
    return rows


def revision() -> str:
    """Return the commit that is checked out, marked where files differ from it; empty outside a git checkout."""
    commit = process.run(Command(("git", "-C", str(ROOT), "rev-parse", "HEAD")), check=False)
    changed = process.run(Command(("git", "-C", str(ROOT), "status", "--porcelain")), check=False)
    return commit.output.strip() + ("-dirty" if changed.output.strip() else "") if commit.code == 0 else ""
