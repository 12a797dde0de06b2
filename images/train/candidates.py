"""Which base to merge onto, measured: what a merge onto the original weights and one onto the weights that the training saw say of held-out rows,
against the trained model itself, its base in NF4 and its adapter apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import trl_engine
from adapter import Adapter
from logits import Place, load, logits_of
from peft import PeftModel
from tensor_files import Checkpoint
from trained_base import as_trained, quantized_modules
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Trained:
    """A training's outcome: where its base and adapter lie, and how it held the base."""

    base: Path
    adapter: Path
    stored_nf4: bool
    """The checkpoint itself is in NF4."""
    nf4: bool
    kind: str
    """Type in which it computed, as torch names it."""


def trained_model(trained: Trained, place: Place) -> Any:
    """Return the trained model: the base as the training held it, the adapter apart."""
    kind = getattr(torch, trained.kind)
    settings = {} if trained.stored_nf4 else {"quantization_config": trl_engine.nf4(kind, torch.uint8)}
    model = AutoModelForCausalLM.from_pretrained(trained.base, dtype=kind, device_map={"": place.device}, **settings)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # see trl_engine.py
    return PeftModel.from_pretrained(model, trained.adapter).eval()


def bases(trained: Trained) -> dict[str, Checkpoint]:
    """Return the checkpoints that the adapter can be merged onto, by the names that merge.base gives them."""
    stored = Checkpoint(trained.base)
    if trained.stored_nf4:
        return {"dequantised": stored}
    return {"original": stored, "dequantised": as_trained(stored, quantized_modules(trained.base), getattr(torch, trained.kind))}


def compare_candidates(trained: Trained, dtype: str, texts: list[tuple[torch.Tensor, int]], place: Place) -> dict[str, Any]:
    """Return for each candidate its mean KL divergence from the trained model, in nats a token, and how often both find the same token likeliest."""
    wanted = list(logits_of(trained_model(trained, place), texts))
    model = None
    found = {}
    for name, base in bases(trained).items():
        model = model or _empty(trained, place)
        fill(model, base, Adapter(base, trained.adapter), getattr(torch, dtype))
        found[name] = closeness(wanted, logits_of(model, texts))
    return found


def _empty(trained: Trained, place: Place) -> Any:
    if not trained.stored_nf4:
        return load(trained.base, place)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(trained.base)
    del config.quantization_config
    return AutoModelForCausalLM.from_config(config, dtype=place.dtype).to(place.device).eval()


def fill(model: Any, base: Checkpoint, adapter: Adapter, dtype: torch.dtype) -> None:
    """Give a model the weights that a merge would write."""
    for name, weight in model.state_dict().items():
        if name in base.weights:
            merged = adapter.tensor(name)
            weight.copy_((base.weights[name].tensor() if merged is None else merged).to(dtype))


def closeness(wanted: list[torch.Tensor], found: Iterator[torch.Tensor]) -> dict[str, float]:
    """Return how near a model's logits are to others."""
    kl, same = [], []
    for one, other in zip(wanted, found, strict=True):
        kl.append(torch.nn.functional.kl_div(other.log_softmax(-1), one.log_softmax(-1), reduction="none", log_target=True).sum(-1))
        same.append(one.argmax(-1) == other.argmax(-1))
    return {"mean_kl": round(float(torch.cat(kl).mean()), 7), "top1": round(float(torch.cat(same).float().mean()), 6)}
