"""Held-out questions, asked greedily through the endpoint and marked by machine.

It proves how often the served model is right on questions it was not trained on; it says nothing about other kinds of question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

from toolkit.assessment import Task
from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError
from toolkit.verify import Expectations, Finding, Question, Reply, Status
from toolkit.verify.interval import wilson

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LETTER = re.compile(r"(?<![0-9A-Za-zÀ-ɏ_'’])(?!a\s+[A-Za-zÀ-ɏ])([A-Ea-e])(?![0-9A-Za-zÀ-ɏ_'’]|-[A-Za-z]|\.[a-z])")
"""A letter beside Chinese characters stands alone, one in a word of Latin letters, in `I'd` or in `e-mail` and `e.g.` does not."""

REMEDIES = {
    "pass": "",
    "fail": "train for more steps, or serve a finer quantisation",
    "skip": "name a judge that keeps to the form of its verdict, or give it a larger budget (verify.task.judge.max_tokens)",
}


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
    machine = task is not None and task.metric != "judge" and question.expected is not None
    right = is_right(task, answer.text, question.expected or "") if task and machine else None
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
    """Mark an answer: `numeric` compares its last number, `exact` the stripped text, `choice` its last letter from A to E.

    ValueError for `judge`, whose marks come from another model (verify/grading.py).
    """
    match task.metric:
        case "numeric":
            given = number(text)
            return given is not None and given == number(expected)
        case "exact":
            return text.strip() == expected.strip()
        case "choice":
            chosen = choice(text)
            return chosen is not None and chosen == choice(expected)
        case "judge":
            raise ValueError("a judge's mark is not made by machine")
        case _:
            assert_never(task.metric)


def number(text: str) -> float | None:
    """Return the last number of a text, thousands separators taken out."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def choice(text: str) -> str | None:
    """Return the last letter from A to E that stands alone, as a capital; full-width letters count, the article `a` and `I'd` do not."""
    found = LETTER.findall(unicodedata.normalize("NFKC", text))
    return found[-1].upper() if found else None


def check(name: str, expectations: Expectations, replies: list[Reply]) -> Finding:
    """Hold the share of right answers against the recipe; answers that a judge left without a mark may be right or wrong.

    Where that decides, the check is skipped and stays required, so that the verdict is no pass.
    """
    marked = [reply for reply in replies if reply.right is not None]
    unmarked = sum(bool(reply.judged) and reply.right is None for reply in replies)
    if expectations.task is None or not (marked or unmarked):
        return expectations.skipped("task", name, "no held-out questions with a machine-checkable answer were given")
    right, asked, wanted = sum(bool(reply.right) for reply in marked), len(marked) + unmarked, expectations.task.at_least
    low, high = wilson(right, asked)[0], wilson(right + unmarked, asked)[1]
    wrong = [f"{reply.question} → {(reply.text or reply.error).strip()} (expected {reply.expected})" for reply in marked if not reply.right]
    status: Status = "pass" if right / asked >= wanted else "skip" if (right + unmarked) / asked >= wanted else "fail"
    bound = f"at least {wanted:.0%} wanted" if wanted else "no least share was asked for"
    open_marks = f"; {unmarked} were given no mark, and decide" if status == "skip" else f"; {unmarked} were given no mark" if unmarked else ""
    return expectations.finding(
        "task",
        name,
        status=status,
        message=f"{right} of {asked} held-out answers right (95 % interval {low:.0%} to {high:.0%}); {bound}{open_marks}",
        remedy=REMEDIES[status],
        evidence={"right": right, "asked": asked, "unmarked": unmarked, "interval": [round(low, 4), round(high, 4)], "wrong": wrong[:5]},
    )
