"""Models in memory, and what they say of held-out rows: where a model fits, how it is loaded, how far two are apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_model
from merged_checkpoint import available_memory

ROOM = 1.2
"""Memory a model takes while it answers, as a multiple of its weights."""
LEAST = 1 << 30


@dataclass(frozen=True)
class Place:
    """Where a model is loaded, and in which type."""

    device: str
    dtype: torch.dtype


def place_for(parameters: int) -> Place | None:
    """Return where a model fits: in 32 bits on a GPU or in memory, else in 16 bits on a GPU; None where it does not."""
    gpu = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    for device, dtype, room in (("cuda", torch.float32, gpu), ("cpu", torch.float32, available_memory()), ("cuda", torch.bfloat16, gpu)):
        if parameters * dtype.itemsize * ROOM + LEAST <= room:
            return Place(device, dtype)
    return None


def load(folder: Path, place: Place) -> Any:
    """Return a checkpoint's model; ProgramError (6) unless its files hold exactly the model's weights."""
    return load_model(folder, place.dtype, place.device)


def texts_of(rows: list[dict[str, str]], tokenizer: Any) -> list[tuple[torch.Tensor, int]]:
    """Return token ids of held-out rows, each with the length of its prompt."""
    pairs = [[tokenizer.encode(row[part], add_special_tokens=False) for part in ("prompt", "completion")] for row in rows]
    return [(torch.tensor([prompt + completion]), len(prompt)) for prompt, completion in pairs]


def logits_of(model: Any, texts: list[tuple[torch.Tensor, int]]) -> Iterator[torch.Tensor]:
    """Yield the logits [tokens, vocabulary] that predict each text's completion."""
    device = next(model.parameters()).device
    for ids, prompt in texts:
        with torch.inference_mode():
            found = model(input_ids=ids.to(device)).logits[0, prompt - 1 : -1].float().cpu()
        yield found


def compare(wanted: list[torch.Tensor], found: Iterator[torch.Tensor]) -> dict[str, Any]:
    """Return how far two models' logits are apart, and how often both would choose the same token."""
    apart, same = [], []
    for one, other in zip(wanted, found, strict=True):
        apart.append((one - other).abs())
        same.append(one.argmax(-1) == other.argmax(-1))
    distances = torch.cat(apart)
    return {
        "max_logit_difference": round(float(distances.max()), 6),
        "mean_logit_difference": round(float(distances.mean()), 6),
        "agreement": round(float(torch.cat(same).float().mean()), 6),
        "texts": len(wanted),
        "positions": int(distances.shape[0]),
    }
