"""Whether an answer becomes a row: it must have ended by itself, hold reasoning and answer apart from their tags, and be right by its check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from toolkit.assessment import Task
from toolkit.engines import Answer
from toolkit.making import Item
from toolkit.recipe import Think
from toolkit.verify.task import is_right

Mark = Literal["kept", "wrong", "truncated", "no reasoning", "no answer", "tag inside a text"]
Check = Callable[[Item, str], bool]
"""From a question and an answer's text to whether it is right. A judge fits here too; an answer is marked more than once, so let it remember."""


def _by(metric: Literal["exact", "numeric", "choice"]) -> Check:
    task = Task(metric=metric, at_least=0)
    return lambda item, text: item.expected is not None and is_right(task, text, item.expected)


CHECKS: dict[str, Check] = {"exact": _by("exact"), "numeric": _by("numeric"), "choice": _by("choice"), "none": lambda item, text: True}
"""By name; as verify.task.metric of a recipe marks, and `none`, which takes any answer for right."""


def mark(answer: Answer, item: Item, check: Check, think: Think | None = None) -> Mark:
    """Say what becomes of an answer: the first thing that is wrong with it, or `kept`."""
    tags = think or Think()
    if answer.finish == "length":
        return "truncated"
    if not answer.reasoning.strip():
        return "no reasoning"
    if not answer.text.strip():
        return "no answer"
    if any(tag in text for tag in (tags.open, tags.close) for text in (answer.reasoning, answer.text)):
        return "tag inside a text"
    return "kept" if check(item, answer.text) else "wrong"
