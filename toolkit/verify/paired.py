"""Whether of two models that were asked the same questions one is better: McNemar's exact test.

Only the questions that one of the two got right and the other did not tell anything; each of them is a coin's throw where the models are
equally good (Q. McNemar, Psychometrika 12, 1947; exact form: the two-sided binomial test with share 1/2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Change = Literal["improved", "no evidence", "worse"]
ALPHA = 0.05
"""Chance of seeing a change where there is none, over all the pairs that are looked at together."""


@dataclass(frozen=True)
class Paired:
    """Two models over the questions that both answered."""

    questions: int
    gained: int
    """Questions that only the second got right."""
    lost: int
    """Questions that only the first got right."""

    @property
    def p(self) -> float:
        """Two-sided chance of a difference as large as this one between models that are equally good."""
        return mcnemar(self.gained, self.lost)

    def change(self, looks: int = 1) -> Change:
        """Say what the pair shows; the more pairs are looked at together, the more each must show (Bonferroni)."""
        return verdict(self.gained, self.lost, ALPHA / looks)

    def words(self) -> str:
        """Return the counts and the p value."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        return f"{self.gained} gained, {self.lost} lost of {self.questions}, {p}"


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided exact p of McNemar's test (Q. McNemar, Psychometrika 12, 1947).

    `gained` questions were answered right only after, `lost` only before; without an effect each of them is a fair coin, and questions
    whose mark did not change say nothing. 1 where no mark changed; ValueError for a negative number.
    """
    fewer, changed = min(gained, lost), gained + lost
    if fewer < 0:
        raise ValueError(f"a number of questions cannot be negative: {gained} gained, {lost} lost")
    tail, ways = 0, 1
    for count in range(fewer + 1):
        tail += ways
        ways = ways * (changed - count) // (count + 1)  # comb(changed, count + 1) from its neighbour: comb itself takes seconds for thousands
    return min(1.0, 2 * tail / (1 << changed))


def verdict(gained: int, lost: int, alpha: float = ALPHA) -> Change:
    """Say whether the change is plain at the level `alpha`, and in which direction; errors as `mcnemar`."""
    if mcnemar(gained, lost) >= alpha:
        return "no evidence"
    return "improved" if gained > lost else "worse"


def compare(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> Paired:
    """Pair the replies of a report (`verify.Reply` as data) by their question; those without an answer or a mark are left out."""
    first, second = marks(before), marks(after)
    pairs = [(first[question], second[question]) for question in first if question in second]
    return Paired(len(pairs), sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs))


def marks(replies: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Return which questions were answered, and whether rightly."""
    return {reply["question"]: reply["right"] for reply in replies if reply["right"] is not None and not reply["error"]}
