"""How far one model's choices are from another's on given rows: Kullback-Leibler divergence, the same likeliest token, perplexity.

The figures are those that images/convert/check_gguf.py takes of GGUF files, so that all formats of a model stand in one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

Rows = Sequence[tuple[Sequence[int], int]]
"""Token ids of prompt and completion together, each with the length of its prompt."""


def log_probabilities(model: Any, rows: Rows) -> Iterator[torch.Tensor]:
    """Yield the natural log-probabilities [tokens, vocabulary] with which a model predicts each row's completion, in 32 bits."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        for ids, prompt in rows:
            logits = model(input_ids=torch.tensor([list(ids)], device=device)).logits[0, prompt - 1 : -1]
            yield logits.float().log_softmax(-1).cpu()


def measure(reference: Iterable[torch.Tensor], found: Iterable[torch.Tensor], rows: Rows) -> dict[str, float]:
    """Return mean and 99 % KL in nats a token, the share of the same likeliest token, both perplexities, and how much the second has grown."""
    divergences, same, losses = [], [], []
    for one, other, (ids, prompt) in zip(reference, found, rows, strict=True):
        wanted = torch.tensor(list(ids[prompt:])).unsqueeze(-1)
        divergences.append((one.exp() * (one - other)).sum(-1))
        same.append(one.argmax(-1) == other.argmax(-1))
        losses.append(torch.stack([-one.gather(-1, wanted), -other.gather(-1, wanted)]).squeeze(-1))
    apart, perplexities = torch.cat(divergences), torch.cat(losses, dim=-1).double().mean(-1).exp()
    return {
        "mean_kl": float(apart.double().mean()),
        "p99_kl": float(apart.quantile(0.99)),
        "top1": float(torch.cat(same).double().mean()),
        "perplexity": float(perplexities[1]),
        "reference_perplexity": float(perplexities[0]),
        "perplexity_growth": float(perplexities[1] / perplexities[0]) - 1,
        "tokens": int(apart.shape[0]),
    }
