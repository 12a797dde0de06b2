"""Held-out questions, asked greedily through the endpoint and marked by machine.

It proves how often the served model is right on questions it was not trained on; it says nothing about other kinds of question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, assert_never

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError
from toolkit.recipe import Task
from toolkit.verify import Expectations, Finding, Question, Reply
from toolkit.verify.interval import wilson

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def ask_all(chat: Chat, expectations: Expectations) -> Iterator[Reply]:
    """Yield the replies in the questions' order, `parallel` asked at once; NotReadyError where the endpoint is gone."""
    with ThreadPoolExecutor(expectations.parallel) as pool:
        yield from pool.map(lambda question: ask_one(chat, expectations, question), expectations.questions)


def ask_one(chat: Chat, expectations: Expectations, question: Question) -> Reply:
    """Ask one question; an answer that fails is kept with its error, since the others may still tell something."""
    try:
        answer = chat.ask([{"role": "user", "content": question.text}], expectations.max_tokens)
    except FailedError as error:
        return Reply(question=question.text, expected=question.expected, right=False if expectations.task else None, error=error.message)
    return reply(question, answer, expectations.task)


def reply(question: Question, answer: Answer, task: Task | None) -> Reply:
    """Return the line for answers.jsonl, marked."""
    right = is_right(task, answer.text, question.expected) if task and question.expected is not None else None
    return Reply(
        question=question.text,
        expected=question.expected,
        right=right,
        reasoning=answer.reasoning,
        text=answer.text,
        finish=answer.finish,
        where=answer.where,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        seconds=round(answer.seconds, 3),
    )


def is_right(task: Task, text: str, expected: str) -> bool:
    """Mark an answer: `numeric` compares its last number, `exact` the stripped text."""
    match task.metric:
        case "numeric":
            given = number(text)
            return given is not None and given == number(expected)
        case "exact":
            return text.strip() == expected.strip()
        case _:
            assert_never(task.metric)


def number(text: str) -> float | None:
    """Return the last number of a text, thousands separators taken out."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def check(name: str, expectations: Expectations, replies: list[Reply]) -> Finding:
    """Hold the share of right answers against the recipe."""
    made: dict[str, Any] = {"name": "task", "engine": name, "variant": expectations.variant}
    marked = [reply for reply in replies if reply.right is not None]
    if expectations.task is None or not marked:
        return Finding(**made, status="skip", required=False, message="no held-out questions with a machine-checkable answer were given")
    right, asked = sum(bool(reply.right) for reply in marked), len(marked)
    low, high = wilson(right, asked)
    wrong = [f"{reply.question} → {(reply.text or reply.error).strip()} (expected {reply.expected})" for reply in marked if not reply.right]
    wanted = expectations.task.at_least
    passed = right / asked >= wanted
    return Finding(
        **made,
        status="pass" if passed else "fail",
        message=f"{right} of {asked} held-out answers right (95 % interval {low:.0%} to {high:.0%}); at least {wanted:.0%} wanted",
        remedy="" if passed else "train for more steps, or serve a finer quantisation",
        evidence={"right": right, "asked": asked, "interval": [round(low, 4), round(high, 4)], "wrong": wrong[:5]},
    )
