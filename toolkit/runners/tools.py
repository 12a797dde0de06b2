"""Finds Ollama on PATH or among the tools built here, and builds the pinned release where neither is."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from toolkit import console, process
from toolkit.errors import NotReadyError
from toolkit.runners.cache import CACHE, making
from toolkit.stages import IMAGES

INSTALL = IMAGES / "ollama" / "install.sh"
BUILD_TOOLS = ("go", "cmake", "ninja", "g++")


def ollama_version() -> str:
    """Return the pinned release, from images/ollama/versions.env."""
    lines = (IMAGES / "ollama" / "versions.env").read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("OLLAMA_VERSION="))


def ollama_prefix() -> Path:
    """Return the folder into which the pinned release is built."""
    return CACHE / "tools" / f"ollama-{ollama_version()}"


def ollama_found() -> Path | None:
    """Return Ollama's program, None where it is neither on PATH nor built."""
    built = ollama_prefix() / "bin" / "ollama"
    on_path = shutil.which("ollama")
    if on_path:
        return Path(on_path)
    return built if built.is_file() and (ollama_prefix() / "lib" / "ollama" / "llama-server").exists() else None


def lacking_for_ollama() -> tuple[str, ...]:
    """Return the build tools that keep this machine from having Ollama; none where it is there already."""
    return () if ollama_found() else tuple(tool for tool in BUILD_TOOLS if not shutil.which(tool))


def require(engines: Iterable[str]) -> None:
    """Check before any work starts that each engine can be had here; NotReadyError names the missing tools."""
    lacking = lacking_for_ollama() if "ollama" in engines else ()
    if lacking:
        raise NotReadyError(f"Ollama is not on PATH and cannot be built: {', '.join(lacking)} missing", "install Ollama, or the missing build tools")


def ollama() -> Path:
    """Return Ollama's program, building it first where it is missing; NotReadyError where that is not possible."""
    found = ollama_found()
    if not found:
        with making(ollama_prefix().name):
            found = ollama_found() or _built()
    return found


def _built() -> Path:
    console.note(f"building Ollama {ollama_version()} with llama.cpp's server, once, into {ollama_prefix()} (about 8 minutes on 2 cores)")
    log = CACHE / "logs" / "ollama.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = process.run(process.Command(("bash", str(INSTALL), str(ollama_prefix()))), log=log, check=False)
    if done.code != 0:
        raise NotReadyError(f"Ollama cannot be built: {process.tail(log, 4)}", f"install Ollama, or go, cmake, ninja and g++; see {log}")
    return ollama_prefix() / "bin" / "ollama"
