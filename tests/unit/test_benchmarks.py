"""What a benchmark's figures come to, and which steps they belong to; the harness itself is run by tests/programs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from observations import TASK, observation
from pydantic import ValidationError

from toolkit import benchmarks
from toolkit.assessment import Benchmark
from toolkit.errors import InvalidError
from toolkit.plan import plan
from toolkit.recipe import Recipe
from toolkit.resolve import resolve
from toolkit.verify.judge import judge

RESULTS: dict[str, Any] = {"metric": "exact_match,none", "value": 0.75, "questions": 40, "right": 30, "counts": {"cut": 0}, "figures": {}}


@pytest.mark.parametrize(
    ("at_least", "status", "required", "words"),
    [(0.7, "pass", True, "at least 70% wanted"), (0.8, "fail", True, "at least 80% wanted"), (None, "pass", False, "no least value was asked for")],
)
def test_a_figure_has_its_interval_and_what_was_wanted(at_least, status, required, words):
    found = benchmarks.finding("vllm", "bf16", Benchmark(task="gsm8k", at_least=at_least), RESULTS)
    assert (found.name, found.status, found.required) == ("benchmark gsm8k", status, required) and bool(found.remedy) == (status == "fail")
    assert "exact_match,none 75.0% of 40 questions (95 % interval 60% to 86%)" in found.message and words in found.message


def test_what_was_lost_is_said():
    counts = {"cut": 3, "unanswered": 1, "empty": 0}
    message = benchmarks.finding("vllm", "bf16", Benchmark(task="gsm8k"), {**RESULTS, "counts": counts}).message
    assert message.endswith("; 1 not answered; 3 cut off by their budget")


def test_a_figure_that_is_no_share_has_the_harness_own_error():
    results = {**RESULTS, "right": None, "metric": "bleu,none", "figures": {"bleu_stderr,none": 0.05}}
    assert benchmarks.finding("vllm", "bf16", Benchmark(task="wmt"), results).evidence["interval"] == [0.652, 0.848]


def test_findings_are_added_to_those_that_are_there(tmp_path):
    (tmp_path / "findings.json").write_text('[{"name": "think"}]')
    benchmarks.add([benchmarks.finding("vllm", "bf16", Benchmark(task="gsm8k"), RESULTS)], tmp_path / "findings.json")
    assert [finding["name"] for finding in json.loads((tmp_path / "findings.json").read_text())] == ["think", "benchmark gsm8k"]


@pytest.mark.parametrize(("made", "verdict"), [((), "fail"), (("benchmark gsm8k",), "pass")])
def test_a_benchmark_that_the_recipe_names_and_nobody_ran_fails_the_verdict(made, verdict):
    seen = observation(answers=("4",) * 10)
    done = tuple(benchmarks.finding("llamacpp", "f16", Benchmark(task="gsm8k"), RESULTS) for _ in made)
    report = judge("demo", TASK.model_copy(update={"benchmarks": (Benchmark(task="gsm8k"),)}), [replace(seen, findings=(*seen.findings, *done))])
    assert report.verdict == verdict and "benchmark gsm8k" in {check.name for check in report.checks}


def with_benchmarks(demo: Recipe, *wanted: Benchmark) -> Recipe:
    return demo.model_copy(update={"verify": demo.verify.model_copy(update={"benchmarks": wanted})})


def test_a_benchmark_moves_the_steps_of_the_tuned_model_and_its_own_tasks_are_covered(demo, demo_folder, tmp_path):
    def ids(recipe):
        return {step.name: step.id for step in plan(resolve(recipe, tmp_path), ("llamacpp",)) if step.name.startswith("serve-")}

    (tmp_path / "data").symlink_to(demo_folder / "data")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\n")
    recipe = with_benchmarks(demo, Benchmark(task="mine", folder="tasks"))
    before = ids(recipe)
    assert before["serve-llamacpp-q8_0"] != ids(demo)["serve-llamacpp-q8_0"]
    (tmp_path / "tasks" / "mine.yaml").write_text("task: mine\nlimit: 1\n")
    after = ids(recipe)
    assert {name for name in before if before[name] != after[name]} == {name for name in before if not name.endswith("-base")}


def test_tasks_that_are_not_there_are_said_while_planning(demo, demo_folder):
    recipe = with_benchmarks(demo, Benchmark(task="mine", folder="nowhere"))
    with pytest.raises(InvalidError, match="verify/benchmarks/folder"):
        plan(resolve(recipe, demo_folder), ("llamacpp",))


@pytest.mark.parametrize(
    "wrong", [{"task": "../x"}, {"task": "gsm8k", "limit": 0}, {"task": "gsm8k", "at_least": 2}, {"task": "gsm8k", "harness": "x"}]
)
def test_what_is_no_benchmark_is_refused(wrong):
    with pytest.raises(ValidationError):
        Benchmark.model_validate(wrong)
