"""Before and after over the same questions: whether what changed is more than chance."""

from __future__ import annotations

from typing import Literal


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


def verdict(gained: int, lost: int, alpha: float = 0.05) -> Literal["improved", "no evidence", "worse"]:
    """Say whether the change is plain at the level `alpha`, and in which direction; errors as `mcnemar`."""
    if mcnemar(gained, lost) >= alpha:
        return "no evidence"
    return "improved" if gained > lost else "worse"
