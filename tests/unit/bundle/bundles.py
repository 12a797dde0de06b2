"""What the tests of bundles share: one saved bundle, a fresh store, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DEMO
from terminal import Done, thinkship

from toolkit.artifact import seal

ENGINES = ("--engine", "vllm", "--engine", "ollama", "--engine", "llamacpp")
FACTS = {"inputs": {}, "recipe": {}, "programs": "", "runner": "local", "thinkship": "0", "seconds": 0}


@pytest.fixture(scope="session")
def saved(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the demo without images."""
    path = tmp_path_factory.mktemp("bundle") / "demo.bundle.tar"
    done = save(finished, path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def save(store: Path, path: Path, *words: object) -> Done:
    return thinkship("bundle", "save", DEMO, *ENGINES, "--store", store, "--no-images", "--output", path, *words)


def load(path: Path, store: Path, *words: object) -> Done:
    return thinkship("bundle", "load", path, "--store", store, *words)


def manifest(path: Path) -> dict:
    done = thinkship("bundle", "ls", path, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def named(store: Path) -> list[str]:
    """The directories of a store that have their names."""
    return sorted(path.name for path in store.glob("[!.]*")) if store.is_dir() else []


def sealed(directory: Path, contents: dict[str, bytes], stage: str = "merge", identity: str = "1") -> Path:
    """Make and seal a directory."""
    for name, data in contents.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    seal(directory, step=stage, stage=stage, id=identity, **FACTS)
    return directory
