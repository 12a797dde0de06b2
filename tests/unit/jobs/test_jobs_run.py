"""`thinkship run --runner kubernetes`: what it refuses before it changes anything, what it skips, and whom it follows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from scripted_kubectl import LOST, MISSING, RUNNING, THERE, Scripted, job, log, pod, pods, refuses, says

from toolkit import runs
from toolkit.cli import cli
from toolkit.errors import BrokenError, FailedError, InvalidError, NotReadyError, UsageError
from toolkit.kubectl import UnreachableError
from toolkit.runners.kubernetes import desk, patience
from toolkit.runs import How
from toolkit.stages import ROOT

DEMO = ROOT / "recipes" / "smollm2-demo.yml"
ASKED = {"volume": None, "namespace": "team", "registry": None, "secret": None, "gpu": None, "pod": None}
VERSION = says({"serverVersion": {"major": "1", "minor": "34", "gitVersion": "v1.34.4"}})
CLAIM = {"status": {"phase": "Bound"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
DONE = pod(phase="Succeeded", open=0, stage=0, seal=0)
FINE = says("")


@pytest.fixture(scope="module")
def planned():
    return runs.steps(DEMO, (), "dataset")


@pytest.fixture
def run(kubectl: Scripted, planned, tmp_path: Path):
    """run(states, …) runs the plan up to the data set; `states` are what the volume holds."""

    def go(states: dict[str, str], there: bool = True, last: str = "dataset", asked: Any = (), **script: Any) -> None:
        events = [{"event": "step", "step": name, "state": state, "again": False} for name, state in states.items()]
        (given,) = {path for path in [belonging()] if path}
        events.append({"event": "given", "folder": given, "there": there})
        usual = {
            "version": [VERSION],
            "auth": [FINE],
            "get_namespace": [FINE],
            "get_persistentvolumeclaim": [says(CLAIM)],
            "get_nodes": [says({"items": []})],
            "create_pod": [FINE],
            "delete_pod": [FINE],
            "get_pod": [says(pod(phase="Succeeded", open=0))],
            "logs_open": [says("".join(json.dumps(event) + "\n" for event in events))],
            "create_job": [FINE],
            "get_job": [job(("Complete", ""))],
            "get_pods": [pods(DONE)],
            "logs": [log()],
            "delete_job": [FINE],
        }
        kubectl.answers(**(script | {name: answers for name, answers in usual.items() if name not in script}))
        runs.start(DEMO, (), last, tmp_path / "store", How("kubernetes", cluster=ASKED | dict(asked)))

    return go


def belonging() -> str:
    from toolkit import recipe_file
    from toolkit.runners.kubernetes import belongings

    recipe = recipe_file.load(DEMO)
    return belongings.name(DEMO.parent, belongings.local(recipe))


BOTH = {"base": "make", "dataset": "make"}


def test_each_step_is_a_job_and_what_is_sealed_is_skipped(run, kubectl, capsys, planned):
    run({"base": "sealed", "dataset": "make"})
    (made,) = kubectl.was_asked("create", "batch/v1")
    assert f"thinkship-dataset-{planned[1].id[:12]}" in made and "--namespace team" in made
    told = capsys.readouterr().out
    assert "skip  base" in told and "run  dataset" in told and "the store is pvc://thinkship-store in team" in told
    order = [line.split()[3] for line in kubectl.asked if " create --filename" in line or "delete pod " in line]
    assert order == ["create", "delete", "create"], "the pod that looks is gone before a Job starts"
    assert not kubectl.was_asked("delete job ")


def test_where_all_is_sealed_nothing_is_started(run, kubectl, capsys):
    run({"base": "sealed", "dataset": "freed"}, there=False)
    assert "nothing to do: every step is sealed" in capsys.readouterr().out and not kubectl.was_asked("create", "batch/v1")


def test_the_recipes_own_files_are_brought_once(run, kubectl):
    run(BOTH, there=False, get_pod=[says(pod(phase="Succeeded", open=0)), says(pod(phase="Running", open=RUNNING))], exec=[FINE], cp=[FINE])
    first, second = kubectl.was_asked(" cp ")
    assert "data/sums-holdout.jsonl" in first and re.search(rf"/store/{belonging()}\.\w+\.part/data/sums-train\.jsonl", second)
    begun, kept = kubectl.was_asked(" exec ")
    assert " begin /store" in begun and " keep /store" in kept
    assert kubectl.asked.index(kept) < kubectl.asked.index(kubectl.was_asked("create", "batch/v1")[0])


def test_files_that_did_not_come_whole_are_an_error(run, kubectl):
    event = json.dumps({"event": "error", "message": "other bytes came than were sent", "remedy": "again"})
    states = [says(pod(phase="Succeeded", open=0)), says(pod(phase="Running", open=RUNNING))]
    with pytest.raises(BrokenError, match="other bytes came") as error:
        run(BOTH, there=False, get_pod=states, exec=[FINE, (event + "\n", "command terminated with exit code 6\n", 6)], cp=[FINE])
    assert error.value.remedy == "again" and not kubectl.was_asked("create", "batch/v1")


def test_a_job_at_work_is_followed(run, kubectl, capsys):
    run({"base": "sealed", "dataset": "make"}, create_job=[THERE], get_job=[job(), job(), job(("Complete", ""))])
    assert "it is followed" in capsys.readouterr().out and not kubectl.was_asked("delete job ")


def test_a_job_that_ended_while_we_looked_is_somebody_elses_and_kept(run, kubectl):
    run({"base": "sealed", "dataset": "make"}, create_job=[THERE], get_job=[job(("Complete", ""), at="2026-01-01T00:00:00Z")])
    assert not kubectl.was_asked("delete job ") and len(kubectl.was_asked("create", "batch/v1")) == 1


def test_a_job_that_ended_unwatched_is_begun_anew(run, kubectl):
    run({"base": "sealed", "dataset": "make"}, create_job=[THERE, FINE], get_job=[job(("Failed", "x")), job(("Complete", ""))])
    (gone,) = kubectl.was_asked("delete job ")
    assert "--cascade=foreground --wait=true" in gone and len(kubectl.was_asked("create", "batch/v1")) == 2


def test_an_interrupt_ends_the_job_and_a_lost_line_does_not(run, kubectl, monkeypatch, capsys):
    kubectl.interrupt = "logs"
    with pytest.raises(KeyboardInterrupt):  # while the pod that looks is read: nothing was changed
        run(BOTH)
    assert kubectl.was_asked("delete pod") and not kubectl.was_asked("create", "batch/v1")
    kubectl.asked.clear()
    kubectl.interrupt = "--follow"
    with pytest.raises(KeyboardInterrupt):
        run(BOTH, get_job=[job()])
    assert len(kubectl.was_asked("delete job ")) == 1 and "was taken away" in capsys.readouterr().out
    kubectl.asked.clear()
    monkeypatch.setattr(patience, "SECONDS", 0.0)
    with pytest.raises(UnreachableError, match="goes on there"):
        run(BOTH, get_job=[LOST, LOST, job()])
    assert not kubectl.was_asked("delete job ")


def test_a_job_that_cannot_be_taken_away_is_named(run, kubectl, capsys):
    kubectl.interrupt = "--follow"
    with pytest.raises(KeyboardInterrupt):
        run(BOTH, get_job=[job()], delete_job=[LOST])
    assert "may go on" in (told := capsys.readouterr().out) and "kubectl --namespace team delete job thinkship-base-" in told


def test_a_job_that_failed_stays_to_be_looked_at(run, kubectl):
    event = {"event": "error", "message": "no rows", "remedy": "more"}
    with pytest.raises(InvalidError, match="base: no rows"):
        run(BOTH, get_job=[job(("Failed", "x"))], get_pods=[pods(pod(phase="Failed", open=0, stage=3))], logs_stage=[log(event)])
    assert not kubectl.was_asked("delete job ") and len(kubectl.was_asked("create", "batch/v1")) == 1


MISSING_GPU = {"items": [{"status": {"allocatable": {"nvidia.com/gpu": "0"}}}]}
READ_ONLY = {"status": {}, "spec": {"accessModes": ["ReadOnlyMany"]}}


@pytest.mark.parametrize(
    ("script", "asked", "words", "remedy"),
    [
        ({"version": [LOST]}, {}, "the cluster cannot be reached", "KUBECONFIG"),
        ({"version": [says(VERSION[0].replace('"34"', '"28"'))]}, {}, "the cluster runs Kubernetes", "1.29 or newer"),
        ({"get_namespace": [refuses("Error from server (NotFound): namespaces")]}, {}, "there is no namespace team", "kubectl create namespace"),
        (
            {"auth_jobs.batch": [refuses("")]},
            {},
            "you may not create jobs.batch, get jobs.batch, list jobs.batch, watch jobs.batch, delete jobs.batch in",
            "role `edit`",
        ),
        ({"get_persistentvolumeclaim": [MISSING]}, {}, "there is no PersistentVolumeClaim thinkship-store in team", "--volume"),
        ({"get_persistentvolumeclaim": [says({"status": {"phase": "Lost"}})]}, {}, "has lost its volume", "describe pvc"),
        ({"get_persistentvolumeclaim": [says(READ_ONLY)]}, {}, "cannot be written", "ReadWriteMany"),
        ({"get_secret": [MISSING]}, {"secret": "hub"}, "there is no Secret hub in team", "kubectl create secret"),
        ({"get_nodes": [says(MISSING_GPU)]}, {"gpu": True}, "1 GPUs are needed on one node, and none offers more than 0", "--no-gpu"),
    ],
)
def test_what_keeps_us_from_it_is_said_before_anything_is_made(run, kubectl, script, asked, words, remedy):
    with pytest.raises(NotReadyError, match=words) as error:
        run(BOTH, last="train", asked=asked, **script)
    assert remedy in error.value.remedy and not kubectl.was_asked(" create --filename")


def test_who_may_not_list_nodes_or_see_secrets_may_run(run):
    forbidden = [refuses("Error from server (Forbidden): nodes is forbidden")]
    states = {**BOTH, "train": "make"}
    run(states, last="train", asked={"gpu": True, "secret": "hub"}, get_nodes=forbidden, get_secret=forbidden)


def test_a_pod_that_cannot_look_is_one_error_and_goes(run, kubectl, monkeypatch):
    waiting = pod(phase="Pending", open={"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}})
    with pytest.raises(NotReadyError, match="cannot be pulled: no such host"):
        run(BOTH, get_pod=[says(waiting)])
    assert kubectl.was_asked("delete pod") and not kubectl.was_asked("create", "batch/v1")
    monkeypatch.setattr(desk, "PATIENCE", 0.0)
    with pytest.raises(NotReadyError, match="does not start within"):
        run(BOTH, get_pod=[says(pod(phase="Pending"))])


def test_a_damaged_store_stops_it(run, kubectl):
    event = json.dumps({"event": "error", "message": "base is not what was sealed", "remedy": "rm"})
    with pytest.raises(BrokenError, match="not what was sealed"):
        run(BOTH, get_pod=[says(pod(phase="Failed", open=6))], logs_open=[says(event + "\n")])


def test_half_an_answer_is_none(run, kubectl):
    with pytest.raises(FailedError, match="did not come whole"):
        run({"base": "sealed"})
    assert not kubectl.was_asked("create", "batch/v1")


def test_an_interrupt_while_the_job_is_made_ends_it_too(run, kubectl):
    kubectl.interrupt = "job"
    with pytest.raises(KeyboardInterrupt):
        run(BOTH, get_job=[job()])
    assert kubectl.was_asked("create", "batch/v1") and kubectl.was_asked("delete job ")


def test_what_no_job_can_do_is_said_first(run, kubectl, tmp_path):
    with pytest.raises(InvalidError, match=r"serve-llamacpp-q8_0.*verify: no Job serves") as error:
        runs.start(DEMO, (), None, tmp_path, How("kubernetes", cluster=ASKED))
    assert "--until modelfile" in error.value.remedy
    with pytest.raises(UsageError, match="--reclaim"):
        runs.start(DEMO, (), "dataset", tmp_path, How("kubernetes", reclaim=True, cluster=ASKED))
    with pytest.raises(UsageError, match="--namespace are for a cluster"):
        runs.start(DEMO, (), "dataset", tmp_path, How("docker", dry=True, cluster=ASKED))
    assert not kubectl.asked


def test_a_dry_run_prints_the_jobs_and_asks_nobody(kubectl):
    done = CliRunner().invoke(cli, ["run", str(DEMO), "--runner", "kubernetes", "--until", "dataset", "--dry-run", "--volume", "pvc://models/x"])
    jobs = list(yaml.safe_load_all(done.output))
    assert [one["kind"] for one in jobs] == ["Job", "Job"] and not kubectl.asked
    assert jobs[0]["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models"}
