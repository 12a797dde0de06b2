"""One store for a whole session, and the command line in it: fixtures of the suites whose chains are long."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.stages import ROOT

Thinkship = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """THINKSHIP_TEST_STORE keeps one between sessions."""
    return Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def thinkship(store: Path) -> Thinkship:
    """thinkship("run", ...) runs the command line in the session's store and returns how it ended."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "toolkit.cli", *map(str, words), "--store", str(store))
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run
