from __future__ import annotations

import json
from pathlib import Path

import pytest
from observations import TASK, observation

from toolkit.verify import Finding
from toolkit.verify.agreement import compare
from toolkit.verify.judge import REQUIRED, Observation, judge, verdict


def test_all_required_checks_passed_is_a_pass():
    report = judge("demo", TASK, [observation(), observation(base=True, answers=("1",) * 9 + ("4",))])
    assert report.verdict == "pass"
    assert report.observed["endpoints"][0]["tokens_per_second"] == 10.0
    assert report.engines["llamacpp"] == {"version": "1", "served": ["llamacpp/f16", "llamacpp/f16/base"], "verdict": "pass"}
    assert [check.name for check in report.checks] == [*REQUIRED, "task", "gain", "base"]


@pytest.mark.parametrize("name", [*REQUIRED, "task"])
def test_a_check_that_was_not_made_fails(name):
    report = judge("demo", TASK, [observation(without=name)])
    assert report.verdict == "fail"
    assert [check.name for check in report.checks if check.status == "fail"] == [name]


def test_a_required_check_that_was_skipped_is_no_pass():
    skipped = Finding(name="prompt", engine="x", status="skip", message="no checkpoint")
    passed = Finding(name="think", engine="x", status="pass", message="seen")
    assert verdict([passed, skipped]) == "fail"
    assert verdict([passed, skipped.model_copy(update={"required": False})]) == "pass"
    assert verdict([]) == "fail"


def test_a_base_model_that_is_too_good_fails():
    report = judge("demo", TASK, [observation(), observation(base=True, answers=("4", "4"))])
    assert report.verdict == "fail" and report.checks[-1].name == "base" and report.checks[-1].remedy


def test_engines_that_answer_differently_are_named_with_the_rate():
    one, other = observation("vllm", "bf16", answers=("4", "5", "4", "4")), observation("llamacpp", "q4_k_m", answers=("4", "6", "4", "4"))
    report = judge("demo", TASK, [one, other])
    assert report.observed["notes"] == ["vllm/bf16 and llamacpp/q4_k_m answer 1 of 4 questions differently (25%)"]
    assert report.observed["agreement"][0]["examples"] == [["q1", "5", "6"]]


def test_only_questions_that_both_answered_are_compared():
    replies = observation(answers=("4", "5")).replies
    others = (replies[0].model_copy(update={"text": " 4\n"}), replies[1].model_copy(update={"error": "hung"}))
    assert compare("a", "b", replies, others).model_dump(include={"questions", "different"}) == {"questions": 1, "different": 0.0}


def test_a_report_is_written_as_the_design_says(tmp_path: Path):
    judge("demo", TASK, [observation()], {"dataset": {"kept": 9}}).write(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["schema"] == 1 and written["verdict"] == "pass"
    assert set(written["checks"][0]) >= {"name", "engine", "status", "message", "remedy", "evidence"}
    assert written["observed"]["dataset"] == {"kept": 9}


def test_an_observation_is_read_as_it_was_written(tmp_path: Path):
    seen = observation()
    (tmp_path / "endpoint.json").write_text(seen.endpoint.model_dump_json())
    (tmp_path / "findings.json").write_text(json.dumps([finding.model_dump() for finding in seen.findings]))
    (tmp_path / "answers.jsonl").write_text("".join(reply.model_dump_json() + "\n" for reply in seen.replies))
    assert Observation.read(tmp_path) == seen
