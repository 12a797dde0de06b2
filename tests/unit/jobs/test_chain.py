"""The whole way of a step with the pods' own programs: looked for, begun, killed, begun again, made, sealed, and found again by any runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished_store import FILES, finish
from scripted_kubectl import pod

from toolkit import process, runs
from toolkit.artifact import read_record, seal
from toolkit.process import Command, Completed
from toolkit.runners.kubernetes import desk, inside, patience
from toolkit.runs import How
from toolkit.stages import ROOT
from toolkit.store import Store

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
ASKED = {"volume": None, "namespace": None, "registry": None, "secret": None, "gpu": False, "pod": None}


class Cluster:
    """A cluster of one node that is this process: it runs what pods are told to, on a folder in the place of the volume."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.store, self.patch = folder, folder / "store", monkeypatch
        self.kills = 0
        """How many pods are killed when their stage has begun."""
        self.pods: dict[str, list[dict[str, Any]]] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.jobs: dict[str, Any] = {}
        monkeypatch.setattr(process, "run", self.run)
        monkeypatch.setattr(process, "which", lambda tool, remedy: Path(tool))
        monkeypatch.setattr(inside, "TOLD", folder / "told.json")

    def run(self, command: Command, *, log: Path | None = None, on_line: Any = None, **_: Any) -> Completed:
        """Answer kubectl."""
        words = [word for word in command.argv[1:] if word not in ("--namespace", "default")]
        out = self.answer(*words)
        for line in out.splitlines() if on_line else ():
            on_line(line)
        return Completed(0, out)

    def answer(self, verb: str, *words: str) -> str:
        match verb, words[0] if words else "":
            case "create", "--filename":
                self.create(json.loads(Path(words[1]).read_text(encoding="utf-8")))
            case "version", _:
                return json.dumps({"serverVersion": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}})
            case "get", "persistentvolumeclaim":
                return json.dumps({"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteOnce"]}})
            case "get", "pod":
                return json.dumps(self.pods[words[1]][-1])
            case "get", "pods":
                return json.dumps({"items": self.pods[words[2].partition("=")[2]]})
            case "get", "job":
                return json.dumps(self.jobs[words[1]])
            case "logs", name:
                lines = self.logs[name, words[2]].splitlines()
                return "".join(
                    f"2026-01-01T00:00:01.{number:09}Z {line}\n" if "--timestamps" in words else f"{line}\n" for number, line in enumerate(lines)
                )
        return ""

    def create(self, thing: dict[str, Any]) -> None:
        """Run a pod, or a Job's pods until one has done its work."""
        name = thing["metadata"]["name"]
        if thing["kind"] == "Pod":
            code = self.container(name, thing, thing["spec"]["containers"][0])
            self.pods[name] = [pod(name, phase="Failed" if code else "Succeeded", open=code)]
            return
        self.pods[name] = []
        while not self.pods[name] or self.pods[name][-1]["status"]["phase"] == "Failed":
            number = len(self.pods[name]) + 1
            self.pods[name].append(self.attempt(f"{name}-{number}", f"2026-01-01T00:0{number}:00Z", thing["spec"]["template"]))
        end = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"}
        self.jobs[name] = {"status": {"conditions": [end]}}

    def attempt(self, name: str, made: str, template: dict[str, Any]) -> dict[str, Any]:
        codes: dict[str, Any] = {}
        for container in (*template["spec"]["initContainers"], *template["spec"]["containers"]):
            killed = container["name"] == "stage" and self.kills > 0
            if killed:
                self.kills -= 1
                self.logs[name, "stage"] = ""
            codes[container["name"]] = code = 137 if killed else self.container(name, template, container)
            if code:
                break
        return pod(name, made, phase="Failed" if any(codes.values()) else "Succeeded", **codes)

    def container(self, name: str, told: dict[str, Any], container: dict[str, Any]) -> int:
        """Run what a container runs, in this process; hold.py, which stands before it, is tested as the program that it is."""
        (self.folder / "told.json").write_text(told["metadata"]["annotations"]["thinkship/told"])
        given = self.folder / name
        given.mkdir(exist_ok=True)
        said: list[str] = []
        for key, value in {"GIVEN": given, "SEALED": given / "sealed"}.items():
            self.patch.setattr(inside, key, value)
        self.patch.setenv("POD_UID", name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inside.console, "emit", said.append)
            verb, root = container["command"][-2:]
            assert root == "/store" and (container["name"] == "open" or container["command"][1] == "-c")
            code = inside.main(verb, str(self.store))
        self.logs[name, container["name"]] = "".join(said)
        return code


@pytest.fixture
def planned():
    return runs.steps(DEMO, ("ollama",), "modelfile")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned) -> Cluster:
    """A cluster whose volume holds all of the demo but its Modelfile."""
    found = Cluster(tmp_path, monkeypatch)
    monkeypatch.setattr(patience, "PAUSE", 0.0)
    monkeypatch.setattr(desk, "PAUSE", 0.0)
    store = Store(finish(DEMO, found.store, ("ollama",)))
    facts: dict[str, Any] = {"recipe": {}, "inputs": {}, "programs": "", "runner": "local", "thinkship": "0", "seconds": 0}
    for step in planned:
        if not store.sealed(step):
            for name, text in FILES[step.stage.name].items():
                (store.directory(step) / name).parent.mkdir(parents=True, exist_ok=True)
                (store.directory(step) / name).write_text(text)
            seal(store.directory(step), step=step.name, stage=step.stage.name, id=step.id, **facts)
    (modelfile,) = (step for step in planned if step.name == "modelfile")
    inputs = {name: next(store.directory(step) for step in planned if step.name == other) for name, other in modelfile.inputs.items()}
    shutil.rmtree(store.directory(modelfile))
    rewritten(inputs["model"], "model/generation_config.json", '{"temperature": 0.6}')
    rewritten(inputs["dataset"], "stats.json", '{"longest_row": 100}')
    return found


def rewritten(directory: Path, name: str, text: str) -> None:
    """Have a sealed directory hold another file."""
    record = read_record(directory)
    assert record
    (directory / name).write_text(text)
    seal(directory, **record.model_dump(exclude={"files"}))


def run(cluster: Cluster) -> None:
    runs.start(DEMO, ("ollama",), "modelfile", cluster.folder / "here", How("kubernetes", cluster=ASKED))


def test_a_step_whose_pods_are_killed_is_sealed_once_and_found_by_everybody(cluster, planned, capsys):
    cluster.kills = 2
    run(cluster)
    told = capsys.readouterr().out
    assert told.count("skip") == len(planned) - 1 and "run  modelfile" in told and "the store is pvc://thinkship-store" in told
    (name,) = cluster.jobs
    assert [len(cluster.pods[name]), cluster.kills] == [3, 0]
    (step,) = (step for step in planned if step.name == "modelfile")
    record = read_record(cluster.store / step.directory)
    assert record and record.id == step.id and record.made_from["gguf"].startswith("gguf-") and not Store(cluster.store).scratch(step).exists()
    assert f"{record.seconds:.1f} s" in told
    run(cluster)
    assert "nothing to do: every step is sealed" in capsys.readouterr().out and len(cluster.jobs) == 1
    assert all(Store(cluster.store).sealed(step) for step in planned), "the local runner has nothing to do either"


def test_a_store_that_was_touched_is_not_built_on(cluster, planned):
    (cluster.store / planned[0].directory / "base.json").write_text("{} ")
    with pytest.raises(Exception, match="is not what was sealed") as error:
        run(cluster)
    assert error.value.exit_code == 6 and not cluster.jobs
