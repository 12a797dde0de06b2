"""The loss at the completion's positions only, as the model's own forward pass: so it is computed inside whatever wraps the model (DDP, FSDP),
and no logits are made where nothing is learnt.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

IGNORED = -100
"""Label of a token that carries no loss."""
LOGITS_AT_ONCE = 1 << 26
"""Logits made at a time, 256 MiB in 32 bits; beyond, they are made piece by piece, and again in the backward pass instead of being kept."""


def replace_forward(model: Any) -> None:
    """Let calling the adapted model return the summed cross-entropy of a batch's supervised tokens, a scalar."""
    core = model.get_base_model()
    core.forward = MethodType(summed_loss, core)


def summed_loss(core: Any, input_ids: torch.Tensor, labels: torch.Tensor, row_lengths: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
    """Return the summed cross-entropy at supervised positions; `row_lengths` where rows lie one after the other in one sequence.

    The output layer of a small model is its largest. TRL 1.16 scores every position on a CPU, and its fused head does not take
    one with trainable rows.
    """
    kept = {name: inputs[name] for name in ("attention_mask", "position_ids") if inputs.get(name) is not None}
    if row_lengths is not None:
        kept |= {"row_lengths": row_lengths.tolist(), "packed_seq_lengths": row_lengths}  # row_attention.py's name, and unsloth's
    hidden = core.model(input_ids=input_ids, use_cache=False, **kept).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    supervised = targets != IGNORED
    return _cross_entropy(core, hidden[supervised], targets[supervised])


def _cross_entropy(core: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    head, positions = core.get_output_embeddings(), max(1, LOGITS_AT_ONCE // core.config.vocab_size)
    if len(targets) <= positions:
        return _piece(head, hidden, targets)
    pieces = zip(hidden.split(positions), targets.split(positions), strict=True)
    return torch.stack([checkpoint(_piece, head, *piece, use_reentrant=False) for piece in pieces]).sum()


def _piece(head: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(output_logits(head, hidden).float(), targets, reduction="sum")


def output_logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits [positions, vocabulary]; trainable rows of the head get their gradient without one for the whole matrix.

    PEFT's own pass copies the rows into the matrix, whose gradient of vocabulary x width is then computed for the sake of two rows.
    """
    rows = getattr(head, "token_adapter", None)
    if rows is None:
        logits: torch.Tensor = head(hidden)
        return logits
    logits = linear(hidden, rows.base_layer.weight)
    for name in rows.active_adapters:
        index = torch.tensor(rows.token_indices[name], device=logits.device)
        logits = logits.index_copy_(1, index, linear(hidden, rows.trainable_tokens_delta[name]))
    return logits
