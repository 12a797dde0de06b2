# ruff: noqa: F811 - fixtures are arguments of the same names
"""The demo's merged model, as a fleet of vLLM is told of it, for routers and servers that others make; on CPUs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from session_store import Thinkship, store, thinkship  # noqa: F401 - pytest finds the fixtures here

from toolkit import service
from toolkit.engines import Target
from toolkit.engines.wire import answers
from toolkit.export.served import Served, Wish, served
from toolkit.process import Process
from toolkit.stages import ROOT
from toolkit.store import Store
from toolkit.targets import target

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
QUESTIONS = RECIPE.parent / "data" / "sums-holdout.jsonl"
VARIANT = "bf16"
REPLICAS = 2
KEPT = {"think", "stop", "task", "usage", "switch", "truncation", "concurrency", "cancellation"}
"""Contracts that hold however many engines are behind an address, and whoever deals out the requests."""
FIGURES: list[str] = []
"""What was measured, told at the end."""


def until_it_answers(url: str, seconds: float, *programs: Process) -> None:
    """Wait for an address that some programs make; they fail with their last words where one ends or it takes too long."""
    deadline = time.monotonic() + seconds
    while not answers(url, timeout=10):
        words = "".join(program.tail(60) for program in programs)
        assert all(program.alive() for program in programs) and time.monotonic() < deadline, words
        time.sleep(0.5)


@pytest.fixture(scope="session")
def merged(thinkship: Thinkship) -> None:
    done = thinkship("run", RECIPE, "--engine", "vllm", "--until", "merge")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="session")
def told(merged: None, store: Path) -> Served:
    """What a cluster would be told."""
    return served(RECIPE, Wish("vllm", VARIANT, gpu=False), store)


@pytest.fixture(scope="session")
def here(merged: None, store: Path) -> Target:
    """What an engine of this machine is given, with room for half of the demo's requests: there are two of them."""
    step, needed = service.steps(RECIPE, "vllm", VARIANT)
    directories = {key: Store(store).directory(other) for key, name in step.inputs.items() for other in needed if other.name == name}
    return replace(target(step.recipe, directories), parallel=4)


@pytest.fixture(scope="session")
def verified(here: Target, thinkship: Thinkship) -> Callable[[str, Path], tuple[set[str], dict[str, str]]]:
    """verified(url, report) holds an endpoint against the gate and held-out sums, eight at once; it returns what passed, and what failed and why."""

    def verify(url: str, report: Path) -> tuple[set[str], dict[str, str]]:
        asked = ("--questions", QUESTIONS, "--limit", 24, "--parallel", 8, "--at-least", 0.9, "--max-tokens", 160, "--json", report)
        done = thinkship("verify", "--url", url, "--engine", "vllm", "--model-dir", here.model, *asked)
        assert report.is_file(), done.stdout + done.stderr
        checks = json.loads(report.read_text(encoding="utf-8"))["checks"]
        passed = {check["name"] for check in checks if check["status"] == "pass"}
        return passed, {check["name"]: check["message"] for check in checks if check["status"] == "fail"}

    return verify


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured."""
    for line in FIGURES:
        terminalreporter.write_line(line)
