"""Writes the demo's data: sums of two two-digit numbers, each with its reasoning by columns; the same bytes on every run.

    python recipes/data/make_sums.py [FOLDER]

The pairs {a, b} of the held-out file are in no training row, in neither order and in no wording.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

SEED = 3407
TRAINING_ROWS, HELD_OUT_ROWS = 2400, 240
WORDINGS = ("What is {a} + {b}?", "What is {a} plus {b}?", "How much is {a} + {b}?", "Add {a} and {b}.")
Pair = tuple[int, int]


def row(a: int, b: int, wording: str) -> dict[str, str]:
    """Return one row: the question, the sum worked out by tens and ones, the answer, and the number a machine checks."""
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    thought = f"Tens: {a // 10 * 10}+{b // 10 * 10}={tens}. Ones: {a % 10}+{b % 10}={ones}. Together: {tens}+{ones}={tens + ones}."
    question = wording.format(a=a, b=b)
    return {"Question": question, "Complex_CoT": thought, "Response": str(tens + ones), "Expected": str(tens + ones)}


def split(seed: int = SEED) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the training and the held-out rows."""
    chance = random.Random(seed)
    pairs = list(itertools.combinations_with_replacement(range(10, 100), 2))
    chance.shuffle(pairs)
    rows = [_varied(pair, chance) for pair in pairs[: TRAINING_ROWS + HELD_OUT_ROWS]]
    return rows[HELD_OUT_ROWS:], rows[:HELD_OUT_ROWS]


def _varied(pair: Pair, chance: random.Random) -> dict[str, str]:
    a, b = pair if chance.random() < 0.5 else pair[::-1]
    return row(a, b, chance.choice(WORDINGS))


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
