"""Writes the demo's data: sums up to 99 of two two-digit numbers, each with its reasoning by columns; the same bytes on every run.

    python recipes/data/make_sums.py [FOLDER]

The pairs {a, b} of the held-out file are in no training row, in neither order and in no wording. The spaces around + and = are
how the base model has read sums: without them it learns the task worse.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

SEED = 3407
HELD_OUT_PAIRS = 120
WORDINGS = ("What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "Add {a} and {b}.")
Pair = tuple[int, int]


def row(a: int, b: int, wording: str) -> dict[str, str]:
    """Return one row: the question, the sum worked out by tens and ones, the answer, and the number a machine checks."""
    left, right, ones = a // 10 * 10, b // 10 * 10, a % 10 + b % 10
    tens = left + right
    thought = f"Tens: {left} + {right} = {tens}. Ones: {a % 10} + {b % 10} = {ones}. Together: {tens} + {ones} = {a + b}."
    return {"Question": wording.format(a=a, b=b), "Complex_CoT": thought, "Response": str(a + b), "Expected": str(a + b)}


def split(seed: int = SEED) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training and the held-out rows, each pair in both orders."""
    chance = random.Random(seed)
    pairs = [pair for pair in itertools.combinations_with_replacement(range(10, 90), 2) if sum(pair) <= 99]
    chance.shuffle(pairs)
    return _rows(pairs[HELD_OUT_PAIRS:], chance), _rows(pairs[:HELD_OUT_PAIRS], chance)


def _rows(pairs: list[Pair], chance: random.Random) -> list[dict[str, str]]:
    ordered = [order for a, b in pairs for order in dict.fromkeys(((a, b), (b, a)))]
    return [row(a, b, chance.choice(WORDINGS)) for a, b in chance.sample(ordered, len(ordered))]


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """Write both files into a folder."""
    training, held_out = split()
    write(folder / "sums-train.jsonl", training)
    write(folder / "sums-holdout.jsonl", held_out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
