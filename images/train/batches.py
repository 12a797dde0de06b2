"""Rows become batches: tokenised, put in an order in which little is computed on padding, and laid side by side (padded) or one after the
other (padding-free, packed).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from completion_loss import IGNORED
from datasets import Dataset
from program import BROKEN, ProgramError
from trl import pack_dataset

WINDOW = 8
"""Batches among which rows are grouped by length."""
WORDS, NAMED = 8, 16
"""Words of a question, and rows, that a message names."""
Unit = dict[str, list[int]]
"""One row, or the rows of one pack: their tokens and labels, one after the other, their lengths, and their numbers in the file, from 1."""


def tokenized(path: Path, tokenizer: Any, max_length: int) -> list[Unit]:
    """Return the rows of a file as the model sees them; the prompt carries no loss.

    Prompt and completion are tokenised apart, as a server does that sees the prompt alone; over a joint text, tokens could
    reach across the seam.
    """
    units = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        row = json.loads(line)
        prompt, completion = (tokenizer.encode(row[part], add_special_tokens=False) for part in ("prompt", "completion"))
        ids = prompt + completion
        if len(ids) > max_length:
            raise ProgramError(f"a row of {len(ids)} tokens, more than {max_length}", "run the dataset stage again", BROKEN)
        units.append({"input_ids": ids, "labels": [IGNORED] * len(prompt) + completion, "lengths": [len(ids)], "rows": [number]})
    return units


def ordered(rows: list[Unit], batch: int, seed: int) -> list[Unit]:
    """Return the rows shuffled, with rows of similar length in a batch, so that little is computed on padding.

    The trainer's own grouping by length goes from the longest to the shortest rows, which made the last steps unlearn.
    """
    chance = random.Random(seed)
    shuffled = chance.sample(rows, len(rows))
    batches = []
    for start in range(0, len(shuffled), batch * WINDOW):
        window = sorted(shuffled[start : start + batch * WINDOW], key=lambda row: len(row["input_ids"]))
        parts = [window[at : at + batch] for at in range(0, len(window), batch)]
        batches += chance.sample(parts, len(parts))
    batches.sort(key=len, reverse=True)  # the one short batch last
    return [row for part in batches for row in part]


def packed(rows: list[Unit], max_length: int, seed: int) -> list[Unit]:
    """Return packs of whole rows, each at most `max_length` tokens and nearly full (best fit decreasing), shuffled."""
    filled = Dataset.from_dict({"at": [[at] * len(row["input_ids"]) for at, row in enumerate(rows)]})
    packs = [[rows[at] for at in dict.fromkeys(pack["at"])] for pack in pack_dataset(filled, max_length, map_kwargs={"batch_size": None})]
    return random.Random(seed).sample([_joined(pack) for pack in packs], len(packs))


def describe(path: Path, numbers: list[int]) -> str:
    """Return the rows of a file by their numbers, from 1, with the first words of their questions."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number in sorted(set(numbers)):
        row = json.loads(lines[number - 1])
        text = row.get("question") or re.sub(r"<[^<>]*>", " ", row["prompt"])  # a prompt without the template's control tokens
        found.append(f"{number} ({' '.join(text.split()[:WORDS])} …)")
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"{path.name}, row{'s' if len(found) > 1 else ''} {', '.join(found[:NAMED])}{more}"


def _joined(units: Iterable[Unit]) -> Unit:
    together: Unit = {}
    for unit in units:
        for name, values in unit.items():
            together.setdefault(name, []).extend(values)
    return together


@dataclass(frozen=True)
class Padded:
    """Lays rows side by side [rows, longest row], filled up on the right."""

    padding: int
    multiple: int = 1

    def __call__(self, units: list[Unit]) -> dict[str, torch.Tensor]:
        """Return a batch's tensors."""
        longest = max(len(unit["input_ids"]) for unit in units)
        width = -(-longest // self.multiple) * self.multiple
        rest = [width - len(unit["input_ids"]) for unit in units]
        filled = {"input_ids": self.padding, "labels": IGNORED}
        batch = {name: torch.tensor([unit[name] + [value] * more for unit, more in zip(units, rest, strict=True)]) for name, value in filled.items()}
        mask = torch.tensor([[1] * (width - more) + [0] * more for more in rest])
        return {**batch, "attention_mask": mask, "rows": torch.tensor([unit["rows"][0] for unit in units])}


@dataclass(frozen=True)
class Flat:
    """Lays rows one after the other [1, tokens]; the model is told their positions and lengths, and attends inside each row alone."""

    def __call__(self, units: list[Unit]) -> dict[str, torch.Tensor]:
        """Return a batch's tensors."""
        unit = _joined(units)
        positions = torch.cat([torch.arange(length) for length in unit["lengths"]])
        names = {"input_ids": torch.tensor([unit["input_ids"]]), "labels": torch.tensor([unit["labels"]]), "position_ids": positions[None]}
        return {**names, "row_lengths": torch.tensor(unit["lengths"]), "rows": torch.tensor(unit["rows"])}
