"""What an adapter does to one weight of its base: computed in 32 bits, for any range of its rows.

Formulas of PEFT 0.21 (tuners/lora/layer.py, dora.py): W + alpha / rank * B A, with rsLoRA alpha / sqrt(rank); DoRA then scales each output's
weights to a length of its own. This file stands unchanged in each folder that merges; a test holds the copies equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from program import INVALID, ProgramError
from tensor_files import Weight

TILE = 1 << 18
"""Weights that are worked on at once: their 32-bit values, 1 MiB, stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Change:
    """What becomes of one weight, as a plan: nothing is loaded yet."""

    source: Weight
    """Where its rows come from: the base, or the adapter, which may hold a whole weight."""
    scale: float = 0.0
    a: Weight | None = None
    b: Weight | None = None
    transposed: bool = False
    """Whether rows are what goes in, as in embeddings and GPT-2's layers."""
    magnitude: Weight | None = None
    experts: int = 1
    """Matrices that the weight is made of, each with factors of its own."""
    part: tuple[int, int, int] | None = None
    """Expert, first row and last row, where the weight is such a part of what was trained as one."""
    rows: Weight | None = None
    indices: tuple[int, ...] = ()

    def load(self, device: str = "cpu") -> Loaded:
        """Read the factors."""
        return _loaded(self, device)


@dataclass
class Loaded:
    """A change with its factors in memory; `apply` adds it to rows of the weight."""

    change: Change
    factors: list[tuple[torch.Tensor, torch.Tensor]]
    """For each expert, left [rows, rank], with its scale, and right [rank, columns]."""
    magnitude: torch.Tensor | None = None
    norms: torch.Tensor | None = None
    """Lengths of the merged columns, where DoRA counts along rows."""
    rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def apply(self, block: torch.Tensor, first: int) -> None:
        """Change rows [n, columns] in 32 bits, in place, of which the first is row `first` of the weight."""
        height = max(1, self.change.source.rows // max(1, len(self.factors)))
        tile = rows_at_once(self.change.source) if block.device.type == "cpu" else len(block)
        for number in range(first // height, -(-(first + len(block)) // height) if self.factors else 0):
            begin, end = max(first, number * height), min(first + len(block), (number + 1) * height)
            left, right = self.factors[number]
            for start in range(begin // tile * tile, end, tile):
                low, high = max(start, begin), min(start + tile, end)
                block[low - first : high - first].addmm_(left[low - number * height : high - number * height], right)
        if self.norms is not None and self.magnitude is not None:
            block *= self.magnitude / self.norms
        elif self.magnitude is not None:
            block *= (self.magnitude[first : first + len(block)] / torch.linalg.norm(block, dim=1))[:, None]
        for number, values in self.rows.items():
            if first <= number < first + len(block):
                block[number - first] = values


@lru_cache(maxsize=6)  # several threads work on the same weight
def _loaded(change: Change, device: str) -> Loaded:
    found = Loaded(change, list(_factors(change, device)))
    if change.magnitude is not None:
        magnitude = _finite(change.magnitude).to(device)
        if change.transposed:
            squares = torch.zeros(change.source.columns, dtype=torch.float64, device=device)
            for first, last in blocks(change.source):
                block = change.source.read(first, last).to(device, torch.float32)
                found.apply(block, first)
                squares += block.double().square().sum(0)
            found.norms = squares.sqrt().float()
        found.magnitude = magnitude
    if change.rows is not None:
        values = _finite(change.rows, change.rows.shape).to(device)
        found.rows = dict(zip(change.indices, values, strict=True))
    return found


def _factors(change: Change, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each expert's factors; PEFT lays A out by experts and ranks, B by ranks and experts (lora/layer.py, ParamWrapper)."""
    if change.a is None or change.b is None:
        return
    a = _finite(change.a, change.a.shape).view(change.experts, -1, change.a.columns)
    b = _finite(change.b, change.b.shape).view(change.b.rows, -1, change.experts)
    number, first, last = change.part or (None, 0, None)
    for expert in range(change.experts) if number is None else (number,):
        left, right = b[:, :, expert] * change.scale, a[expert]
        if change.transposed:
            left, right = right.T * change.scale, b[:, :, expert].T
        yield left[first:last].contiguous().to(device), right.contiguous().to(device)


def _finite(weight: Weight, shape: tuple[int, ...] = (-1,)) -> torch.Tensor:
    values = weight.read().float()
    if not torch.isfinite(values).all():
        raise ProgramError(f"the adapter's {weight.name} holds numbers that are not finite", "train again: this adapter diverged", INVALID)
    return values.view(shape)


def rows_at_once(weight: Weight) -> int:
    """Return the rows of a tile. Blocks of any size are whole tiles, counted from the first row: a matrix product rounds its last rows otherwise than
    others, and the same weight is to get the same sums whoever asks, however much at a time.
    """
    return weight.step * max(1, TILE // (max(1, weight.columns) * weight.step))


def blocks(weight: Weight, size: int = 8 << 20) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows of about `size` bytes in 32 bits."""
    tile = rows_at_once(weight)
    step = tile * max(1, size // (4 * max(1, weight.columns) * tile))
    yield from ((first, min(first + step, weight.rows)) for first in range(0, weight.rows, step))
