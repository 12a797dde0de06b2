"""Public benchmarks through a live endpoint: each runs in the environment of its harness (images/lmeval) and becomes one finding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from toolkit import process
from toolkit.assessment import Benchmark
from toolkit.engines import Endpoint
from toolkit.errors import BY_CODE, FailedError, ThinkshipError
from toolkit.pipeline import Task
from toolkit.runners.environment import Environment
from toolkit.runners.events import QUIET, Events
from toolkit.stages import IMAGES
from toolkit.verify import Finding
from toolkit.verify.interval import Z95, wilson

ENVIRONMENT = "lmeval"
SECONDS = 600.0
"""Longest time of one answer: public questions take a reasoning model minutes."""


def ask_all(endpoint: Endpoint, recipe: Mapping[str, Any], task: Task) -> list[Finding]:
    """Run every benchmark of a serve step's recipe, leave its files under benchmarks/, and return the findings.

    NotReadyError where the harness or its data cannot be had, InvalidError for a task that does not exist or cannot be asked in a chat.
    """
    return [_asked(endpoint, Benchmark.model_validate(wanted), recipe, task) for wanted in recipe["verify"].get("benchmarks", ())]


def add(findings: Iterable[Finding], file: Path) -> None:
    """Add findings to those that a serve step has left already."""
    known = json.loads(file.read_text(encoding="utf-8")) + [finding.model_dump(mode="json") for finding in findings]
    file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _asked(endpoint: Endpoint, wanted: Benchmark, recipe: Mapping[str, Any], task: Task) -> Finding:
    output = task.output / "benchmarks" / wanted.task
    output.mkdir(parents=True)
    _run(wanted, _arguments(endpoint, wanted, recipe, task), endpoint.api_key, task)
    return finding(endpoint.engine, recipe["variant"], wanted, json.loads((output / "results.json").read_text(encoding="utf-8")))


def _arguments(endpoint: Endpoint, wanted: Benchmark, recipe: Mapping[str, Any], task: Task) -> Path:
    """Write the program's args.json, which holds no key."""
    address = {"url": endpoint.url, "model": endpoint.model, "think": recipe["think"], "parallel": recipe["serve"]["parallel"], "timeout": SECONDS}
    places = {"output": str((task.output / "benchmarks" / wanted.task).resolve()), "scratch": str(task.scratch.resolve())}
    inputs = {"folder": str((task.inputs["recipe_dir"] / wanted.folder).resolve())} if wanted.folder else {}
    path = task.scratch.resolve() / f"{wanted.task}.json"
    given = {"inputs": inputs, **places, "recipe": {"benchmark": wanted.model_dump(mode="json"), "endpoint": address}}
    path.write_text(json.dumps(given, indent=2), encoding="utf-8")
    return path


def _run(wanted: Benchmark, arguments: Path, key: str | None, task: Task) -> None:
    program = (str(Environment(ENVIRONMENT).install()), str(IMAGES / ENVIRONMENT / "evaluate.py"), str(arguments))
    secret = {"OPENAI_API_KEY": key} if key else {}
    with Events() as events:
        done = process.run(process.Command(program, {**QUIET, **secret}), log=task.log, on_line=events.read, check=False)
    if events.error:
        kind: type[ThinkshipError] = BY_CODE.get(done.code, FailedError)
        raise kind(f"benchmark {wanted.task}: {events.error['message']}", events.error["remedy"])
    if done.code:
        message = f"benchmark {wanted.task}: the program ended with {process.ending(done.code)}\n{process.tail(task.log)}"
        raise FailedError(message, f"see {task.log}")


def finding(engine: str, variant: str, wanted: Benchmark, results: Mapping[str, Any]) -> Finding:
    """Hold a benchmark's figure against its least value; without one it is measured and fails nothing."""
    value, low, high = results["value"], *_interval(results)
    passed = wanted.at_least is None or value >= wanted.at_least
    bound = "no least value was asked for" if wanted.at_least is None else f"at least {wanted.at_least:.0%} wanted"
    names = {"unanswered": "not answered", "cut": "cut off by their budget", "empty": "without an answer"}
    lost = "".join(f"; {results['counts'][name]} {words}" for name, words in names.items() if results["counts"].get(name))
    return Finding(
        name=f"benchmark {wanted.task}",
        engine=engine,
        variant=variant,
        status="pass" if passed else "fail",
        required=wanted.at_least is not None,
        message=f"{results['metric']} {value:.1%} of {results['questions']} questions (95 % interval {low:.0%} to {high:.0%}); {bound}{lost}",
        remedy="" if passed else "read benchmarks/ of the serve step; raise verify.benchmarks.max_tokens where answers were cut off, or train more",
        evidence={**results, "interval": [round(low, 4), round(high, 4)]},
    )


def _interval(results: Mapping[str, Any]) -> tuple[float, float]:
    """Return Wilson's interval of a share of right answers, or the normal one of another figure, by the harness's standard error."""
    if results["right"] is not None:
        return wilson(results["right"], results["questions"])
    name, _, strategy = results["metric"].partition(",")
    error = results["figures"].get(f"{name}_stderr,{strategy}") or 0.0
    return results["value"] - Z95 * error, results["value"] + Z95 * error
