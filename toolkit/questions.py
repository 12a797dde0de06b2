"""Held-out questions of a file, for an endpoint without a recipe: what is asked, how it is marked, and what it is compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolkit.assessment import Judge, Task
from toolkit.errors import InvalidError, UsageError
from toolkit.report import document
from toolkit.verify import Finding, Question, Reply, gain
from toolkit.verify.task import choice, number

REMEDY = 'one JSON object a line, as {"question": "What is 2 + 2?", "expected": "4"}'
SCORING = ("questions", "metric", "limit", "at_least", "max_tokens", "parallel", "judge_url", "judge_model", "against")
READERS = {"numeric": number, "choice": choice}
"""What a metric takes from the expected answer: a row that it takes nothing from could never be right."""


def read(path: Path, metric: str | None = None, limit: int | None = None) -> tuple[Question, ...]:
    """Read questions; with a metric each needs an expected answer that it can compare.

    UsageError where there is no such file, InvalidError with the line for what is no question. Column names are matched without regard to case.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"the questions cannot be read: {error}", REMEDY) from error
    except UnicodeDecodeError as error:
        raise InvalidError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    numbered = [(place, line) for place, line in enumerate(lines, 1) if line.strip()][:limit]
    found = [_question(f"{path}:{place}", line, metric) for place, line in numbered]
    if not found:
        raise InvalidError(f"{path}: no questions", REMEDY)
    first: dict[str, int] = {}
    for (place, _), question in zip(numbered, found, strict=True):
        if place != first.setdefault(question.text, place):
            raise InvalidError(
                f"{path}:{place}: the question stands in line {first[question.text]} already", "ask it once: repeated it weighs double"
            )
    return tuple(found)


def _question(place: str, line: str, metric: str | None) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidError(f"{place}: no JSON: {error}", REMEDY) from error
    if not isinstance(row, dict):
        raise InvalidError(f"{place}: a row is an object, not {type(row).__name__}", REMEDY)
    given = {name.lower(): value for name, value in row.items() if value is not None}
    if not isinstance(given.get("question"), str) or not given["question"].strip():
        raise InvalidError(f"{place}: no text under `question` (columns: {', '.join(row) or 'none'})", REMEDY)
    expected = str(given["expected"]) if "expected" in given else None
    if metric and (expected is None or not expected.strip()):
        raise InvalidError(f"{place}: no `expected` answer, which --metric {metric} compares (columns: {', '.join(row)})", REMEDY)
    if metric in READERS and READERS[metric](expected or "") is None:
        raise InvalidError(f"{place}: --metric {metric} finds nothing to compare in the expected answer {expected!r}", "choose another metric")
    return Question(given["question"], expected)


def stated(given: Mapping[str, Any]) -> list[str]:
    """Return the options of the command line that say what is asked and how it is marked."""
    return [f"--{name.replace('_', '-')}" for name in SCORING if given[name] is not None]


def wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the command line adds to an endpoint's expectations: its questions, how they are marked and how many are asked at once.

    UsageError where the options do not belong together, else as `read`.
    """
    parallel = {"parallel": given["parallel"] or 1}
    if given["questions"]:
        metric = given["metric"] or "numeric"
        asked = read(given["questions"], metric, given["limit"])
        return {**parallel, "questions": asked, "task": _task(given, metric, len(asked))}
    alone = [option for option in stated(given) if option != "--parallel"]
    if alone:
        raise UsageError(f"{', '.join(alone)} without questions to mark", "name a file of held-out questions with --questions")
    return parallel


def _task(given: Mapping[str, Any], metric: Any, count: int) -> Task:
    judge = given["judge_url"], given["judge_model"]
    if (metric == "judge") != all(judge) or any(judge) != all(judge):
        raise UsageError("--metric judge, --judge-url and --judge-model belong together", "name all three, or mark by another metric")
    try:
        marker = Judge(url=judge[0], model=judge[1]) if all(judge) else None
    except ValidationError as error:
        raise UsageError(f"{judge[0]!r} is no address of a judge", "name one as http://host:port/v1") from error
    return Task(metric=metric, judge=marker, questions=count, max_tokens=given["max_tokens"] or 512, at_least=given["at_least"] or 0.0)


def earlier(path: Path | None) -> tuple[Reply, ...]:
    """Return the replies of an earlier report of one endpoint, none without a path; UsageError for a report of several, else as `document.load`."""
    if not path:
        return ()
    old = document.load(path)
    labels = [numbers["label"] for numbers in old["observed"]["endpoints"] if not numbers["base"]]
    if len(labels) != 1:
        raise UsageError(
            f"{path} tells of {len(labels)} endpoints ({', '.join(labels)})", "compare with the report of one: verify --url … --json FILE"
        )
    return tuple(Reply.model_validate(reply) for reply in old["observed"]["answers"].get(labels[0], ()))


def compared(engine: str, replies: Sequence[Reply], before: Sequence[Reply]) -> Finding:
    """Say whether the answers are better or worse than those of an earlier report, or why that cannot be told."""
    if not before:
        return _skipped("gain", engine, "there is nothing to compare with: name an earlier report over the same questions with --against")
    found = gain.check(engine, "", before, replies, asked="in both reports")
    return found or _skipped("gain", engine, "no question was answered and marked both here and in the earlier report")


def beyond(engine: str) -> Iterator[Finding]:
    """Yield what an endpoint without a recipe is not asked, with the reason."""
    yield _skipped("benchmarks", engine, "a recipe names them (verify.benchmarks), and none was given")


def _skipped(name: str, engine: str, why: str) -> Finding:
    return Finding(name=name, engine=engine, status="skip", required=False, message=why)
