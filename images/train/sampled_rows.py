"""Rows of a merged checkpoint held against sums in 64 bits: a proof that needs no model in memory, whatever its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from adapter_delta import Change, Loaded
from program import BROKEN, ProgramError
from shard_writer import Shard
from tensor_files import Checkpoint, Weight

SAMPLE = 1 << 16
"""Weights that are read of each tensor, from its middle."""


def check_rows(shards: list[Shard], folder: Path) -> dict[str, Any]:
    """Compare sampled rows of every tensor; ProgramError (6) where one is further from the exact value than rounding explains."""
    found, counts = Checkpoint(folder), {"tensors": 0, "weights": 0, "other_than_exact": 0, "changed_tensors": 0}
    for shard in shards:
        for item in shard.items:
            first, last = _middle(item.source)
            seen = found.weights[item.name].read(first, last)
            exact = item.source.read(first, last)
            if item.change is not None:
                exact = exact.double()
                _doubled(item.change).apply(exact, first)
            if exact.dtype.is_floating_point:
                _require_near(item.name, seen, exact.double())
            elif not torch.equal(seen, exact):
                raise ProgramError(f"{item.name} is not the base's", "look at the stage's log", BROKEN)
            counts["tensors"] += 1
            counts["changed_tensors"] += item.change is not None
            counts["weights"] += seen.numel()
            counts["other_than_exact"] += int((exact.to(seen.dtype) != seen).sum())
    return counts


def _middle(weight: Weight) -> tuple[int, int]:
    step = weight.step
    count = max(1, SAMPLE // (weight.columns * step)) * step
    first = max(0, (weight.rows - count) // 2 // step * step)
    return first, min(weight.rows, first + count)


def _doubled(change: Change) -> Loaded:
    loaded = change.load()
    factors = [(left.double(), right.double()) for left, right in loaded.factors]
    magnitude = None if loaded.magnitude is None else loaded.magnitude.double()
    return Loaded(change, factors, magnitude, loaded.norms, loaded.rows)


def _require_near(name: str, seen: torch.Tensor, exact: torch.Tensor) -> None:
    """Allow a step of the stored type, and 32-bit noise: a sum just between two numbers may fall to either side."""
    info = torch.finfo(seen.dtype)
    allowed = exact.abs() * info.eps + exact.abs().amax() * 1e-6 + info.tiny
    wrong = ~((seen.double() - exact).abs() <= allowed)  # a NaN is wrong too
    if wrong.any():
        message = f"{name}: {int(wrong.sum())} of {wrong.numel()} sampled weights are not the sum of base and adapter"
        raise ProgramError(message, "look at the stage's log", BROKEN)
