"""The arithmetic on a block of rows: to 32 bits, the adapter's change, one rounding; and on a sample, how much of the change the rounding left.

A weight and its change are added in 32 bits, but what is stored has fewer: a change far below the step between two bfloat16 numbers disappears.
The share that is kept is the projection of (stored - base) on the change: 1 where rounding does no harm, 0 where the adapter is erased.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from adapter_delta import Loaded, rows_at_once
from program import INVALID, ProgramError

SAMPLE = 1 << 14
"""Weights of a block whose change is followed through the rounding."""
NF4_CODE = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""arXiv 2305.14314, appendix E."""


@dataclass
class Sums:
    """Sums over sampled rows of each changed weight."""

    kept: dict[str, list[float]] = field(default_factory=dict)
    """Stored change times change, what rounding to NF4 would leave times change, change squared, of each weight."""

    def add(self, name: str, values: tuple[float, float, float]) -> None:
        """Count one sample."""
        known = self.kept.setdefault(name, [0.0, 0.0, 0.0])
        self.kept[name] = [one + other for one, other in zip(known, values, strict=True)]


class Delta:
    """Turns blocks as they are read into values as they are stored."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.sums = Sums()

    def pieces(self, block: Any) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield values of a block, each with the byte of the block's output at which they begin."""
        item, source = block.item, block.item.source
        begin, size = source.extent(block.first, block.last)
        raw = block.raw.bytes[block.skipped : block.skipped + size]
        if item.change is None and source.dtype == item.dtype and type(source).__name__ == "Weight":
            yield 0, raw.view(source.dtype) if begin % source.dtype.itemsize == 0 else raw.clone().view(source.dtype)
            return
        loaded = item.change.load(self.device) if item.change else None
        tile = rows_at_once(source) if self.device == "cpu" else block.last - block.first
        scratch = torch.empty(min(tile, block.last - block.first), source.columns) if self.device == "cpu" else None
        for first in range(block.first, block.last, tile):
            last = min(first + tile, block.last)
            start, length = source.extent(first, last)
            part = raw[start - begin : start - begin + length]
            rows = source.decode((part if start % 8 == 0 else part.clone()).to(self.device), first, last)
            values = rows.float() if scratch is None else scratch[: last - first].copy_(rows)
            if loaded is not None:
                self._change(item, loaded, values, first, sampled=first == block.first)
            _require_range(item, values)
            yield (first - block.first) * source.columns * item.dtype.itemsize, values if scratch is not None else values.to(item.dtype).cpu()

    def _change(self, item: Any, loaded: Loaded, values: torch.Tensor, first: int, sampled: bool) -> None:
        count = max(1, SAMPLE // item.source.columns)
        before = values[:count].clone() if sampled and (loaded.factors or loaded.rows) else None
        loaded.apply(values, first)
        if before is not None:
            after = values[:count]
            change, rounded = (after - before).double(), after.to(item.dtype).float()
            coarse = rounded if loaded.rows else nf4(after)  # embeddings are not held in 4 bits
            stored, coarse = ((one - before).double() for one in (rounded, coarse))
            self.sums.add(item.name, (float((stored * change).sum()), float((coarse * change).sum()), float((change * change).sum())))


def _require_range(item: Any, values: torch.Tensor) -> None:
    """Raise ProgramError (3) where values cannot be stored."""
    if not torch.isfinite(values.sum()):
        raise ProgramError(f"{item.name}: merged weights are not finite", "train again: the adapter or its base is broken", INVALID)
    if item.dtype == torch.float16 and (largest := float(values.abs().max())) > 65504:
        raise ProgramError(f"{item.name}: float16 cannot hold {largest:.0f}", "set merge.dtype: bfloat16", INVALID)


def nf4(values: torch.Tensor) -> torch.Tensor:
    """Return values as bitsandbytes' NF4 would hold them, in blocks of 64 of a row; a short rest of the row stays as it is."""
    width = values.shape[1] // 64 * 64
    code = torch.tensor(NF4_CODE, device=values.device)
    parts = values[:, :width].reshape(-1, 64)
    largest = parts.abs().amax(1, keepdim=True).clamp_min(1e-30)
    nearest = code[torch.bucketize(parts / largest, (code[1:] + code[:-1]) / 2)] * largest
    return torch.cat((nearest.view(len(values), width), values[:, width:]), dim=1)
