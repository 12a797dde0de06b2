from __future__ import annotations

import pytest

from toolkit.assessment import Task
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint
from toolkit.recipe import Think
from toolkit.verify import Expectations, Probe, Question, Reply, stop, task, think
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
        ({"text": "", "finish": "length"}, ["cut off by the budget of tokens while it was thinking"]),
        ({"reasoning": "Two and two make four.", "text": "Two and two make four. It is 4."}, ["the reasoning stands in the answer as well"]),
        ({"reasoning": "<think>\nR\n</think>\n<think>R"}, ["a tag is left in the reasoning"]),
    ],
)
def test_the_think_contract_names_each_broken_rule(changes, broken):
    assert think.broken_rules(reply(**changes), THINK) == broken


@pytest.mark.parametrize(
    ("where", "fields", "broken"),
    [
        ("reasoning", ("reasoning",), []),
        ("inline", ("reasoning",), ["the reasoning is left in the content, between tags"]),
        ("reasoning_content", ("reasoning",), ["the reasoning is in reasoning_content"]),
        ("inline", (), []),
        (None, ("reasoning",), []),
    ],
)
def test_an_engine_is_held_to_its_own_fields(where, fields, broken):
    assert think.broken_rules(reply(where=where), THINK, fields) == broken


def test_an_unknown_server_may_leave_the_reasoning_in_the_content_and_is_said_to():
    assert think.own_fields("openai") == () and think.own_fields("llamacpp") == ("reasoning_content",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"where": "inline"}, "switch llamacpp's reasoning parser on, the right one: --reasoning-format deepseek; clients look in reasoning_content"),
        ({"where": "reasoning_content", "text": "", "finish": "length"}, "give the answers more tokens (verify.task.max_tokens)"),
        ({"where": "reasoning_content", "reasoning": ""}, think.REMEDY),
    ],
)
def test_the_remedy_is_that_of_the_likeliest_cause(changes, words):
    replies = [reply(error="x", question="?"), reply(**changes)]
    strange = [changes["where"]] if changes["where"] == "inline" else []
    assert words in think._remedy("llamacpp", strange, replies)


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


WHOLE = Question("2 + 2?", "4", "Two and two.\n</think>\n\nThe answer is 4.<|im_end|>")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"text": "The answer"}, "cut before 'is4.'"),
        ({"reasoning": "Two and", "text": ""}, "cut before 'two.Theansweris4.'"),
        ({"text": "It is 4."}, ""),
        ({"text": "The answer is 4. Indeed."}, ""),
    ],
)
def test_an_answer_that_is_but_the_beginning_of_the_known_one_is_cut(changes, words):
    found = stop.check("vllm", Expectations(questions=(WHOLE,)), [reply(**changes)])
    assert [line.partition(" → ")[2] for line in found.evidence["faults"]] == ([words] if words else [])
    assert found.status == ("fail" if words else "pass") and (not words or ("1 stop too early" in found.message and found.remedy == stop.CUT))


def test_the_merged_models_own_words_tell_a_cut_answer_too():
    probe = Probe("2 + 2?", (("Two and two", 0.0), (".\n", 0.0), ("</think>", 0.0), ("The answer is", 0.0)), ())
    assert stop.check("vllm", Expectations(probes=(probe,)), [reply(text="The")]).status == "fail"
    assert stop.check("vllm", Expectations(probes=(probe,)), [reply()]).status == "pass"


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
