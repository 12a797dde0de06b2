"""Looks at the machine before anything is downloaded: each check gives one finding with a severity, what was seen and a remedy."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from toolkit import console, process, recipe_file
from toolkit.engines import NAMES, engine
from toolkit.errors import InvalidError, NotReadyError
from toolkit.finding import Finding
from toolkit.fit import review
from toolkit.plan import MODULES
from toolkit.recipe import Recipe
from toolkit.runners.environment import Environment
from toolkit.runners.tools import lacking_for_ollama, ollama_found
from toolkit.stages import IMAGES

MEMORY_GIB, DISK_GIB = 6, 15
"""What the demo needs with every engine, measured by benchmarks/demo.py: peak memory, and environments plus artefacts."""


Check = Callable[[Recipe | None, Path], Iterator[Finding]]


def machine(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check operating system and processor."""
    yield Finding("ok", "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if platform.system() != "Linux":
        yield Finding("error", "machine", "only Linux is supported", "use a Linux machine, a container or WSL")


def memory(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check the memory that is available now."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) / (1 << 20)
    enough = free >= MEMORY_GIB
    remedy = "" if enough else f"close programs or use a machine with {MEMORY_GIB} GiB free"
    yield Finding("ok" if enough else "warning", "memory", f"{free:.1f} GiB available", remedy)


def disk(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check the free space where the artefacts go."""
    place = next(path for path in (store.resolve(), *store.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(place).free / (1 << 30)
    enough = free >= DISK_GIB
    yield Finding("ok" if enough else "warning", "disk", f"{free:.0f} GiB free in {place}", "" if enough else f"the demo takes up to {DISK_GIB} GiB")


def gpu(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check for an NVIDIA driver and its cards."""
    if not shutil.which("nvidia-smi"):
        yield Finding("note", "gpu", "no NVIDIA driver: training and serving use the CPU")
        return
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    seen = process.run(process.Command(query), timeout=20, check=False)
    if seen.code == 0:
        yield from (Finding("ok", "gpu", line) for line in seen.output.splitlines())
    else:
        yield Finding("error", "gpu", f"nvidia-smi fails: {seen.output.strip()}", "mend the driver, or remove it to use the CPU")


def environments(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Say which locked environments are installed."""
    folders = [MODULES[wanted] for wanted in (recipe.serve.engines if recipe else MODULES)]
    folders += ["lmeval"] if recipe and recipe.verify.benchmarks else []
    for name in dict.fromkeys(("train", "convert", *folders)):
        if not (IMAGES / name / "requirements.lock").is_file():  # Ollama is a program, not a Python environment
            continue
        there = Environment(name).ready()
        yield Finding("ok" if there else "note", f"environment {name}", "installed" if there else "will be installed on first use")


def ollama(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Say whether Ollama is there or can be built."""
    found = ollama_found()
    if found:
        yield Finding("ok", "ollama", str(found))
        return
    lacking = lacking_for_ollama()
    wanted = recipe is not None and "ollama" in recipe.serve.engines
    if lacking:
        severity: Literal["error", "note"] = "error" if wanted else "note"
        yield Finding(severity, "ollama", "not installed", f"install Ollama, or {', '.join(lacking)} to have it built")
    else:
        yield Finding("note", "ollama", "not installed; it is built on first use (about 8 minutes on 2 cores)")


def openmp(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check for the OpenMP library of the system, which llama.cpp's wheel does not bring."""
    try:
        ctypes.CDLL("libgomp.so.1")
        yield Finding("ok", "openmp", "libgomp.so.1")
    except OSError:
        yield Finding("error", "openmp", "libgomp.so.1 is missing, without which llama.cpp does not start", "install libgomp1 (Fedora: libgomp)")


def containers(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Say whether a Docker Engine can be used."""
    from toolkit.runners import docker  # here, since it takes longer to load than all other checks take together

    try:
        yield Finding("ok", "docker", f"engine {docker.version()}")
    except NotReadyError as error:
        yield Finding("note", "docker", f"{error.message}: --runner docker is not to be had", error.remedy)


def ports(recipe: Recipe | None, store: Path) -> Iterator[Finding]:
    """Check the ports that `serve` takes unless told otherwise."""
    for name in recipe.serve.engines if recipe else NAMES:
        port = engine(name).port
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        remedy = "stop what listens there, or serve with --port" if taken else ""
        yield Finding("warning" if taken else "ok", f"port {port}", f"{'taken' if taken else 'free'} ({name})", remedy)


CHECKS: tuple[Check, ...] = (machine, memory, disk, gpu, environments, ollama, openmp, containers, ports)


def fit(recipe: Recipe, folder: Path, store: Path, card: str | None, reclaim: bool = False) -> Iterator[Finding]:
    """Say what a recipe asks of the card, the memory and the disk, from its model's shape; a card by name, or the one that is here.

    `reclaim` counts the disk of a run that frees its intermediates.
    """
    try:
        case = review.case_of(recipe, folder, card)
    except InvalidError as error:
        yield Finding("warning", "fit", error.message, error.remedy)
        return
    if case is None:
        yield Finding("note", "fit", "nothing is known of this base's shape: it is no folder with config.json and not in toolkit/fit/shapes.json")
        return
    if case.card is None:
        yield Finding("note", "fit", "no card: what follows is for the CPU; --card says what fits one, as --card 'RTX 4090' or --card 24GiB")
    yield from review.review(case)
    yield review.disk(case, store, reclaim)


def report(path: Path | None, store: Path, as_json: bool, *, card: str | None, reclaim: bool) -> None:
    """Run every check and print what was found; NotReadyError where one is an error."""
    recipe = recipe_file.load(path) if path else None
    findings = [finding for check in CHECKS for finding in check(recipe, store)]
    if path and recipe:
        findings += fit(recipe, path.resolve().parent, store, card, reclaim)
    if as_json:
        console.emit_json([asdict(finding) for finding in findings])
    else:
        console.show(_table(findings))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise NotReadyError("; ".join(f"{finding.check}: {finding.message}" for finding in errors), "; ".join(finding.remedy for finding in errors))


def _table(findings: list[Finding]) -> Table:
    colours = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}
    rows = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        words = escape(finding.message + (f"; {finding.remedy}" if finding.remedy else ""))
        rows.add_row(f"[{colours[finding.severity]}]{finding.severity}[/]", finding.check, words)
    return rows
