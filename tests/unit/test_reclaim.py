"""What `run --reclaim` frees, what it never frees, and how everybody who meets a reclaimed directory says so."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import DEMO
from finished_store import FILES
from test_pipeline import Writer

from toolkit import pipeline, reclaim, runs
from toolkit.artifact import Record, read_record, verify_files
from toolkit.errors import BrokenError
from toolkit.pipeline import Task
from toolkit.plan import Step, plan, until
from toolkit.recipe import EngineName, Recipe
from toolkit.resolve import resolve
from toolkit.stages import ROOT
from toolkit.store import Store

pytestmark = pytest.mark.loopback

MODEL, BASE_GGUF, F16 = "model/model.safetensors", "gguf-base", "model-f16.gguf"
SERVED = {"serve": {"endpoint.json": "{}"}, "verify": {"report.json": '{"verdict": "pass"}'}}


class Maker(Writer):
    """A runner that leaves the small files of a finished store, and says which weights were there to be read."""

    def run(self, step: Step, task: Task) -> dict[str, str]:
        self.ran.append(step.name)
        for name, pattern in reclaim.reads(step):
            (folder,) = (task.inputs[key] for key, other in step.inputs.items() if other == name)
            assert list(folder.glob(pattern)), f"{step.name} found no {pattern} in {folder.name}"
        for name, text in {**FILES, **SERVED, "compress": FILES["merge"]}[step.stage.name].items():
            if step.stage.name == "gguf" and name[len("model-") : -len(".gguf")] not in step.recipe["gguf"]["types"]:
                continue
            (task.output / name).parent.mkdir(parents=True, exist_ok=True)
            (task.output / name).write_text(text, encoding="utf-8")
        return {}


@pytest.fixture(autouse=True)
def no_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "check", lambda *_: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def planned(recipe: Recipe, *engines: EngineName) -> tuple[Step, ...]:
    return plan(resolve(recipe, DEMO.parent), engines)


def left(store: Store, steps: tuple[Step, ...]) -> dict[str, list[str]]:
    """The files with weights of each step, and none for what was freed."""
    found = {step.name: store.directory(step) for step in steps}
    return {name: sorted(path.name for ending in ("safetensors", "gguf") for path in folder.rglob(f"*.{ending}")) for name, folder in found.items()}


def record(store: Store, steps: tuple[Step, ...], name: str) -> Record:
    found = read_record(next(store.directory(step) for step in steps if step.name == name))
    assert found
    return found


def frugal(store: Store, steps: tuple[Step, ...], **how: Any) -> Maker:
    maker = Maker()
    pipeline.run(how.get("only", steps), store, maker, steps)
    return maker


def test_what_no_server_is_given_goes_and_all_else_stays(demo, store, capsys):
    steps = planned(demo, "llamacpp")
    outcome = pipeline.run(steps, store, Maker(), steps)
    there = left(store, steps)
    assert there["merge"] == there[BASE_GGUF] == []
    assert there["base"] == ["model.safetensors"] and there["train"] == ["adapter_model.safetensors"]
    assert there["gguf"] == ["model-f16.gguf", "model-q4_k_m.gguf", "model-q8_0.gguf"], "llama.cpp serves each"
    assert set(outcome.freed) == {"merge", BASE_GGUF}
    merge = record(store, steps, "merge")
    assert merge.reclaimed and merge.freed == (MODEL,) and {file.path: len(file.sha256) for file in merge.files}[MODEL] == 64
    assert (store.directory(steps[3]) / "probes.jsonl").is_file() and (store.directory(steps[3]) / "model" / "config.json").is_file()
    assert "reclaimed of merge: model/model.safetensors (0.0 MB)" in capsys.readouterr().out
    (line, _) = (json.loads(line) for line in (store.root / ".logs" / reclaim.JOURNAL).read_text().splitlines())
    assert line["directory"] == steps[3].directory and line["files"] == [MODEL] and line["bytes"] == len("weights")


@pytest.mark.parametrize(
    ("engines", "gone"),
    [
        (("vllm",), set()),
        (("transformers",), set()),
        (("ollama",), {"merge", "gguf", BASE_GGUF}),
        (("llamacpp", "vllm"), {BASE_GGUF}),
    ],
)
def test_what_is_served_stays(demo, store, engines, gone):
    steps = planned(demo, *engines)
    frugal(store, steps)
    assert {step.name for step in steps if record(store, steps, step.name).reclaimed} == gone
    if engines == ("ollama",):
        assert left(store, steps)["gguf"] == ["model-q8_0.gguf"], "the Modelfile's alone"


def test_a_stored_format_lets_the_merge_go_and_an_adapter_apart_keeps_its_base(demo, store):
    stored = demo.model_copy(update={"serve": demo.serve.model_copy(update={"vllm": demo.serve.vllm.model_copy(update={"variants": ("w4a16",)})})})
    steps = planned(stored, "vllm")
    frugal(store, steps)
    assert left(store, steps)["merge"] == [] and left(store, steps)["compress-w4a16"] == ["model.safetensors"]
    apart = demo.serve.llamacpp.model_copy(update={"adapter": "separate"})
    beside = planned(demo.model_copy(update={"serve": demo.serve.model_copy(update={"llamacpp": apart})}), "llamacpp")
    serve = next(one for one in beside if one.name == "serve-llamacpp-f16-adapter")
    assert reclaim.reads(serve) == ((BASE_GGUF, F16),)


def test_a_plan_that_is_cut_short_keeps_what_its_rest_needs(demo, store):
    steps = planned(demo, "llamacpp")
    frugal(store, steps, only=until(steps, "merge"))
    assert not record(store, steps, "merge").reclaimed
    frugal(store, steps, only=until(steps, "gguf"))
    assert record(store, steps, "merge").reclaimed and not record(store, steps, BASE_GGUF).reclaimed, "the base is still to be served"


def test_what_a_reclaimed_step_is_to_be_made_of_again_stays(demo, store):
    frugal(store, planned(demo, "ollama"))
    pipeline.run(planned(demo, "vllm"), store, Maker())
    steps = planned(demo, "llamacpp")
    assert frugal(store, steps, only=until(steps, "gguf")).ran == [], "nobody in this part of the plan reads the files that went"
    assert left(store, steps)["merge"] == ["model.safetensors"], "the rest does: its GGUF files are made of it"
    assert frugal(store, steps).ran[0] == "gguf" and left(store, steps)["merge"] == []


def test_the_same_recipe_again_makes_and_frees_nothing(demo, store, capsys):
    steps = planned(demo, "llamacpp")
    frugal(store, steps)
    for again in ((), steps):
        maker = Maker()
        outcome = pipeline.run(steps, store, maker, again)
        assert maker.ran == [] and not outcome.seconds and not outcome.freed
    assert " freed  merge" in capsys.readouterr().out


def test_what_was_made_before_is_freed_by_a_later_run(demo, store):
    steps = planned(demo, "llamacpp")
    pipeline.run(steps, store, Maker())
    assert left(store, steps)["merge"] == ["model.safetensors"]
    assert frugal(store, steps).ran == [] and left(store, steps)["merge"] == []


def test_a_step_that_needs_reclaimed_files_has_them_made_again_and_says_so(demo, store, capsys):
    steps = planned(demo, "llamacpp")
    frugal(store, steps)
    shutil.rmtree(store.directory(next(one for one in steps if one.name == "gguf")))
    capsys.readouterr()
    maker = Maker()
    pipeline.run(steps, store, maker)
    assert maker.ran == ["merge", "gguf"], "the servers' evidence is sealed, and the base's file is not asked for"
    assert "merge was reclaimed, and gguf must be made from it: it is made again" in capsys.readouterr().out
    assert left(store, steps)["merge"] == ["model.safetensors"] and not record(store, steps, "merge").reclaimed


def test_another_plan_that_reads_what_goes_is_named(demo, store, capsys):
    other = planned(demo, "vllm")
    pipeline.run(other, store, Maker())
    steps = planned(demo, "llamacpp")
    frugal(store, steps)
    words = capsys.readouterr().out
    reader = next(one.directory for one in other if one.name == "serve-vllm-bf16")
    assert "another plan read them too (" in words and reader in words
    journal = [json.loads(line) for line in (store.root / ".logs" / reclaim.JOURNAL).read_text().splitlines()]
    assert reader in journal[0]["others"] and journal[1]["others"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from toolkit import artifact, reclaim

gone = []

def unlink(path):
    if gone:
        os.kill(os.getpid(), signal.SIGKILL)
    gone.append(path)
    os.unlink(path)

def replace(draft, record):
    os.kill(os.getpid(), signal.SIGKILL)

when, directory = sys.argv[1], Path(sys.argv[2])
if when == "removing":
    Path.unlink = unlink
else:
    os.replace = replace
reclaim.free(directory, artifact.read_record(directory), sys.argv[3:])
"""
"""A program that frees files of a sealed directory and is killed when the first of them is gone, or before its record says that they go."""


