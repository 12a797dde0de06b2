"""The whole chain for real: one store in which the demo recipe has been run with every engine this machine can have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from skips import IN_CI, skip_or_fail

from toolkit.runners.tools import lacking_for_ollama
from toolkit.stages import ROOT

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
Thinkship = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def engines() -> tuple[str, ...]:
    """Those that this machine can have, beside transformers, which every machine has."""
    missing = lacking_for_ollama()
    if missing and IN_CI:
        skip_or_fail(f"Ollama needs {', '.join(missing)}")
    return ("llamacpp", "vllm") if missing else ("llamacpp", "ollama", "vllm")


@pytest.fixture(scope="session")
def judged(engines: tuple[str, ...]) -> tuple[str, ...]:
    """Those that the demo's verdict covers. vLLM's gate takes longer on CPUs than all else of the demo, and transformers answers one question after
    the other: test_demo.py and test_service.py hold them against it in what is marked long.
    """
    return tuple(name for name in engines if name != "vllm")


@pytest.fixture(scope="session")
def thinkship() -> Thinkship:
    """thinkship("run", ...) runs the command line as a user does and returns how it ended."""

    def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "toolkit.cli", *map(str, arguments))
        return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the whole session; THINKSHIP_TEST_STORE keeps one between sessions, which re-verifies instead of re-making it."""
    return Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def demo(thinkship: Thinkship, store: Path, judged: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The demo recipe run to its verdict."""
    return thinkship("run", RECIPE, "--store", store, *flags(judged))


def flags(engines: tuple[str, ...]) -> list[str]:
    """Return the words that choose engines."""
    return [word for engine in engines for word in ("--engine", engine)]
