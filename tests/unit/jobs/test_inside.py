"""What the pods do on the volume, done here: begun, held, checked and sealed as any runner does it, and by one pod at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from finished_store import finish

from toolkit import pipeline, runs
from toolkit.artifact import read_record
from toolkit.images import Image
from toolkit.runners.kubernetes import assignment, hold, inside
from toolkit.runners.kubernetes.assignment import Assignment
from toolkit.stages import ROOT
from toolkit.store import Store

DEMO = ROOT / "recipes" / "smollm2-demo.yml"


@pytest.fixture(scope="module")
def planned():
    return runs.steps(DEMO, ("ollama",), "modelfile")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(finish(DEMO, tmp_path / "store", ("ollama",)))


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store):
    """pod(verb, told, uid) does one of the pods' verbs and returns its exit code and events."""
    told = tmp_path / "told.json"
    given = tmp_path / "given"
    given.mkdir()
    monkeypatch.setattr(inside, "TOLD", told)
    monkeypatch.setattr(inside, "GIVEN", given)
    monkeypatch.setattr(inside, "SEALED", given / "sealed")
    monkeypatch.setattr(inside, "PATIENCE", 0.0)

    def do(verb: str, wanted: Any, uid: str = "pod-1", *words: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.setenv("POD_UID", uid)
        told.write_text(assignment.written(wanted))
        said: list[str] = []
        monkeypatch.setattr(inside.console, "emit", said.append)
        code = inside.main(verb, str(store.root), *words)
        return code, [json.loads(text) for text in said]

    return do


def told_of(planned, name: str, **more: Any) -> Assignment:
    (step,) = (one for one in planned if one.name == name)
    given = {"given": ".given/x", "image": "thinkship/train:1"} if step.stage.environment else {"given": "", "image": ""}
    return assignment.of(step, planned, **(given | more))


def unmade(store: Store, planned, name: str) -> Path:
    (step,) = (one for one in planned if one.name == name)
    shutil.rmtree(store.directory(step))
    return store.directory(step)


def test_a_step_is_the_same_after_its_way_to_a_pod(planned):
    for step in planned:
        told = assignment.of(step, planned, given="x", image="y")
        again = Assignment(**{**json.loads(json.dumps(asdict(told))), "paths": told.paths}).step()
        assert (again.id, again.directory, again.stage.digest, again.stage.disk) == (step.id, step.directory, step.stage.digest, step.stage.disk)
        assert again.stage.online(again.recipe) == step.stage.online(step.recipe) and dict(again.inputs) == dict(step.inputs)


def test_a_look_tells_what_is_to_be_made(pod, store, planned):
    unmade(store, planned, "modelfile")
    code, events = pod("look", tuple(told_of(planned, step.name) for step in planned))
    states = {event["step"]: event["state"] for event in events if event["event"] == "step"}
    assert (
        code == 0
        and {state for name, state in states.items() if "-base" not in name and name != "modelfile"} == {"sealed"}
        and states["modelfile"] == "make"
    )
    assert {"event": "given", "folder": ".given/x", "there": False} in events


def test_a_look_stops_at_a_file_that_was_touched(pod, store, planned):
    (store.directory(planned[0]) / "base.json").write_text("{ }  ")
    code, events = pod("look", (told_of(planned, "base"),))
    assert code == 6 and "is not what was sealed" in events[-1]["message"]


def test_a_look_at_a_volume_that_cannot_be_written_says_so(pod, store, planned, monkeypatch):
    monkeypatch.setattr(inside.tempfile, "TemporaryFile", lambda dir: (store.root / "none" / "x").open("w"))
    code, events = pod("look", (told_of(planned, "base"),))
    assert code == 4 and "cannot write on the volume" in events[-1]["message"] and "fsGroup" in events[-1]["remedy"]


def made(store: Store, step, directory: Path) -> None:
    """Do what the stage's own program does, in three lines."""
    (directory / "Modelfile").write_text("FROM x\n")
    (store.scratch(step) / "checkpoint-1").mkdir(exist_ok=True)


def test_a_step_is_sealed_as_the_local_runner_seals_it(pod, store, planned):
    (step,) = (one for one in planned if one.name == "modelfile")
    directory, told = unmade(store, planned, "modelfile"), told_of(planned, "modelfile")
    assert pod("open", told) == (0, [])
    arguments = json.loads((store.scratch(step) / "args.json").read_text())
    assert arguments["output"] == str(directory) and arguments["inputs"]["gguf"] == str(store.root / told.made["gguf"])
    made(store, step, directory)
    code, events = pod("seal", told)
    record = read_record(directory)
    assert code == 0 and record and record.runner == "kubernetes" and events[-1]["text"] == f"{record.seconds:.1f} s"
    assert not store.scratch(step).exists() and store.sealed(step, deep=True)
    shutil.rmtree(directory)

    class Local:
        name = "local"

        def place(self, name, scratch):
            raise AssertionError

        def run(self, step, task):
            made(store, step, task.output)
            return {}

    pipeline.run([one for one in planned if one.name in {"modelfile", *step.inputs.values()}], store, Local())
    other = read_record(directory)
    assert other
    same = {"runner": "", "seconds": 0, "files": ()}
    assert record.model_copy(update=same) == other.model_copy(update=same)
    assert [file.sha256 for file in record.files] == [file.sha256 for file in other.files]


def test_what_breaks_its_contract_is_not_sealed(pod, store, planned):
    directory, told = unmade(store, planned, "modelfile"), told_of(planned, "modelfile")
    pod("open", told)
    (directory / "Modelfile").write_text("TEMPLATE x\n")
    code, events = pod("seal", told)
    assert code == 6 and "does not start with FROM" in events[-1]["message"] and read_record(directory) is None


def test_a_sealed_step_is_left_alone_and_a_reclaimed_one_is_made_again(pod, store, planned, tmp_path):
    told = told_of(planned, "modelfile")
    before = read_record(store.root / f"{told.name}-{told.id[:12]}")
    assert pod("open", told)[1][-1]["text"] == "sealed meanwhile" and (tmp_path / "given" / "sealed").exists()
    assert read_record(store.root / f"{told.name}-{told.id[:12]}") == before
    assert pod("open", replace(told, again=True))[0] == 0
    assert read_record(store.root / f"{told.name}-{told.id[:12]}") is None


def test_an_input_that_is_not_there_begins_nothing(pod, store, planned):
    directory = unmade(store, planned, "modelfile")
    unmade(store, planned, "gguf")
    code, events = pod("open", told_of(planned, "modelfile"))
    assert code == 4 and "its input gguf" in events[-1]["message"] and not directory.exists()


def test_a_store_in_use_is_waited_for_and_then_left(pod, store, planned):
    directory = unmade(store, planned, "modelfile")
    with (store.root / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, events = pod("open", told_of(planned, "modelfile"))
    assert code == 4 and "another run uses the store" in events[-1]["message"] and not directory.exists()


def test_templates_come_from_the_verify_image(pod, store, planned, tmp_path):
    unmade(store, planned, "base")
    assert pod("open", told_of(planned, "base"))[0] == 0
    assert (tmp_path / "given" / "modelfiles" / "qwq.chat.jinja").is_file() and (store.root / ".downloads").is_dir()
    (step,) = (one for one in planned if one.name == "base")
    inputs = json.loads((store.scratch(step) / "args.json").read_text())["inputs"]
    assert inputs == {"recipe_dir": str(store.root / ".given/x"), "modelfiles": str(tmp_path / "given" / "modelfiles")}


def held(store: Store, step: str, uid: str, *argv: str) -> subprocess.Popen[str]:
    """Run a program as a stage container runs it."""
    words = (sys.executable, "-c", Path(hold.__file__).read_text().replace("PATIENCE = 60.0", "PATIENCE = 0.0"), str(store.root), step, *argv)
    return subprocess.Popen(words, env={**os.environ, "POD_UID": uid}, stdout=subprocess.PIPE, text=True)


def test_a_stage_holds_the_store_until_it_ends(pod, store, planned):
    unmade(store, planned, "modelfile")
    told = told_of(planned, "modelfile")
    directory = f"modelfile-{told.id[:12]}"
    assert pod("open", told)[0] == 0
    began = store.root / "began"
    with held(store, directory, "pod-1", "/bin/sh", "-c", f"touch {began}; exec sleep 30") as stage:
        while not began.exists():
            assert stage.poll() is None
            time.sleep(0.01)
        with pytest.raises(BlockingIOError), (store.root / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = held(store, directory, "pod-1", "/bin/true")
        assert second.wait() == 4 and second.stdout and "another run uses the store" in second.stdout.read()
        second.stdout.close()
        stage.kill()
    with (store.root / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_pod_whose_step_was_begun_anew_touches_nothing(pod, store, planned):
    unmade(store, planned, "modelfile")
    told = told_of(planned, "modelfile")
    directory = f"modelfile-{told.id[:12]}"
    assert pod("open", told, "pod-1")[0] == 0 and pod("open", told, "pod-2")[0] == 0
    for uid, code in (("pod-2", 0), ("pod-1", 4)):
        with held(store, directory, uid, "/bin/true") as stage:
            assert stage.wait() == code
    store.fresh(told.step())  # what a run on another machine does
    with held(store, directory, "pod-2", "/bin/true") as stage:
        assert stage.wait() == 4 and stage.stdout and "begun this step anew" in stage.stdout.read()


def test_the_verify_image_holds_what_a_modelfile_takes_beside_the_package():
    pin = ROOT / "images" / "ollama" / "versions.env"
    assert pin in Image("verify").files() and pin not in Image("convert").files()
    folder = ROOT / "images" / "verify"
    name = pin.relative_to(ROOT).as_posix()
    assert f"COPY --chmod=0755 {name} /opt/thinkship/{name}" in (folder / "Dockerfile").read_text()
    assert f"!{name}" in (folder / "Dockerfile.dockerignore").read_text().splitlines()


def test_a_stage_of_the_host_package_is_made_in_its_pod(pod, store, planned):
    directory, told = unmade(store, planned, "modelfile"), told_of(planned, "modelfile")
    (store.root / told.made["model"] / "model" / "generation_config.json").write_text('{"temperature": 0.6}')
    (store.root / told.made["dataset"] / "stats.json").write_text('{"longest_row": 100}')
    assert [pod(verb, told)[0] for verb in ("open", "host", "seal")] == [0, 0, 0]
    text = (directory / "Modelfile").read_text()
    assert f"FROM ../{told.made['gguf']}/model-q8_0.gguf" in text and "PARAMETER temperature 0.6" in text
    record = read_record(directory)
    assert record and [file.path for file in record.files] == ["Modelfile"] and record.image == ""


def test_no_space_left_is_no_bug(pod, store, planned, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/store/x")

    unmade(store, planned, "modelfile")
    monkeypatch.setattr(inside, "write_arguments", full)
    code, events = pod("open", told_of(planned, "modelfile"))
    assert code == 4 and events[-1]["message"] == "no space left on the volume: /store/x" and "enlarge the claim" in events[-1]["remedy"]
