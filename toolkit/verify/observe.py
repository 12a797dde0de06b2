"""Everything that is to be learnt from one live endpoint, written down: every held-out answer, and what the contracts found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from toolkit.assessment import Identity, Task
from toolkit.chat_template import ChatTemplate
from toolkit.engines import Endpoint, engine
from toolkit.engines.chat import Chat
from toolkit.engines.wire import ask
from toolkit.errors import FailedError, NotReadyError, ThinkshipError
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Question, Reply, ends, gate, grading, identity, settings, task, think, tokens

GENERAL = ("What is 7 times 8?", "Name the capital of France.", "Why is the sky blue?", "Is 17 a prime number?")
"""Asked where no held-out questions are given."""

ENOUGH = 2
"""Unanswered questions from the start after which no more are asked."""

Progress = Callable[[int, int, str], None]
"""Called with what is done, of how many, in which unit."""


class Observed(BaseModel):
    """What an endpoint is and how it did, in numbers: endpoint.json."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    engine: str
    variant: str
    base: bool
    model: str
    version: str
    template: str
    asked: int
    thinking: int
    """Answers that keep the think contract."""
    right: int | None
    """Right answers; None where none could be marked."""
    tokens: int
    seconds: float
    """Sum over the answers, each from question to end."""


def expectations_of(recipe: dict[str, Any], dataset: Path, model: Path) -> Expectations:
    """Return what a recipe's slice of the serve stage expects, with its held-out rows and the checkpoint's chat template."""
    wanted = Task.model_validate(recipe["verify"]["task"]) if recipe["verify"].get("task") else None
    rows = [json.loads(line) for line in (dataset / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = (wanted.base_questions if recipe["base"] else wanted.questions) if wanted else len(GENERAL)
    return Expectations(
        think=Think.model_validate(recipe["think"]),
        think_at_least=recipe["verify"]["think_at_least"],
        task=wanted,
        questions=tuple(Question(row["question"], row.get("expected"), row.get("completion", "")) for row in rows[:asked]),
        template=ChatTemplate.of_model(model),
        probes=() if recipe["base"] else identity.read(model.parent),
        tokenized=() if recipe["base"] else tokens.read(model.parent),
        ends=ends.of_model(model),
        injection=recipe["verify"].get("injection", "accept"),
        identity=Identity.model_validate(recipe["verify"].get("identity", {})),
        **settings.of_recipe(recipe, dataset),
        variant=recipe["variant"],
        base=recipe["base"],
        parallel=recipe["serve"]["parallel"],
    )


def observe(endpoint: Endpoint, expectations: Expectations, output: Path, progress: Progress = lambda *_: None) -> tuple[Finding, ...]:
    """Ask the endpoint everything and leave endpoint.json, findings.json and answers.jsonl in `output`.

    A base model is measured and never failed: its findings are none. NotReadyError where the endpoint is not there, or answers not one
    of the first questions.
    """
    replies, findings = examine(endpoint, expectations, progress)
    lines = "".join(f"{reply.model_dump_json()}\n" for reply in replies)
    (output / "answers.jsonl").write_text(lines, encoding="utf-8")
    _write(output / "findings.json", [finding.model_dump(mode="json") for finding in findings])
    _write(output / "endpoint.json", summary(endpoint, expectations, replies).model_dump(mode="json"))
    return findings


def examine(endpoint: Endpoint, expectations: Expectations, progress: Progress = lambda *_: None) -> tuple[list[Reply], tuple[Finding, ...]]:
    """Ask every question, then hold the endpoint against each contract; errors as `observe`."""
    asked = expectations if expectations.questions else _with_general_questions(expectations)
    judge = asked.task.judge if asked.task else None
    trial = grading.try_out(judge, asked.questions) if judge else None  # first: a judge that is not there is told before all is asked
    with Chat(endpoint, asked.think, asked.timeout) as chat:
        replies: list[Reply] = []
        for reply in task.ask_all(chat, asked):
            replies.append(reply)
            progress(len(replies), len(asked.questions), "questions")
            if len(replies) == min(ENOUGH, len(asked.questions)) and all(reply.error for reply in replies):
                raise NotReadyError(f"not one of {len(replies)} questions was answered: {replies[0].error}", "look at the server's log")
        replies = grading.mark_all(judge, replies, progress) if judge else replies
        marks = (grading.check(endpoint.engine, asked, trial, replies),) if trial else ()
        return replies, () if asked.base else (*gate.findings(chat, asked, replies), *marks)


def summary(endpoint: Endpoint, expectations: Expectations, replies: Sequence[Reply]) -> Observed:
    """Return the numbers of an endpoint."""
    marked = [reply.right for reply in replies if reply.right is not None]
    return Observed(
        engine=endpoint.engine,
        variant=expectations.variant,
        base=expectations.base,
        model=endpoint.model,
        version=version(endpoint),
        template=_template(endpoint),
        asked=len(replies),
        thinking=think.kept(replies, expectations.think, () if expectations.base else think.own_fields(endpoint.engine)),
        right=sum(marked) if marked else None,
        tokens=sum(reply.completion_tokens or 0 for reply in replies),
        seconds=round(sum(reply.seconds for reply in replies), 2),
    )


def version(endpoint: Endpoint) -> str:
    """Return the server's own word for its version, empty where it has none."""
    places = {"ollama": "/api/version", "vllm": "/version"}
    if endpoint.engine not in places:
        return ""
    try:
        return str(ask(endpoint.root + places[endpoint.engine], timeout=5).get("version", ""))
    except (NotReadyError, FailedError, AttributeError):
        return ""


def _template(endpoint: Endpoint) -> str:
    try:
        return engine(endpoint.engine).template(endpoint)
    except ThinkshipError:
        return "not known"


def _with_general_questions(expectations: Expectations) -> Expectations:
    return replace(expectations, questions=tuple(Question(text) for text in GENERAL))


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
