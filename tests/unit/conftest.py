"""The unit suite's guard: nothing here reaches beyond this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finished_store import finish
from released_store import COMMITS, recipe_with, verify
from scripted_kubectl import Scripted

from toolkit import recipe_file
from toolkit.export import served as export
from toolkit.recipe import Recipe
from toolkit.release.document import Release
from toolkit.release.making import cut
from toolkit.runners.kubernetes import desk, following, patience
from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
SERVERS = {"judge_server", "loopback", "model_server", "sum_server", "talker", "thinker", "typist", "hub_server"}
"""Modules that start a real server on the loopback, or a program on a pseudo-terminal: their tests wait, and `make loopback` runs them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of every module that takes something from one of these."""
    for item in items:
        taken = {getattr(value, "__module__", getattr(value, "__name__", "")) for value in vars(item.module).values()}
        if taken & SERVERS:
            item.add_marker("loopback")


class LoopbackOnly(socket.socket):
    def connect(self, address):
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a unit test wanted the network: {address}")
        return super().connect(address)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(socket, "socket", LoopbackOnly)
    yield


@pytest.fixture
def demo_text() -> str:
    return DEMO.read_text(encoding="utf-8")


@pytest.fixture
def demo() -> Recipe:
    return recipe_file.load(DEMO)


@pytest.fixture
def demo_folder() -> Path:
    return DEMO.parent


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the demo that looks finished."""
    return finish(DEMO, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def exported(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., export.Served]:
    """exported(engine, …) is an engine of the finished store as a cluster runs it, on a machine without a GPU."""
    monkeypatch.setattr(export, "present", tuple)
    return lambda engine, **how: export.served(DEMO, export.Wish(engine, **how), finished)


@pytest.fixture(scope="session")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the demo that looks verified."""
    return verify(DEMO, tmp_path_factory.mktemp("verified"))


def _cut(recipe: Path, store: Path) -> Release:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "present", tuple)
        return cut(recipe, store, COMMITS)


@pytest.fixture(scope="session")
def released(verified: Path) -> Release:
    """The release of that store."""
    return _cut(DEMO, verified)


@pytest.fixture(scope="session")
def two_engines(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release that serves with llama.cpp and Ollama."""
    folder = tmp_path_factory.mktemp("two-engines")
    recipe = recipe_with("llamacpp, ollama", folder / "recipes")
    return _cut(recipe, verify(recipe, folder / "store"))


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """A scripted kubectl, and no pauses."""
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    monkeypatch.setattr(desk, "PAUSE", 0.0)
    monkeypatch.setattr(following, "SOON", 0.0)
    return Scripted(monkeypatch)
