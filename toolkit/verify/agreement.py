"""How often two endpoints answer the same held-out question differently.

It makes damage by quantisation or by a server visible; it does not say which of the two is right, and it fails nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from pydantic import BaseModel, ConfigDict, computed_field

from toolkit.verify import Reply


class Agreement(BaseModel):
    """Two endpoints compared over the questions that both answered."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
    one: str
    other: str
    questions: int
    different_answers: int
    different_reasoning: int
    examples: tuple[tuple[str, str, str], ...] = ()
    """Question, the one's answer, the other's."""

    @computed_field  # type: ignore[prop-decorator]  # as pydantic advises for mypy
    @property
    def different(self) -> float:
        """Share of different answers."""
        return round(self.different_answers / self.questions, 4) if self.questions else 0.0


def compare(one: str, other: str, replies: Sequence[Reply], others: Sequence[Reply]) -> Agreement:
    """Compare two endpoints' replies, white space at the ends aside."""
    theirs = {reply.question: reply for reply in others if not reply.error}
    pairs = [(reply, theirs[reply.question]) for reply in replies if not reply.error and reply.question in theirs]
    apart = [(a.question, a.text.strip(), b.text.strip()) for a, b in pairs if a.text.strip() != b.text.strip()]
    reasoning = sum(a.reasoning.strip() != b.reasoning.strip() for a, b in pairs)
    return Agreement(
        one=one, other=other, questions=len(pairs), different_answers=len(apart), different_reasoning=reasoning, examples=tuple(apart[:3])
    )


def compare_all(endpoints: Mapping[str, Sequence[Reply]]) -> tuple[Agreement, ...]:
    """Compare every pair of endpoints."""
    return tuple(compare(one, other, endpoints[one], endpoints[other]) for one, other in combinations(endpoints, 2))
