from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_store import finish

from toolkit.export import served as room
from toolkit.export.served import Served, Wish, served
from toolkit.stages import ROOT

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(RECIPE, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def one(store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Served]:
    """one(engine, …) is an engine of the demo's finished store, on a machine without a GPU."""
    monkeypatch.setattr(room, "present", tuple)
    return lambda engine, **how: served(RECIPE, Wish(engine, **how), store)