def killed(when: str, directory: Path) -> None:
    done = subprocess.run((sys.executable, "-c", KILLED, when, directory, F16, "model-q4_k_m.gguf"), cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_kill_in_the_middle_of_freeing_is_understood(demo, store, capsys):
    steps = planned(demo, "ollama")
    pipeline.run(steps, store, Maker())
    directory = store.directory(next(one for one in steps if one.name == "gguf"))
    killed("removing", directory)
    gguf = record(store, steps, "gguf")
    assert gguf.reclaimed and len(gguf.freed) == 2 and left(store, steps)["gguf"] == ["model-q4_k_m.gguf", "model-q8_0.gguf"], "one of two went"
    verify_files(directory, gguf, deep=True)
    assert "reclaimed" in _shown(steps, store)
    capsys.readouterr()
    maker = Maker()
    pipeline.run(steps, store, maker)
    assert maker.ran == [] and left(store, steps)["gguf"] == ["model-q8_0.gguf"]
    assert "freeing it was interrupted" in capsys.readouterr().out


def test_a_kill_before_the_record_says_so_has_freed_nothing(demo, store):
    steps = planned(demo, "ollama")
    pipeline.run(steps, store, Maker())
    directory = store.directory(next(one for one in steps if one.name == "gguf"))
    killed("writing", directory)
    assert not record(store, steps, "gguf").reclaimed and len(left(store, steps)["gguf"]) == 3
    assert frugal(store, steps).ran == [], "half a record is no file that somebody added"
    assert left(store, steps)["gguf"] == ["model-q8_0.gguf"] and not list(directory.glob(".*"))


def test_what_stays_is_watched_over_as_before(demo, store):
    steps = planned(demo, "ollama")
    frugal(store, steps)
    directory = store.directory(next(one for one in steps if one.name == "gguf"))
    (directory / "model-q8_0.gguf").write_text("other")
    with pytest.raises(BrokenError) as caught:
        verify_files(directory, record(store, steps, "gguf"))
    assert "model-q8_0.gguf" in caught.value.message and "f16" not in caught.value.message


def _shown(steps: tuple[Step, ...], store: Store) -> str:
    table = runs.table(steps, store.root)
    return " ".join(str(cell) for column in table.columns for cell in column.cells)


def test_the_plan_shows_what_was_reclaimed(demo, store):
    steps = planned(demo, "llamacpp")
    frugal(store, steps)
    states = list(runs.table(steps, store.root).columns[-1].cells)
    shown = {one.name: state for one, state in zip(steps, states, strict=True)}
    assert "reclaimed" in shown["merge"] and "sealed" in shown["gguf"]
