"""Every planted fault is found by the check that names its cause, and nothing is found where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue import FAULTS, Fault
from conftest import MATRIX, Outcome, Served, planted

Find = Callable[[str, str], Served]
Gate = Callable[..., Outcome]
CLEAN = (("llamacpp", "f16"), ("llamacpp", "q8_0"), ("llamacpp", "q4_k_m"), ("ollama", "q8_0"))
SLICES = 5


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_found_by_the_check_that_names_its_cause(fault: Fault, served: Find, gate: Gate, tmp_path: Path, monkeypatch):
    for name, value in fault.settings.items():
        monkeypatch.setenv(name, value)
    clean = served(*fault.engine)
    target, programs = planted(fault, clean, tmp_path)
    seen = gate(fault.engine[0], target, clean.expected, programs, fault.gateway)
    for path in tmp_path.glob("*.gguf"):
        path.unlink()  # a quarter of a gigabyte each
    others = ", ".join(name for name in seen.failed if name != fault.found_by)
    MATRIX.found(fault.name, fault.found_by if fault.found_by in seen.failed else "**not found**", others, seen.seconds)
    assert fault.found_by in seen.failed, seen.failed


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize(("engine", "variant"), CLEAN)
def test_nothing_is_found_where_nothing_is_wrong(engine: str, variant: str, part: int, served: Find, gate: Gate):
    clean = served(engine, variant)
    probes = clean.expected.probes[part:] + clean.expected.probes[:part]
    seen = gate(engine, clean.target, replace(clean.expected, questions=clean.expected.questions[part:], probes=probes, task=None))
    name = f"nothing wrong: {engine}, {variant}, questions from number {part + 1}"
    MATRIX.clean[name] = f"| {name} | {', '.join(seen.failed) or 'none'} | {seen.seconds:.0f} |"
    assert seen.failed == {}
