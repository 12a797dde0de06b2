"""The normal form of a chain-of-thought row: {system?, turns: [{role, content, reasoning?}]}, whatever tags and fields the data wrote it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TAGS = (("<think>", "</think>"), ("<|begin_of_thought|>", "<|end_of_thought|>"))
"""Pairs between which published data writes its reasoning inside a text."""
SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
"""What stands around the answer beside the second pair (OpenThoughts, Bespoke-Stratos)."""
FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its reasoning."""
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
COLUMN, NOWHERE = "a column", "nowhere"


class RefusedError(Exception):
    """A row that is not used, with the reason that is counted."""


@dataclass(frozen=True)
class Turn:
    """What one side says; only an assistant reasons."""

    role: str
    content: str
    reasoning: str | None = None
    written: str = NOWHERE
    """Where the data had the reasoning: a column, a field of the message, or behind a tag."""


@dataclass(frozen=True)
class Conversation:
    """A user and an assistant by turns; the last turn is the assistant's and is the one that is learnt."""

    turns: tuple[Turn, ...]
    system: str | None = None

    @property
    def question(self) -> str:
        """Return what the last turn answers."""
        return self.turns[-2].content

    @property
    def answer(self) -> Turn:
        """Return the last turn."""
        return self.turns[-1]

    @property
    def single(self) -> bool:
        """Say whether it is one question and its answer, and nothing before."""
        return len(self.turns) == 2 and self.system is None

    def messages(self) -> list[dict[str, str]]:
        """Return what a client sends for the last turn: the earlier answers without their reasoning."""
        opening = [{"role": "system", "content": self.system}] if self.system is not None else []
        return opening + [{"role": turn.role, "content": turn.content} for turn in self.turns[:-1]]

    def plain(self) -> dict[str, Any]:
        """Return the normal form as data; what is not there has no key."""
        turns = [_present({"role": turn.role, "content": turn.content, "reasoning": turn.reasoning}) for turn in self.turns]
        return _present({"system": self.system, "turns": turns})


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def single(question: Any, reasoning: Any, answer: Any) -> Conversation:
    """Make a conversation of three columns; RefusedError where one of them holds no text."""
    return Conversation((Turn("user", text(question)), Turn("assistant", text(answer), text(reasoning), COLUMN)))


def inline(question: Any, answer: Any) -> Conversation:
    """Make a conversation of a question and an answer that holds its reasoning between tags; RefusedError where those are broken."""
    return Conversation((Turn("user", text(question)), _spoken(text(answer))))


def of_turns(value: Any) -> Conversation:
    """Make a conversation of messages, as role/content or from/value; RefusedError for tools, unknown roles, and turns out of order."""
    said = [_turn(item) for item in listed(value)]
    system = said.pop(0).content if said and said[0].role == "system" else None
    if not said or [turn.role for turn in said] != ["user", "assistant"] * (len(said) // 2):
        raise RefusedError("turns out of order")
    return Conversation(tuple(said), instruction(system))


def instruction(system: Any) -> str | None:
    """Return a system text; None for one that asks for tags which the training text does not have (OpenThoughts, Bespoke-Stratos)."""
    if not isinstance(system, str) or not system.strip() or TAGS[1][0] in system:
        return None
    return system.strip()


def text(value: Any) -> str:
    """Return a value that is a text; RefusedError for any other."""
    if not isinstance(value, str):
        raise RefusedError("missing value")
    return value


def listed(value: Any) -> list[Any]:
    """Return a list as Parquet, JSON or a cell of CSV hold it: as it is, as columns of equal length, or as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise RefusedError("broken JSON in a cell") from None
    if isinstance(value, Mapping) and value and all(isinstance(part, list) for part in value.values()):
        return [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]
    if not isinstance(value, list):
        raise RefusedError("missing value")
    return value


def _turn(item: Any) -> Turn:
    if not isinstance(item, Mapping):
        raise RefusedError("missing value")
    role = ROLES.get(str(item.get("role", item.get("from"))))
    if role is None or item.get("tool_calls"):
        raise RefusedError("tool call or unknown role")
    content = text(item.get("content", item.get("value")))
    if role != "assistant":
        return Turn(role, content)
    thoughts = ((name, item[name]) for name in FIELDS if isinstance(item.get(name), str) and item[name].strip())
    name, thought = next(thoughts, (None, None))
    return _spoken(content) if name is None else Turn(role, content, thought, name)


def _spoken(answer: str) -> Turn:
    """Split an assistant's text; one without tags has no reasoning."""
    for opening, closing in TAGS:
        if opening in answer or closing in answer:
            reasoning, rest = split(answer, opening, closing)
            return Turn("assistant", _solution(rest), reasoning, opening)
    return Turn("assistant", answer)


def split(answer: str, opening: str, closing: str) -> tuple[str, str]:
    """Return reasoning and answer; RefusedError for tags that are unclosed, doubled or not at the beginning.

    A closing tag alone is whole: a template that opens the thinking in the prompt leaves such completions.
    """
    opened, closed = answer.count(opening), answer.count(closing)
    if opened != closed and (opened, closed) != (0, 1):
        raise RefusedError("unclosed tag")
    if closed > 1:
        raise RefusedError("doubled tag")
    thought, _, rest = answer.partition(closing)
    if opened:
        before, found, thought = thought.partition(opening)
        if not found:
            raise RefusedError("unclosed tag")
        if before.strip():
            raise RefusedError("text before the reasoning")
    return thought.strip(), rest.strip()


def _solution(rest: str) -> str:
    opened, closed = (rest.count(mark) for mark in SOLUTION)
    if opened != closed:
        raise RefusedError("unclosed tag")
    if opened > 1:
        raise RefusedError("doubled tag")
    return rest.replace(SOLUTION[0], "").replace(SOLUTION[1], "").strip()
