"""Chain-of-thought data from a teacher: questions are asked of any OpenAI-compatible endpoint, and what its answers are worth is checked.

Every answer is kept in a journal before the next question is asked, so that no kill costs one, and the rows are made from the journal alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A question and, where it is known, its machine-checkable answer."""

    text: str
    expected: str | None = None


@dataclass(frozen=True)
class Unit:
    """One request: a question and the number of its sample, from 0."""

    item: Item
    sample: int
