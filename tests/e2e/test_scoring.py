"""Answers marked by others and timed, for real: a llama.cpp server is scored, judges, is asked a benchmark and is timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RECIPE

from toolkit import benchmarks, recipe_file
from toolkit.engines import Endpoint
from toolkit.pipeline import Task
from toolkit.places import Machine
from toolkit.plan import plan, serve_step
from toolkit.resolve import resolve
from toolkit.serving import serving
from toolkit.targets import target, tools

HELD_OUT = RECIPE.parent / "data" / "sums-holdout.jsonl"


@pytest.fixture(scope="module")
def endpoint(thinkship, store: Path, tmp_path_factory) -> Iterator[Endpoint]:
    """The demo's Q8_0 model in a llama.cpp server."""
    done = thinkship("run", RECIPE, "--store", store, "--engine", "llamacpp", "--until", "gguf")
    assert done.returncode == 0, done.stdout + done.stderr
    recipe, scratch = recipe_file.load(RECIPE), tmp_path_factory.mktemp("scratch")
    steps = {step.name: step for step in plan(resolve(recipe, RECIPE.parent), ("llamacpp",))}
    step = serve_step(recipe, "llamacpp", "q8_0", base=False)
    inputs = {key: store / steps[name].directory for key, name in step.inputs.items()}
    with serving("llamacpp", target(step.recipe, inputs), Machine(tools("llamacpp", scratch)), scratch / "log") as served:
        yield served


def verified(thinkship, endpoint: Endpoint, folder: Path, *options: object):
    where = ("--url", endpoint.url, "--model", endpoint.model, "--store", folder / "store", "--json", folder / "r.json")
    done = thinkship("verify", *where, "--questions", HELD_OUT, "--parallel", 8, "--max-tokens", 160, *options)
    checks = json.loads((folder / "r.json").read_text(encoding="utf-8"))["checks"]
    return done, {check["name"]: check for check in checks}


def test_an_endpoint_without_a_recipe_is_scored_and_held_against_its_own_report(thinkship, endpoint, tmp_path):
    done, checks = verified(thinkship, endpoint, tmp_path, "--limit", 24, "--at-least", 0.8)
    assert done.returncode == 0 and checks["task"]["status"] == "pass", done.stdout
    (tmp_path / "r.json").rename(tmp_path / "before.json")
    _, checks = verified(thinkship, endpoint, tmp_path, "--limit", 24, "--against", tmp_path / "before.json")
    assert checks["gain"]["message"].startswith("no evidence: of 24 questions asked in both reports"), checks["gain"]


def test_a_judge_too_small_to_judge_is_told_and_passes_nothing(thinkship, endpoint, tmp_path):
    judge = ("--metric", "judge", "--judge-url", endpoint.url, "--judge-model", endpoint.model)
    done, checks = verified(thinkship, endpoint, tmp_path, "--limit", 6, *judge)
    assert done.returncode == 6 and checks["judge"]["status"] == "fail", done.stdout
    assert "marked 0 of 8 controls rightly; unparsable: 6 of 6" in checks["judge"]["message"]
    assert checks["task"]["evidence"]["unmarked"] == 6 and checks["task"]["evidence"]["right"] == 0


def test_a_benchmark_is_asked_through_the_endpoint(endpoint, tmp_path):
    (tmp_path / "output").mkdir()
    verify = {"benchmarks": [{"task": "thinkship_sums", "folder": "tasks", "limit": 24, "max_tokens": 160, "at_least": 0.8}]}
    recipe = {"verify": verify, "think": {"open": "<think>", "close": "</think>"}, "serve": {"parallel": 8}, "variant": "q8_0"}
    task = Task({"recipe_dir": RECIPE.parent}, tmp_path / "output", tmp_path, tmp_path / "log")
    (found,) = benchmarks.ask_all(endpoint, recipe, task)
    assert found.status == "pass" and found.evidence["questions"] == 24, found
    assert len((tmp_path / "output" / "benchmarks" / "thinkship_sums" / "samples.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_streams_at_once_are_timed_with_the_thinking_apart(thinkship, endpoint, tmp_path):
    where = ("--url", endpoint.url, "--model", endpoint.model, "--store", tmp_path, "--questions", HELD_OUT)
    done = thinkship("bench", *where, "--streams", "1,4", "--requests", 8, "--tokens", 160, "--json")
    assert done.returncode == 0, done.stderr
    one, four = json.loads(done.stdout)["levels"]
    assert one["answers"] == four["answers"] == 8 and one["thinking_tokens"] > one["answer_tokens"] > 0
    assert one["first_token_seconds"]["p50"] < one["first_answer_token_seconds"]["p50"] < one["latency_seconds"]["p50"]
