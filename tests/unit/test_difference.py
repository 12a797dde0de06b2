"""Two reports against each other: what counts as improved, as worse, and as no evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from observations import TASK, observation
from test_cli import thinkship

from toolkit.report.difference import difference
from toolkit.verify.judge import judge
from toolkit.verify.paired import Paired, compare, mcnemar


def report(*right: int, of: int = 20, without: str = "", engines: tuple[str, ...] = ("llamacpp", "vllm", "ollama")) -> dict[str, Any]:
    seen = [observation(engine, "q", answers=("4",) * n + ("5",) * (of - n), without=without) for engine, n in zip(engines, right, strict=False)]
    return judge("demo", TASK, seen).model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    # twice the tail of throwing a fair coin, by hand: 8 and 1 are 2 * (1 + 9) / 2**9
    [(0, 0, 1.0), (1, 0, 1.0), (6, 0, 0.03125), (0, 6, 0.03125), (8, 1, 0.0390625), (10, 3, 0.0922852), (5, 5, 1.0), (12, 0, 0.000488281)],
)
def test_mcnemars_exact_test_has_its_known_values(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize(
    ("gained", "lost", "looks", "change"),
    [(6, 0, 1, "improved"), (0, 6, 1, "worse"), (5, 0, 1, "no evidence"), (6, 0, 2, "no evidence"), (0, 0, 1, "no evidence"), (7, 0, 3, "improved")],
)
def test_a_change_is_said_only_with_evidence_and_more_looks_want_more(gained, lost, looks, change):
    assert Paired(20, gained, lost).change(looks) == change


def test_only_questions_that_both_answered_and_marked_are_paired():
    replies = report(2, of=4)["observed"]["answers"]["llamacpp/q"]
    others = [dict(reply) for reply in replies[:3]]
    others[0] |= {"error": "hung", "right": False}
    others[1] |= {"right": None}
    others[2] |= {"right": True}
    assert compare(replies, others) == Paired(questions=1, gained=1, lost=0)


def test_the_same_report_twice_is_no_evidence():
    found = difference(report(19), report(19))
    assert found.change == "no evidence" and found.turns == () and found.scores[0].pair.questions == 20


def test_more_right_answers_are_an_improvement_and_fewer_are_worse():
    better = difference(report(18), report(19))
    assert better.change == "no evidence"
    assert difference(report(10), report(18)).change == "improved"
    assert difference(report(18), report(10)).change == "worse"


def test_a_gain_on_one_endpoint_does_not_pay_for_a_loss_on_another():
    found = difference(report(5, 19), report(19, 5))
    assert [score.change for score in found.scores] == ["improved", "worse"] and found.change == "worse"


def test_a_check_that_now_fails_is_worse_and_is_named():
    found = difference(report(20), report(20, without="stop"))
    assert found.change == "worse" and found.verdicts == ("pass", "fail")
    assert [(turn.name, turn.before, turn.after) for turn in found.turns] == [("stop", "pass", "fail")]
    assert difference(report(20, without="stop"), report(20)).change == "improved"


def test_endpoints_that_only_one_report_has_are_named_and_judge_nothing():
    found = difference(report(20, engines=("llamacpp",)), report(20, engines=("vllm",)))
    assert (found.only_before, found.only_after, found.scores, found.turns, found.change) == (("llamacpp/q",), ("vllm/q",), (), (), "no evidence")


@pytest.fixture
def files(tmp_path):
    for name, found in (("good", report(20)), ("bad", report(8))):
        (tmp_path / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def test_the_command_compares_two_and_ends_with_6_where_the_second_is_worse(files):
    worse = thinkship("report", "--compare", files / "good.json", files / "bad.json")
    assert worse.returncode == 6 and "B against A: worse" in worse.stdout and "0 gained, 12 lost of 20, p < 0.001" in worse.stdout
    better = thinkship("report", "--compare", files / "bad.json", files / "good.json")
    assert (better.returncode, better.stderr) == (0, "") and "B against A: improved" in better.stdout


def test_the_comparison_can_be_read_by_a_program(files):
    found = json.loads(thinkship("report", "--compare", files / "bad.json", files / "good.json", "--json").stdout)
    assert (
        found["change"] == "improved" and found["scores"][0]["pair"] == {"questions": 20, "gained": 12, "lost": 0} and found["scores"][0]["p"] < 0.001
    )


def test_the_command_shows_a_report_again_and_writes_it_anew(files):
    done = thinkship("report", files / "bad.json", "--html", files / "r.html", "--junit", files / "r.xml")
    assert done.returncode == 0 and "llamacpp/q" in done.stdout and "verdict: pass" in done.stdout
    assert (files / "r.html").is_file() and (files / "r.xml").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "one report, or two to compare, must be named"),
        (("good.json", "--compare", "good.json", "bad.json"), "one report, or two to compare, must be named"),
        (("--compare", "good.json", "bad.json", "--html", "x.html"), "are made of one report"),
        (("good.json", "--json"), "a report is JSON already"),
        (("nowhere",), "there is no report in"),
        (("good.json", "--html", "nowhere/x.html"), "its folder is not there"),
    ],
)
def test_a_wrong_use_of_the_command_is_code_2(files, arguments, words):
    done = thinkship("report", *(files / word if word.endswith(("json", "html")) and not word.startswith("--") else word for word in arguments))
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
