"""Plants faults in real engines that serve a finished demo run, and prints which check found each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from catalogue import FAULTS, Fault
from gateway import before
from settings_faults import SETTINGS

from toolkit import recipe_file
from toolkit.engines import Target
from toolkit.errors import ThinkshipError
from toolkit.places import Machine
from toolkit.plan import plan, serve_step
from toolkit.resolve import resolve
from toolkit.runners.environment import Environment
from toolkit.serving import serving
from toolkit.stages import IMAGES, ROOT
from toolkit.targets import target, tools
from toolkit.verify import Expectations, Finding
from toolkit.verify.observe import examine, expectations_of

RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
QUESTIONS, TOKENS = 6, 80
"""Held-out questions each server is asked, and the longest answer, about twice what a right one takes."""


@dataclass
class Outcome:
    """What the gate said of one served model."""

    failed: dict[str, str] = field(default_factory=dict)
    """Check -> its message."""
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Served:
    """The steps of a finished run that an engine is served from, and what it is held against."""

    target: Target
    expected: Expectations
    base_gguf: Path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the demo has been run; THINKSHIP_TEST_STORE names one that is there."""
    place = Path(os.environ.get("THINKSHIP_TEST_STORE") or tmp_path_factory.mktemp("store"))
    argv = (sys.executable, "-m", "toolkit.cli", "run", str(RECIPE), "--store", str(place), "--engine", "llamacpp", "--engine", "ollama")
    done = subprocess.run((*argv, "--until", "modelfile"), cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(scope="session")
def served(store: Path) -> Callable[[str, str], Served]:
    """served(engine, variant) says where a variant of the tuned model lies and what it must show."""
    recipe = recipe_file.load(RECIPE)
    steps = {step.name: step for step in plan(resolve(recipe, RECIPE.parent), ("llamacpp", "ollama"))}

    def find(engine: str, variant: str) -> Served:
        step = serve_step(recipe, engine, variant, base=False)
        inputs = {key: store / steps[name].directory for key, name in step.inputs.items()}
        wanted = expectations_of(dict(step.recipe), inputs["dataset"], inputs["model"] / "model")
        task = wanted.task and wanted.task.model_copy(update={"max_tokens": TOKENS})
        few = replace(wanted, questions=wanted.questions[:QUESTIONS], task=task, timeout=40.0)
        return Served(target(step.recipe, inputs), few, store / steps["gguf-base"].directory / "model-f16.gguf")

    return find


@pytest.fixture
def gate(tmp_path: Path) -> Callable[..., Outcome]:
    """gate(engine, target, expected, programs=None, gateway="") serves a target and says which checks failed."""

    def judge(engine: str, wanted: Target, expected: Expectations, programs: Path | None = None, gateway: str = "") -> Outcome:
        began, place = time.monotonic(), tools(engine, tmp_path / "scratch")
        try:
            with (
                serving(engine, wanted, Machine(replace(place, programs=programs or place.programs)), tmp_path / "log") as endpoint,
                before(endpoint.root, gateway) if gateway else nullcontext(endpoint.root) as root,
            ):
                findings = examine(replace(endpoint, url=f"{root}/v1"), expected)[1]
        except ThinkshipError as error:
            return Outcome({"start": error.message}, (), time.monotonic() - began)
        failed = {finding.name: finding.message for finding in findings if finding.status == "fail"}
        return Outcome(failed, findings, time.monotonic() - began)

    return judge


def planted(fault: Fault, served: Served, folder: Path) -> tuple[Target, Path | None]:
    """Return the target with the fault in it, and the folder of the server's program where that is changed."""
    wanted = served.target
    if fault.modelfile:
        text = (served.target.modelfile or Path()).read_text(encoding="utf-8")
        changed = re.sub(fault.modelfile[0], lambda _: fault.modelfile[1], text, count=1, flags=re.DOTALL)
        assert changed != text, f"{fault.name}: nothing was changed"
        (folder / "Modelfile").write_text(changed, encoding="utf-8")
        return replace(wanted, modelfile=folder / "Modelfile"), None
    if fault.gguf or fault.bytes:
        wanted = replace(wanted, gguf=_faulty_file(fault, served, folder / "model-f16.gguf"))
    return wanted, _faulty_program(fault, folder) if fault.program else None


def _faulty_file(fault: Fault, served: Served, path: Path) -> Path:
    source = served.target.gguf
    assert source
    if fault.bytes:
        data = source.read_bytes()
        broken = {"truncated": data[: len(data) // 2], "empty": b"", "header": data[:24] + b"\xff" * 64 + data[88:]}
        path.write_bytes(broken[fault.bytes])
        return path
    given = {"source": str(source), "target": str(path), "base": str(served.base_gguf), **fault.gguf}
    (path.parent / "plant.json").write_text(json.dumps(given), encoding="utf-8")
    argv = (str(Environment("train").install()), str(Path(__file__).with_name("plant.py")), str(path.parent / "plant.json"))
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


def _faulty_program(fault: Fault, folder: Path) -> Path:
    assert fault.program
    text = (IMAGES / fault.engine[0] / "serve.py").read_text(encoding="utf-8")
    assert fault.program[0] in text, f"{fault.name}: serve.py has no {fault.program[0]!r}"
    for beside in (IMAGES / fault.engine[0]).glob("*.py"):  # what serve.py imports
        shutil.copy(beside, folder)
    (folder / "serve.py").write_text(text.replace(*fault.program, 1), encoding="utf-8")
    return folder


@dataclass
class Matrix:
    """What was seen of every fault and of every clean run, by its name."""

    faults: dict[str, str] = field(default_factory=dict)
    clean: dict[str, str] = field(default_factory=dict)

    def found(self, name: str, found: str, others: str, seconds: float) -> None:
        """Keep a fault's row: the check that named it, what failed as well, and how long it took."""
        self.faults[name] = f"| {name} | {found} | {others} | {seconds:.0f} |"

    def page(self, before: str = "") -> str:
        """Return the page as Markdown; rows of an earlier page stay where this run had none."""
        before, mark, cluster = before.partition("\n## On a cluster")  # tests/cluster writes from there on
        rows = dict(ROW.findall(before))
        faults = {name: row for name, row in {**rows, **self.faults}.items() if name in NAMES}
        clean = {name: row for name, row in {**rows, **self.clean}.items() if name.startswith("nothing wrong:")}
        page = PAGE.format(
            count=len(faults),
            found=sum("**not found**" not in row for row in faults.values()),
            faults="\n".join(faults[name] for name in NAMES if name in faults),
            clean=CLEAN.format(clean="\n".join(clean[name] for name in sorted(clean))) if clean else "",
        )
        return page + mark + cluster


NAMES = [fault.name for fault in (*FAULTS, *(setup.fault for setup in SETTINGS))]
ROW = re.compile(r"^(?=\| (.+?) \|)(.*)$", re.MULTILINE)
MATRIX = Matrix()
PAGE = """# Planted faults

Each fault is planted for real: in the files that an engine serves the demo's model from, in the engine's program or settings, in Ollama's
Modelfile, or in a gateway before the engine. The table says which check of the gate named it, which others failed as its consequence, and the
seconds from the start to the verdict. {found} of {count} are found by the check that names the cause.
Written by `THINKSHIP_FAULT_MATRIX=docs/faults.md pytest tests/faults`; a run of some of them renews their rows.

| fault | found by | fails as well | seconds |
| --- | --- | --- | --- |
{faults}
{clean}
Not a fault that a gate can find: a request's own `max_tokens` overrides a limit set in server or Modelfile, and llama.cpp rounds a context of 48
tokens up to 256; its `deepseek-legacy` parser answers as `deepseek` does. A beginning token that is also the template's first is no fault in
llama.cpp: the server takes the text off that it puts there.
"""
CLEAN = """
Runs in which nothing is wrong, each with another set of questions:

| run | alarms | seconds |
| --- | --- | --- |
{clean}
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the page; THINKSHIP_FAULT_MATRIX names a file that gets it too."""
    path = Path(os.environ.get("THINKSHIP_FAULT_MATRIX") or os.devnull)
    text = MATRIX.page(path.read_text(encoding="utf-8") if path.is_file() else "")
    terminalreporter.write(f"\n{text}")
    path.write_text(text, encoding="utf-8")
