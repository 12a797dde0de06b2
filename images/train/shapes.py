"""The shapes in which chain-of-thought data is published: each is known by its columns and read into the normal form of conversation.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from conversation import Conversation, RefusedError, inline, instruction, listed, of_turns, single, text
from program import INVALID, ProgramError

Values = Mapping[str, Any]
"""A row by the names of its columns in lower case."""


@dataclass(frozen=True)
class Shape:
    """A way to lay out rows."""

    name: str
    columns: tuple[str, ...]
    """Columns that tell it, in lower case: they are matched without regard to case."""
    read: Callable[[Values], Conversation]
    seen: str
    """Data that has it."""
    over: tuple[str, ...] = ()
    """Shapes whose columns stand in such data too, and are not meant."""

    def fits(self, columns: Iterable[str]) -> bool:
        """Say whether all of its columns are there."""
        return set(self.columns) <= set(columns)

    def normal(self, values: Mapping[str, Any]) -> Conversation:
        """Read a row; RefusedError where it cannot be used."""
        row = {name.casefold(): value for name, value in values.items()}
        if row.get("finish_reason") == "length":
            raise RefusedError("truncated")
        made = self.read(row)
        system = made.system if made.system is not None else instruction(row.get("system"))
        return Conversation(made.turns, system)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.columns)})"


def _three(name: str, columns: tuple[str, str, str], seen: str) -> Shape:
    """Return a shape of three columns: question, reasoning, answer."""
    return Shape(name, columns, lambda row: single(*(row.get(column) for column in columns)), seen)


def _two(name: str, columns: tuple[str, str], seen: str) -> Shape:
    """Return a shape of two columns: a question, and an answer with its reasoning between tags."""
    return Shape(name, columns, lambda row: inline(*(row.get(column) for column in columns)), seen)


def _generations(row: Values) -> Conversation:
    """Take the first generation that is whole, right where that was marked, and well formed."""
    texts = listed(row.get("generations"))
    marks = [listed(value) for name, value in row.items() if name.startswith("correctness_") and isinstance(value, list | str)]
    whole = [number for number in range(len(texts)) if _at(row, "is_reasoning_complete", number) is not False]
    whole = [number for number in whole if _at(row, "finish_reasons", number) != "length"]
    if not whole:
        raise RefusedError("no complete generation")
    right = [number for number in whole if not marks or any(number < len(mark) and mark[number] is True for mark in marks)]
    if not right:
        raise RefusedError("no correct generation")
    for number in right:
        try:
            return inline(row.get("problem"), texts[number])
        except RefusedError as reason:
            refused = reason
    raise refused


def _at(row: Values, column: str, number: int) -> Any:
    values = listed(row[column]) if row.get(column) is not None else []
    return values[number] if number < len(values) else None


def _trajectories(row: Values) -> Conversation:
    thoughts = listed(row.get("thinking_trajectories"))
    return single(row.get("question"), thoughts[0] if thoughts else None, row.get("attempt"))


def _prompt(row: Values) -> Conversation:
    """Read a prompt and its completion, both texts or both lists of messages."""
    prompt, completion = row.get("prompt"), row.get("completion")
    return of_turns([*prompt, *listed(completion)]) if isinstance(prompt, list) else inline(prompt, completion)


def _instruction(row: Values) -> Conversation:
    given = row.get("input")
    question = text(row.get("instruction")) + (f"\n\n{given}" if isinstance(given, str) and given.strip() else "")
    return inline(question, row.get("output"))


SHAPES: tuple[Shape, ...] = (
    _three("medical-o1", ("question", "complex_cot", "response"), "FreedomIntelligence/medical-o1-reasoning-SFT"),
    _three(
        "medical-r1",
        ("question", "reasoning (reasoning_content)", "response (content)"),
        "FreedomIntelligence/Medical-R1-Distill-Data",
    ),
    Shape("openr1", ("problem", "generations"), _generations, "open-r1/OpenR1-Math-220k", over=("messages", "openmath")),
    Shape("messages", ("messages",), lambda row: of_turns(row.get("messages")), "role/content, reasoning in a field or between tags"),
    Shape(
        "conversations",
        ("conversations",),
        lambda row: of_turns(row.get("conversations")),
        "open-thoughts/OpenThoughts-114k, OpenThoughts3, bespokelabs/Bespoke-Stratos-17k: from/value",
    ),
    _three("s1k-1.1", ("question", "deepseek_thinking_trajectory", "deepseek_attempt"), "simplescaling/s1K-1.1"),
    Shape("s1k", ("question", "thinking_trajectories", "attempt"), _trajectories, "simplescaling/s1K"),
    _three("openthoughts-metadata", ("problem", "deepseek_reasoning", "deepseek_solution"), "open-thoughts/OpenThoughts-114k, config metadata"),
    _three("instruction-think-answer", ("instruction", "think", "answer"), "written by hand"),
    _three("question-reasoning-answer", ("question", "reasoning", "answer"), "written by hand"),
    Shape("prompt-completion", ("prompt", "completion"), _prompt, "TRL, reasoning between tags"),
    _three("input-reasoning-content", ("input", "reasoning_content", "content"), "Congliu/Chinese-DeepSeek-R1-Distill-data-110k"),
    _two("openmath", ("problem", "generated_solution"), "nvidia/OpenMathReasoning"),
    _two("input-output", ("input", "output"), "reasoning between tags"),
    Shape("alpaca", ("instruction", "output"), _instruction, "Alpaca's instruction, input, output", over=("input-output",)),
)
"""Every shape that is known. AI-MO/NuminaMath-CoT is `messages` too, and has no reasoning apart from its answer."""


def named(shape: str, found: list[str], key: str) -> Shape:
    """Return the shape that the recipe states; ProgramError (3) where the data lacks its columns."""
    chosen = next(one for one in SHAPES if one.name == shape)
    missing = [column for column in chosen.columns if column not in _folded(found)]
    if missing:
        message = f"{key}: dataset.shape is {chosen}, but there is no column {', '.join(map(repr, missing))} ({_list(found)})"
        raise ProgramError(message, "leave dataset.shape out, or state the one that the data has", INVALID)
    return chosen


def detect(found: list[str], key: str) -> Shape:
    """Return the shape that the columns tell; ProgramError (3) where none or more than one does, with what is there and what is known."""
    hits = [shape for shape in SHAPES if shape.fits(_folded(found))]
    hits = [one for one in hits if not any(one.name in other.over or set(one.columns) < set(other.columns) for other in hits)]
    if len(hits) == 1:
        return hits[0]
    if not hits:
        message = f"{key}: rows of no known shape ({_list(found)}; known: {'; '.join(map(str, SHAPES))})"
        raise ProgramError(message, "name the columns: dataset.columns: {question: …, reasoning: …, answer: …}", INVALID)
    message = f"{key}: the columns fit more than one shape: {'; '.join(map(str, hits))} ({_list(found)})"
    raise ProgramError(message, f"state the one that is meant: dataset.shape: {' or '.join(shape.name for shape in hits)}", INVALID)


def _folded(found: Iterable[str]) -> set[str]:
    return {name.casefold() for name in found}


def _list(found: Iterable[str]) -> str:
    return f"columns found: {', '.join(map(repr, found))}"
