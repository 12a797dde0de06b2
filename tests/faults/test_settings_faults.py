"""Every server that is set up otherwise than its recipe says is found by the check that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MATRIX, Outcome, Served, planted
from settings_faults import SETTINGS, Setup

VARIANTS = {"llamacpp": "f16", "ollama": "q8_0"}


@pytest.mark.parametrize("setup", SETTINGS, ids=lambda setup: setup.fault.name)
def test_it_is_found_by_the_check_that_names_it(setup: Setup, served: Callable[[str, str], Served], gate: Callable[..., Outcome], tmp_path: Path):
    clean = served(setup.engine, VARIANTS[setup.engine])
    target, programs = planted(setup.fault, clean, tmp_path)
    if setup.file:
        assert target.gguf
        target = replace(target, gguf=target.gguf.with_name(f"model-{setup.file}.gguf"))
    seen = gate(setup.engine, target, replace(clean.expected, **setup.meant), programs)
    for path in tmp_path.glob("*.gguf"):
        path.unlink()  # a quarter of a gigabyte each
    wanted = setup.fault.found_by
    others = ", ".join(name for name in seen.failed if name != wanted)
    MATRIX.found(setup.fault.name, wanted if wanted in seen.failed else "**not found**", others, seen.seconds)
    assert wanted in seen.failed, seen.failed
