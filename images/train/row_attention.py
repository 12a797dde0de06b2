"""Attention for several rows that lie one after the other in one sequence: each row attends to itself alone.

The sequence is cut at the rows' ends and each piece goes through torch's own causal attention. So no mask over rows x rows is built, nothing
is computed that a mask would throw away, and on a GPU each piece takes the FlashAttention kernel that torch carries; no other package is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from program import INVALID, ProgramError
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "thinkship_rows"
"""What a model's `attn_implementation` calls it; transformers builds no mask for a name that it has no mask for."""


def register() -> str:
    """Make it known to transformers, and return its name."""
    AttentionInterface.register(NAME, attend)
    return NAME


def attend(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: None, row_lengths: list[int], **settings: Any
) -> tuple[torch.Tensor, None]:
    """Return the attention's output [1, tokens, heads, width] of a sequence of rows whose lengths are given."""
    kept = {name: settings[name] for name in ("dropout", "scaling") if name in settings}
    pieces = zip(*(states.split(row_lengths, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, *piece, None, is_causal=True, **kept)[0] for piece in pieces], dim=1), None


def check_window(config: Any, longest: int) -> None:
    """Refuse a model whose layers see fewer tokens back than its longest row has: that window is not kept here."""
    window = getattr(config, "sliding_window", None)
    if window and window < longest:
        message = f"train.packing: this model attends to {window} tokens back, and rows have up to {longest}"
        raise ProgramError(message, f"use train.packing: none, or dataset.max_length: {window}", INVALID)
