from __future__ import annotations

import pytest

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint
from toolkit.recipe import Task, Think
from toolkit.verify import Expectations, Reply, stop, task, think
from toolkit.verify.interval import wilson

THINK = Think()
GOOD = {
    "question": "2 + 2?",
    "expected": "4",
    "reasoning": "Two and two.",
    "text": "The answer is 4.",
    "finish": "stop",
    "where": "reasoning",
    "right": True,
}
NUMERIC = Task(metric="numeric", at_least=0.9)


def reply(**changes: object) -> Reply:
    return Reply.model_validate({**GOOD, **changes})


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, []),
        ({"reasoning": " \n"}, ["no reasoning"]),
        ({"text": ""}, ["no answer after the reasoning"]),
        ({"reasoning": "", "text": "R</think>4"}, ["no reasoning", "a tag is left in the answer"]),
        ({"reasoning": "<think>R"}, ["a tag is left in the reasoning"]),
        ({"error": "no answer within 5 s"}, ["no answer"]),
    ],
)
def test_the_think_contract_names_each_broken_rule(changes, broken):
    assert think.broken_rules(reply(**changes), THINK) == broken


def test_other_tags_can_be_expected():
    tags = Think(open="<r>", close="</r>")
    assert think.broken_rules(reply(text="4</r>"), tags) == ["a tag is left in the answer"]
    assert think.broken_rules(reply(text="4</think>"), tags) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"finish": "length", "completion_tokens": 256}, "finish_reason length after 256 tokens"),
        ({"finish": None}, "finish_reason None"),
        ({"text": "4<|im_end|>"}, "<|im_end|> in the answer"),
        ({"reasoning": "R<|im_start|>user"}, "<|im_start|> in the answer"),
        ({"error": "hangs"}, "hangs"),
    ],
)
def test_the_stop_contract_names_the_fault(changes, fault):
    assert stop.fault(reply(**changes), Expectations().markers()) == fault


def test_one_bad_answer_fails_a_contract_that_wants_all():
    replies = [reply(), reply(finish="length")]
    assert stop.check("vllm", Expectations(), replies).status == "fail"
    assert stop.check("vllm", Expectations(think_at_least=0.5), replies).status == "pass"
    assert stop.check("vllm", Expectations(), []).status == "fail"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 129.", 129),
        ("1,234 in all", 1234),
        ("from 3 to -7", -7),
        ("2.50", 2.5),
        ("none", None),
        ("", None),
        ("x-5", -5),
        ("12 + 3 = 15", 15),
    ],
)
def test_the_last_number_counts(text, number):
    assert task.number(text) == number


@pytest.mark.parametrize(
    ("metric", "text", "expected", "right"),
    [
        ("numeric", "It is 129.", "129", True),
        ("numeric", "It is 129.0", "129", True),
        ("numeric", "It is 128.", "129", False),
        ("numeric", "", "129", False),
        ("exact", " yes\n", "yes", True),
        ("exact", "Yes", "yes", False),
    ],
)
def test_answers_are_marked_by_the_metric(metric, text, expected, right):
    assert task.is_right(Task(metric=metric, at_least=1), text, expected) is right


def test_the_task_check_holds_the_share_against_the_recipe():
    replies = [reply()] * 9 + [reply(right=False, text="5")]
    passed = task.check("vllm", Expectations(task=NUMERIC), replies)
    failed = task.check("vllm", Expectations(task=Task(metric="numeric", at_least=0.95)), replies)
    assert (passed.status, failed.status) == ("pass", "fail")
    assert failed.evidence["wrong"] == ["2 + 2? → 5 (expected 4)"] and failed.remedy


def test_a_task_without_questions_is_skipped_and_not_required():
    found = task.check("vllm", Expectations(), [reply(expected=None, right=None)])
    assert (found.status, found.required) == ("skip", False) and found.message


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # R 4.4: prop.test(x, n, correct = FALSE)$conf.int
    [(50, 50, 0.9287, 1.0), (3, 50, 0.0206, 0.1622), (0, 50, 0.0, 0.0713), (5, 10, 0.2366, 0.7634)],
)
def test_wilsons_interval_has_its_known_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_no_trials_leave_everything_possible():
    assert wilson(0, 0) == (0.0, 1.0)


def test_markers_of_the_checkpoint_count_too():
    expectations = Expectations(template=ChatTemplate("", {"eos_token": "<eos>", "unk_token": "?"}))
    assert "<eos>" in expectations.markers() and "?" not in expectations.markers()


def test_an_endpoint_hides_its_key():
    assert "secret" not in repr(Endpoint("vllm", "http://127.0.0.1/v1", "m", "secret"))
