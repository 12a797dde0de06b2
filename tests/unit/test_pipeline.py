from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from toolkit import pipeline
from toolkit.errors import BrokenError, FailedError, NotReadyError
from toolkit.pipeline import Task
from toolkit.places import Place
from toolkit.plan import Step
from toolkit.stages import Stage
from toolkit.store import Store


class Writer:
    """A runner that does a stage's work in three lines, to test the loop around it."""

    name = "writer"

    def __init__(self, text: str = "FROM x\n", fail: bool = False) -> None:
        self.text, self.fail, self.ran = text, fail, list[str]()

    def place(self, name: str, scratch: Path) -> Place:
        raise AssertionError("no server is started here")

    def run(self, step: Step, task: Task) -> dict[str, str]:
        self.ran.append(step.name)
        (task.output / "Modelfile").write_text(self.text, encoding="utf-8")
        (task.scratch / "half-done").mkdir(exist_ok=True)
        if self.fail:
            raise FailedError("the program ended with exit code 1")
        return {"image": "writer@sha256:1"}


def step(name: str, identity: str, inputs: Mapping[str, str] = {}, disk: float = 1.0) -> Step:
    def everything(recipe: Any) -> dict[str, Any]:
        return {}

    return Step(name, Stage("modelfile", "toolkit/render.py", everything, disk=disk), {}, inputs, {}, identity * 12)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


PLAN = (step("a", "1"), step("b", "2", {"gguf": "a"}))


def test_steps_run_once_and_are_sealed_with_their_inputs(store):
    writer = Writer()
    outcome = pipeline.run(PLAN, store, writer)
    assert writer.ran == ["a", "b"] and set(outcome.seconds) == {"a", "b"}
    record = json.loads((outcome.directories["b"] / "record.json").read_text(encoding="utf-8"))
    assert record["inputs"] == {"gguf": "a"} and record["files"][0]["path"] == "Modelfile" and record["runner"] == "writer"
    assert record["image"] == "writer@sha256:1"
    again = pipeline.run(PLAN, store, writer)
    assert writer.ran == ["a", "b"] and not again.seconds


def test_a_failed_step_is_not_sealed_keeps_its_scratch_and_runs_again(store):
    with pytest.raises(FailedError):
        pipeline.run(PLAN, store, Writer(fail=True))
    assert store.sealed(PLAN[0]) is None and (store.scratch(PLAN[0]) / "half-done").is_dir()
    writer = Writer()
    pipeline.run(PLAN, store, writer)
    assert writer.ran == ["a", "b"] and not store.scratch(PLAN[0]).exists()


def test_a_broken_contract_is_not_sealed(store):
    with pytest.raises(BrokenError, match="does not start with FROM"):
        pipeline.run(PLAN, store, Writer(text="TEMPLATE x"))
    assert store.sealed(PLAN[0]) is None


def test_leftovers_of_an_interrupted_run_do_not_survive(store):
    directory = store.fresh(PLAN[0])
    (directory / "garbage").touch()
    outcome = pipeline.run(PLAN, store, Writer())
    assert not (outcome.directories["a"] / "garbage").exists()


def test_a_touched_artefact_stops_the_run_and_is_named(store):
    outcome = pipeline.run(PLAN, store, Writer())
    (outcome.directories["a"] / "Modelfile").write_text("FROM z\n", encoding="utf-8")
    with pytest.raises(BrokenError, match="Modelfile: its content was changed"):
        pipeline.run(PLAN, store, Writer())


def test_two_runs_do_not_share_a_store(store):
    store.root.mkdir()
    with (store.root / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(NotReadyError, match="another run uses the store"):
            pipeline.run(PLAN, store, Writer())


def test_too_little_space_is_said_before_the_step_starts(store):
    writer = Writer()
    hungry = (step("a", "1"), step("b", "2", {"gguf": "a"}, disk=1e15))
    with pytest.raises(NotReadyError, match=r"b: about \d+ MiB are needed"):
        pipeline.run(hungry, store, writer)
    assert writer.ran == ["a"] and not store.directory(hungry[1]).exists()


def test_a_store_that_cannot_be_written_is_not_ready(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotReadyError, match="cannot be written"):
        pipeline.run(PLAN, Store(tmp_path / "file"), Writer())
