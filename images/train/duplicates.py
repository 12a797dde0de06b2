"""Questions that are the same but for case and space, and those that are nearly the same: at least 0.8 of their shingles of three words in common.

The near ones are found exactly, without hashing and without a random choice: prefix filtering, as in Bayardo, Ma and Srikant, "Scaling up all
pairs similarity search" (2007). Two texts that similar share one of the rarest shingles of each. Figures count as words, so that 2 + 2 and
2 + 3 differ. It does not see a question in other words.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

LEAST = 0.8
"""Share of shingles in common, as a part of all of both (Jaccard), from which on two questions are near."""
WIDTH = 3
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\w\s]")
"""A word, a sign, or a character of a script that is written without spaces."""


@dataclass(frozen=True)
class Near:
    """Two questions by their numbers, and how much of them is common."""

    one: int
    other: int
    share: float


def same(question: str) -> str:
    """Return what two questions share that differ in case and space only."""
    return " ".join(question.casefold().split())


def shingles(question: str) -> frozenset[int]:
    """Return the runs of three words, of a shorter question the whole."""
    words = WORD.findall(question.casefold())
    return frozenset(hash(tuple(words[start : start + WIDTH])) for start in range(max(len(words) - WIDTH, 0) + 1))


def near(questions: Sequence[str], known: Sequence[str] | None = None) -> Iterator[Near]:
    """Yield for each question the first of `known` that is near it; without `known`, the first of the questions before it."""
    sets = [shingles(question) for question in questions]
    others = sets if known is None else [shingles(question) for question in known]
    count = Counter(chain.from_iterable(sets if known is None else [*sets, *others]))
    index: dict[int, list[int]] = defaultdict(list)
    if known is not None:
        for number, other in enumerate(others):
            _enter(index, number, _rarest(other, count))
    for number, one in enumerate(sets):
        rarest = _rarest(one, count)
        candidates = sorted({candidate for shingle in rarest for candidate in index.get(shingle, ())})
        found = next((hit for hit in candidates if _share(one, others[hit]) >= LEAST), None)
        if found is not None:
            yield Near(number, found, round(_share(one, others[found]), 3))
        if known is None:
            _enter(index, number, rarest)


def _enter(index: dict[int, list[int]], number: int, rarest: list[int]) -> None:
    for shingle in rarest:
        index[shingle].append(number)


def _rarest(one: frozenset[int], count: Counter[int]) -> list[int]:
    """Return so many of a text's rarest shingles that a near one must share one of them."""
    shared = math.ceil(LEAST * len(one))
    return sorted(one, key=lambda shingle: (count[shingle], shingle))[: len(one) - shared + 1]


def _share(one: frozenset[int], other: frozenset[int]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
