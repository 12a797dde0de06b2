# ruff: noqa: F401, F811 - pytest finds the imported fixture `serve` by its name
"""Any endpoint scored on a file of held-out questions, without a recipe."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO
from judge_server import JudgeServer
from loopback import Serve, serve
from model_server import ModelServer
from terminal import thinkship

from toolkit import questions
from toolkit.errors import InvalidError
from toolkit.report import document

ROWS = [{"Question": "2 + 2?", "Expected": 4}, {"Question": "Capital of France?", "Expected": "7"}]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "held-out.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return path


def verified(url: str, tmp_path, *options: object):
    done = thinkship("verify", "--url", url, "--model", "m", "--json", tmp_path / "r.json", "--store", tmp_path / "store", *options)
    found = json.loads((tmp_path / "r.json").read_text()) if (tmp_path / "r.json").exists() else {"checks": []}
    return done, {check["name"]: check for check in found["checks"]}


def test_a_strange_endpoint_is_scored_with_an_interval_and_without_a_threshold(serve: Serve, tmp_path, file):
    done, checks = verified(serve(ModelServer()), tmp_path, "--questions", file)
    assert done.returncode == 0, done.stdout
    assert (
        checks["task"]["status"] == "pass" and "1 of 2 held-out answers right (95 % interval 9% to 91%); no least share" in checks["task"]["message"]
    )
    skipped = {name: check["message"] for name, check in checks.items() if check["status"] == "skip"}
    assert {"gain", "identity", "benchmarks"} <= set(skipped) and all(skipped.values())
    assert "--against" in skipped["gain"]


def test_a_threshold_that_is_missed_fails_the_verdict(serve: Serve, tmp_path, file):
    done, checks = verified(serve(ModelServer()), tmp_path, "--questions", file, "--at-least", "0.9")
    assert done.returncode == 6 and checks["task"]["status"] == "fail"


def test_only_as_many_are_asked_as_are_wanted(serve: Serve, tmp_path, file):
    _, checks = verified(serve(ModelServer()), tmp_path, "--questions", file, "--limit", "1")
    assert checks["task"]["evidence"]["asked"] == 1


@pytest.mark.parametrize(("marks", "status", "words"), [("wwwwww", "pass", "improved"), ("w", "skip", "no evidence"), ("rrrrrr", "fail", "worse")])
def test_an_earlier_report_makes_the_score_a_before_and_after(serve: Serve, tmp_path, marks, status, words):
    names = [f"{place} and {place}?" for place in range(len(marks))]
    for mark, name in (("r", "now"), ("w", "then")):
        rows = [{"question": question, "expected": "I do not know." if (marks[0] == "w") == (mark == "r") else "4"} for question in names]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    url = serve(ModelServer())
    verified(url, tmp_path, "--questions", tmp_path / "then.jsonl", "--metric", "exact")
    (tmp_path / "r.json").rename(tmp_path / "then.json")
    done, checks = verified(url, tmp_path, "--questions", tmp_path / "now.jsonl", "--metric", "exact", "--against", tmp_path / "then.json")
    assert checks["gain"]["status"] == status and checks["gain"]["message"].startswith(f"{words}: of {len(marks)} questions asked in both reports")
    assert document.load(tmp_path / "r.json") and (done.returncode == 6) is (status == "fail")


def test_a_judge_can_mark_a_strange_endpoint(serve: Serve, tmp_path, file):
    judge = ("--metric", "judge", "--judge-url", serve(JudgeServer()), "--judge-model", "j")
    _, checks = verified(serve(ModelServer()), tmp_path, "--questions", file, *judge)
    assert checks["judge"]["message"] == "j marked 4 of 4 controls rightly" and checks["task"]["evidence"]["right"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--at-least", "0.5"), "--at-least without questions to mark"),
        (("--metric", "exact"), "--metric without questions to mark"),
        (("--max-tokens", "9"), "--max-tokens without questions to mark"),
        (("--questions", "FILE", "--metric", "judge"), "belong together"),
        (("--questions", "FILE", "--judge-model", "j"), "belong together"),
        (("--questions", "FILE", "--metric", "judge", "--judge-url", "j", "--judge-model", "j"), "is no address of a judge"),
        (("--questions", "nowhere.jsonl"), "the questions cannot be read"),
        (("--questions", "FILE", "--against", "nowhere.json"), "nowhere.json"),
    ],
)
def test_what_does_not_belong_together_is_code_2_before_anything_is_asked(tmp_path, file, options, words):
    done, _ = verified("http://127.0.0.1:9/v1", tmp_path, *(file if option == "FILE" else option for option in options))
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_a_recipe_says_itself_what_is_asked(file):
    done = thinkship("verify", DEMO, "--questions", file, "--at-least", "0")
    assert done.returncode == 2 and "a recipe and --questions, --at-least were both given" in done.stderr


@pytest.mark.parametrize(
    ("text", "metric", "words"),
    [
        ("", "numeric", "no questions"),
        ("{", "numeric", ":1: no JSON"),
        ("[1]", "numeric", ":1: a row is an object, not list"),
        ('{"prompt": "a"}', "numeric", "no text under `question` (columns: prompt)"),
        ('{"question": " "}', "numeric", "no text under `question`"),
        ('{"question": "a"}', "exact", "no `expected` answer"),
        ('{"question": "a", "expected": "four"}', "numeric", "--metric numeric finds nothing to compare in the expected answer 'four'"),
        ('{"question": "a", "expected": "none"}', "choice", "--metric choice finds nothing"),
        ('{"question": "a", "expected": "1"}\n{"question": "a", "expected": "2"}', "numeric", ":2: the question stands in line 1 already"),
    ],
)
def test_a_row_that_could_never_be_right_is_named_with_its_line(tmp_path, text, metric, words):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(InvalidError) as caught:
        questions.read(tmp_path / "q.jsonl", metric)
    assert words in caught.value.message
