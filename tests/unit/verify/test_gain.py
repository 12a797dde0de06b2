"""Before and after: the verdict comes with its test and its intervals, and never from questions that one side did not answer."""

from __future__ import annotations

import pytest
from observations import TASK, observation

from toolkit.verify import Reply, gain
from toolkit.verify.judge import judge

RIGHT, WRONG = "4", "5"


def replies(marks: str) -> list[Reply]:
    """Return a reply a letter: r is right, w wrong, e an error, - a question without an expected answer."""
    made = {"r": {"right": True}, "w": {"right": False}, "e": {"right": False, "error": "hung"}, "-": {"right": None}}
    return [Reply(question=f"q{number}", **made[mark]) for number, mark in enumerate(marks)]


@pytest.mark.parametrize(
    ("before", "after", "status", "words"),
    [
        ("w" * 6, "r" * 6, "pass", "improved: of 6 questions"),
        ("w" * 5, "r" * 5, "skip", "no evidence: of 5 questions"),
        ("r" * 20, "r" * 20, "skip", "no evidence: of 20 questions"),
        ("r" * 9, "w" * 8 + "r", "fail", "worse: of 9 questions"),
        ("rwrw", "wrrw", "skip", "1 gained, 1 lost (McNemar's exact p 1)"),
    ],
)
def test_the_verdict_has_its_numbers_and_a_remedy(before, after, status, words):
    found = gain.check("vllm", "bf16", replies(before), replies(after))
    assert found is not None and (found.status, found.required) == (status, status != "skip") and words in found.message
    assert bool(found.remedy) == (status != "pass")


def test_both_shares_have_an_interval():
    found = gain.check("vllm", "bf16", replies("w" * 20), replies("r" * 19 + "w"))
    assert found is not None
    assert "19 (95 % interval 76% to 99%) right after and 0 (95 % interval 0% to 16%) before; 19 gained, 0 lost" in found.message
    assert found.evidence["p"] == 2 / 2**19 and found.evidence["after"] == {"right": 19, "interval": [0.7639, 0.9911]}


def test_only_questions_that_both_sides_answered_count():
    assert gain.paired(replies("wwe-r"), replies("rerrw-r")) == [(False, True), (True, False)]
    assert gain.check("vllm", "", replies("wwww"), replies("eeee")) is None
    assert gain.check("vllm", "", (), replies("rrrr")) is None


def test_each_tuned_endpoint_is_held_against_the_base_of_its_own_engine():
    seen = [
        observation("vllm", "bf16", answers=(RIGHT,) * 8),
        observation("llamacpp", "q8_0", answers=(RIGHT,) * 8),
        observation("llamacpp", "q4_k_m", answers=(WRONG,) * 8),
        observation("llamacpp", "f16", base=True, answers=(WRONG,) * 8),
    ]
    report = judge("demo", TASK, seen)
    gains = [(check.engine, check.variant, check.status) for check in report.checks if check.name == "gain"]
    assert gains == [("llamacpp", "q8_0", "pass"), ("llamacpp", "q4_k_m", "skip")] and report.verdict == "pass"


def test_a_fine_tune_that_made_it_worse_fails_the_verdict():
    base = observation(base=True, answers=(RIGHT,) * 8)
    wanted = TASK.model_copy(update={"task": TASK.task.model_copy(update={"base_at_most": None})})
    report = judge("demo", wanted, [observation(answers=(WRONG,) * 8), base])
    assert report.verdict == "fail" and [check.name for check in report.checks if check.status == "fail"] == ["gain"]
