"""A Job is followed through lost lines and killed pods to its end, and each of its ends is the right error."""

from __future__ import annotations

import pytest
from scripted_kubectl import LOST, MISSING, RUNNING, Scripted, job, log, pod, pods, refuses, says

from toolkit import runs
from toolkit.errors import BrokenError, FailedError, InvalidError, NotReadyError
from toolkit.kubectl import Kubectl, UnreachableError
from toolkit.runners.kubernetes import patience
from toolkit.runners.kubernetes.following import Following
from toolkit.stages import ROOT

NOTE = {"event": "note", "text": "16 rows"}
ERROR = {"event": "error", "message": "no such column", "remedy": "name it"}
DONE = pod(phase="Succeeded", open=0, stage=0, seal=0)
COMPLETE = job(("Complete", ""))


@pytest.fixture(scope="module")
def step():
    return runs.steps(ROOT / "recipes" / "smollm2-demo.yml", (), "train")[-1]


@pytest.fixture
def follow(kubectl: Scripted, step, tmp_path):
    """Follow a Job whose cluster answers by a script; what is left of the log is returned."""

    def go(**script):
        kubectl.answers(**script)
        Following(Kubectl("team"), "thinkship-train-1", step, tmp_path / "train.log").run()
        return (tmp_path / "train.log").read_text()

    return go


def test_notes_are_told_and_the_rest_is_logged(follow, kubectl, capsys):
    assert follow(get_job=[COMPLETE], get_pods=[pods(DONE)], logs_open=[log()], logs_stage=[log(NOTE, "loading", "done")], logs_seal=[log()]) == (
        "loading\ndone\n"
    )
    assert "16 rows" in capsys.readouterr().out
    assert kubectl.was_asked("get pods", "batch.kubernetes.io/job-name=thinkship-train-1", "--namespace team")


def test_a_lost_line_is_taken_up_where_it_broke_off(follow, kubectl, capsys):
    broken = log("one", "two")
    rest = log("one", "two", "three")  # --since-time counts whole seconds: what came before comes again
    text = follow(
        get_job=[job(), LOST, LOST, job(), COMPLETE],
        get_pods=[pods(pod(open=0, stage=RUNNING)), LOST, pods(pod(open=0, stage=RUNNING)), pods(DONE)],
        logs_open=[log()],
        logs_stage=[(broken[0], "error: unexpected EOF\n", 1), rest],
        logs_seal=[log()],
    )
    assert text == "one\ntwo\nthree\n"
    assert kubectl.was_asked("logs p-1", "stage", "--since-time 2026-01-01T00:00:01.000000001Z")
    told = capsys.readouterr().out
    assert "the cluster cannot be reached: Unable to connect" in told and "the cluster is reached again" in told


def test_a_killed_pods_successor_is_followed(follow, capsys):
    first = pod(phase="Failed", open=0, stage=137)
    second = pod("p-2", "2026-01-01T00:01:00Z", phase="Succeeded", open=0, stage=0, seal=0)
    text = follow(
        get_job=[job(), job(), job(), job(), COMPLETE],
        get_pods=[pods(first), pods(first), pods(first), pods(first, second)],
        **{"logs_p-1_open": [log()], "logs_p-1_stage": [log("step 20")], "logs_p-2": [log("step 21")]},
    )
    assert text.startswith("step 20\nstep 21\n")
    assert "the pod was killed (stage ended with exit code 137): the step is begun again" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "kind"), [(3, InvalidError), (4, NotReadyError), (6, BrokenError), (1, FailedError)])
def test_an_error_of_ours_is_the_same_error_here(follow, code, kind):
    failed = [job(("Failed", "Container stage failed with exit code matching FailJob rule"))]
    with pytest.raises(kind, match="train: no such column") as error:
        follow(get_job=failed, get_pods=[pods(pod(phase="Failed", open=0, stage=code))], logs=[log(ERROR)])
    assert error.value.remedy == "name it"


def test_an_error_whose_log_is_gone_stands_in_the_pods_status(follow):
    words = 'Traceback\n{"event": "error", "message": "no such column", "remedy": "name it"}\n'
    ended = {"terminated": {"exitCode": 3, "message": words}}
    with pytest.raises(InvalidError, match="train: no such column"):
        follow(get_job=[job(("Failed", ""))], get_pods=[pods(pod(phase="Failed", open=0, stage=ended))], logs=[MISSING])


def test_a_pod_that_is_killed_too_often_fails(follow):
    with pytest.raises(FailedError, match=r"exit code 137.*\(in stage; Job has reached the specified backoff limit\)"):
        limit = job(("Failed", "Job has reached the specified backoff limit"))
        follow(get_job=[limit], get_pods=[pods(pod(phase="Failed", open=0, stage=137))], logs=[log()])


def test_want_of_memory_is_no_reason_to_begin_again(follow):
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    with pytest.raises(FailedError, match="train: stage was killed for memory") as error:
        follow(get_job=[job()], get_pods=[pods(pod(phase="Failed", open=0, stage=killed))], logs=[log()])
    assert "LimitRange" in error.value.remedy


def test_a_job_without_its_pods_tells_kubernetes_words(follow):
    with pytest.raises(FailedError, match="the Job failed: DeadlineExceeded"):
        follow(get_job=[job(("Failed", "DeadlineExceeded"))], get_pods=[pods()])


def test_a_job_that_somebody_took_away_is_an_error(follow):
    with pytest.raises(FailedError, match="was taken away"):
        follow(get_job=[job(), MISSING], get_pods=[pods()], get_events=[says({"items": []})])


PENDING = pod(phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3: no room"}])


def test_a_pod_that_no_node_takes_is_waited_for(follow, capsys):
    follow(get_job=[job(), job(), COMPLETE], get_pods=[pods(PENDING), pods(PENDING), pods(DONE)], logs=[log()])
    assert capsys.readouterr().out.count("waiting: no node takes the pod: 0/3: no room; a node with more room") == 1


def test_it_is_not_waited_for_without_end(follow, monkeypatch):
    monkeypatch.setattr(patience, "SECONDS", 0.0)
    with pytest.raises(NotReadyError, match="train: no node takes the pod"):
        follow(get_job=[job()], get_pods=[pods(PENDING)])
    with pytest.raises(UnreachableError, match="the Job thinkship-train-1 goes on there") as error:
        follow(get_job=[LOST])
    assert "the same command again follows it" in error.value.remedy


def test_an_image_that_does_not_come_ends_it_at_once(follow):
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    with pytest.raises(NotReadyError, match="the image thinkship/stage:1 cannot be pulled: not found") as error:
        follow(get_job=[job()], get_pods=[pods(pod(phase="Pending", open=0, stage=waiting))], logs=[log()])
    assert "--registry" in error.value.remedy


def test_a_quota_that_allows_no_pod_is_told(follow, capsys):
    event = {"reason": "FailedCreate", "message": 'pods "x" is forbidden: exceeded quota: team'}
    follow(get_job=[job(), COMPLETE], get_pods=[pods(), pods(DONE)], get_events=[says({"items": [event]})], logs=[log()])
    assert "the cluster makes no pod" in capsys.readouterr().out


def test_a_refusal_is_no_lost_line(follow):
    with pytest.raises(NotReadyError, match="the cluster refuses to get pods") as error:
        follow(get_job=[job()], get_pods=[refuses("Error from server (Forbidden): pods is forbidden")])
    assert "role `edit`" in error.value.remedy
