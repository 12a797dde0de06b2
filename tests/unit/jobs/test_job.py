"""A step's Job: hardened, named by step and store, begun again when killed and ended by our own errors; what it asks a node for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import recipe_file, runs
from toolkit.errors import InvalidError, UsageError
from toolkit.images import Image
from toolkit.runners.kubernetes import assignment, hold, needs, place, session
from toolkit.runners.kubernetes.job import OURS, carrying, looking, name
from toolkit.runners.kubernetes.needs import GPU, Needs
from toolkit.runners.kubernetes.place import Where
from toolkit.stages import IMPORTED, ROOT, STAGES

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
WHERE = Where("store", "team/a", "team", "registry.example.org/team", secret="hub")
ASKED = {"volume": None, "namespace": None, "registry": None, "secret": None, "gpu": None, "pod": None}


@pytest.fixture(scope="module")
def planned():
    return runs.steps(DEMO, ("ollama",), "modelfile")


@pytest.fixture(scope="module")
def jobs(planned):
    wanted = needs.needs(recipe_file.load(DEMO), DEMO.parent, gpu=True)
    return {step.name: session.made(session.assigned(step, planned, WHERE, ".given/1"), WHERE, wanted) for step in planned}


def spec_of(job):
    return job["spec"]["template"]["spec"]


def test_every_container_is_hardened(jobs):
    specs = [spec_of(job) for job in jobs.values()]
    specs += [looking("look", WHERE, ())["spec"], carrying("carry", WHERE)["spec"]]
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False and spec["restartPolicy"] == "Never"
        assert spec["securityContext"]["runAsUser"] == 10001 and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            held = container["securityContext"]
            assert held["readOnlyRootFilesystem"] and not held["allowPrivilegeEscalation"] and held["capabilities"] == {"drop": ["ALL"]}


def test_a_killed_pod_is_begun_again_and_an_error_of_ours_is_not(jobs):
    spec = jobs["train"]["spec"]
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert failed["action"] == "FailJob" and failed["onExitCodes"]["values"] == [1, 2, 3, 4, 5, 6] == list(OURS)
    assert spec["backoffLimit"] and spec["podReplacementPolicy"] == "Failed" and spec["completions"] == spec["parallelism"] == 1


def test_a_stage_runs_in_its_own_image_while_the_store_is_held(jobs, planned):
    step = next(step for step in planned if step.name == "train")
    begin, stage = spec_of(jobs["train"])["initContainers"]
    (end,) = spec_of(jobs["train"])["containers"]
    assert stage["image"] == f"registry.example.org/team/{Image('train').tag}"
    assert begin["image"] == end["image"] == f"registry.example.org/team/{Image('verify').tag}"
    text = Path(hold.__file__).read_text(encoding="utf-8")
    arguments = f"/store/team/a/.scratch/{step.directory}/args.json"
    assert stage["command"] == [
        "/opt/venv/bin/python", "-c", text, "/store/team/a", step.directory, "/opt/venv/bin/python", "/opt/thinkship/train.py", arguments,
    ]  # fmt: skip
    assert begin["command"][-2:] == ["open", "/store/team/a"] and end["command"][-2:] == ["seal", "/store/team/a"] and text in end["command"]
    assert "$(" not in text, "Kubernetes would take it for a variable"


def test_a_stage_of_the_host_package_runs_in_the_verify_image(jobs):
    _, stage = spec_of(jobs["modelfile"])["initContainers"]
    assert stage["image"].endswith(Image("verify").tag) and stage["command"][-2:] == ["host", "/store/team/a"]


def test_only_stages_with_network_see_it_and_the_secret(jobs):
    for title, job in jobs.items():
        _, stage = spec_of(job)["initContainers"]
        online = title in ("base", "dataset")
        settings = {entry["name"]: entry.get("value") for entry in stage["env"]}
        assert settings["HF_HUB_OFFLINE"] == ("0" if online else "1") and (stage.get("envFrom") == [{"secretRef": {"name": "hub"}}]) is online


def test_offline_no_stage_is_online(planned, monkeypatch):
    monkeypatch.setenv("THINKSHIP_OFFLINE", "1")
    told = session.assigned(planned[0], planned, WHERE, "")
    stage = spec_of(session.made(told, WHERE, {told.program: Needs()}))["initContainers"][1]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in stage["env"] and "envFrom" not in stage


def test_a_pod_is_told_of_its_step_by_itself(jobs, planned, tmp_path):
    text = jobs["gguf"]["spec"]["template"]["metadata"]["annotations"]["thinkship/told"]
    (tmp_path / "told").write_text(text)
    (told,) = assignment.read(tmp_path / "told")
    step = next(step for step in planned if step.name == "gguf")
    assert told.id == step.id and told.programs == step.stage.digest and told.made["dataset"].startswith("dataset-") and told.given == ""
    assert json.loads(jobs["dataset"]["spec"]["template"]["metadata"]["annotations"]["thinkship/told"])["given"] == ".given/1"


def test_a_name_is_one_step_of_one_store(jobs, planned):
    names = {job["metadata"]["name"] for job in jobs.values()}
    assert len(names) == len(planned) and all(len(one) <= 63 for one in names)
    told = session.assigned(planned[0], planned, WHERE, "")
    other = replace(WHERE, folder="team/b")
    assert name(told, WHERE) in names and name(told, other) not in names
    assert name(told, replace(WHERE, registry="", secret="")) == name(told, WHERE)
    long = replace(told, name="adapter-" + "Länge_" * 20)
    assert len(name(long, WHERE)) <= 63 and name(long, WHERE).replace("-", "").isalnum()


def test_more_than_an_annotation_takes_is_refused(planned):
    told = session.assigned(planned[0], planned, WHERE, "")
    with pytest.raises(InvalidError, match="a pod is told at most 256,000"):
        assignment.written(replace(told, recipe={"files": "x" * 300_000}))


def test_what_a_step_asks_for(jobs, demo):
    for title, job in jobs.items():
        resources = spec_of(job)["initContainers"][1]["resources"]
        wants = title in ("train", "merge")
        assert (resources.get("limits") == {GPU: "1"}) is wants and (GPU in json.dumps(spec_of(job).get("tolerations", ()))) is wants
        assert resources["requests"]["memory"].endswith("Mi")
    plain = needs.needs(demo, DEMO.parent, gpu=False)
    assert {need.gpus for need in plain.values()} == {0} and plain[STAGES["merge"].program].memory == 1 << 30
    trains = demo.model_copy(update={"train": demo.train.model_copy(update={"processes": 4})})
    found = needs.needs(trains, DEMO.parent, gpu=True)
    assert found[STAGES["train"].program].gpus == 4 and found[STAGES["merge"].program].gpus == 1 and found[IMPORTED.program].gpus == 0


@pytest.mark.parametrize("volume", ["hostpath:///srv", "s3://bucket", "pvc://Upper", "pvc://claim/../other", "claim"])
def test_a_volume_is_a_claim(volume):
    with pytest.raises(UsageError, match="--volume"):
        place.where(ASKED | {"volume": volume}, None)


def test_the_place_of_a_run():
    assert place.where(ASKED, False) == Where("thinkship-store") and place.where(ASKED, None).gpu
    found = place.where(ASKED | {"volume": "pvc://claim/team/a/", "gpu": False}, True)
    assert (found.claim, str(found.root), found.volume, found.gpu) == ("claim", "/store/team/a", "pvc://claim/team/a", False)
