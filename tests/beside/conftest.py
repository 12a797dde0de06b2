"""The command line and a store of its own, as tests/e2e has them, for a chain that is long and changes seldom."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.runners.tools import lacking_for_ollama
from toolkit.stages import ROOT

Thinkship = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def engines() -> tuple[str, ...]:
    return ("llamacpp", "vllm") if lacking_for_ollama() else ("llamacpp", "ollama", "vllm")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def thinkship(store: Path) -> Thinkship:
    """thinkship("run", ...) runs the command line in the session's store and returns how it ended."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "toolkit.cli", *map(str, words), "--store", str(store))
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run
