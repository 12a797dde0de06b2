"""The base as a training in NF4 saw it: each linear layer's weights quantised and back, as bitsandbytes does it, row by row and without the model.

The adapter was trained around the errors of that quantisation; merged onto these weights it says what the trained model says, merged onto the
original ones it meets a better base that it never saw. Which of the two is nearer is measured (candidates.py).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import torch
from adapter_delta import blocks
from tensor_files import Checkpoint, Weight

BLOCK, NESTED = 64, 256
"""Weights a scale, and scales a scale: bitsandbytes' own for NF4 with quantised constants, which trl_engine.py and unsloth use."""


@dataclass(frozen=True, eq=False)
class QuantizedWeight(Weight):
    """A weight of 16 or 32 bits, read as NF4 holds it."""

    kind: torch.dtype
    """Type in which the training held the base, and to which it dequantised."""

    @property
    def step(self) -> int:
        """Rows after which a block of weights ends with a row."""
        return BLOCK // math.gcd(self.columns, BLOCK)

    def decode(self, raw: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """Return rows, quantised and dequantised, in the training's type."""
        from bitsandbytes import functional

        rows = super().decode(raw, first, last).to(self.kind)
        packed, state = functional.quantize_4bit(rows, blocksize=BLOCK, compress_statistics=False, quant_type="nf4")
        block = first * self.columns // BLOCK
        state.absmax = _scales(self)[block : block + state.absmax.numel()].to(rows.device)
        return functional.dequantize_4bit(packed, state).view(last - first, self.columns)


@lru_cache(maxsize=6)
def _scales(weight: QuantizedWeight) -> torch.Tensor:
    """Return the scales as they come back from their own quantisation."""
    from bitsandbytes import functional

    found = []
    for first, last in blocks(weight):
        rows = Weight.decode(weight, weight.raw(first, last), first, last).to(weight.kind)
        found.append(functional.quantize_4bit(rows, blocksize=BLOCK, compress_statistics=False, quant_type="nf4")[1].absmax)
    largest = torch.cat(found)
    offset = largest.mean()
    return functional.dequantize_blockwise(*functional.quantize_blockwise(largest - offset, blocksize=NESTED)) + offset


def as_trained(base: Checkpoint, modules: list[str], kind: torch.dtype) -> Checkpoint:
    """Return the checkpoint with the named modules' weights as NF4 holds them."""
    made = copy.copy(base)
    made.weights = dict(base.weights)
    for name in (f"{module}.weight" for module in modules):
        weight = base.weights[name]
        values = {field.name: getattr(weight, field.name) for field in fields(Weight)}
        made.weights[name] = QuantizedWeight(**values, kind=kind)
    return made


def quantized_modules(folder: Path) -> list[str]:
    """Return the linear layers that transformers quantises when it loads a checkpoint in 4 bits. Loads transformers, and no weights."""
    import trl_engine
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    skipped = get_keys_to_not_convert(model)
    replace_with_bnb_linear(model, skipped, trl_engine.nf4(torch.float32, torch.uint8))
    return [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
