"""Engine unsloth: its own loader, kernels and checkpointing under the same trainer; on an NVIDIA GPU alone, in an environment of its own
(unsloth.lock), and imported before every library that it changes.

The import of this module ends with one error where unsloth cannot work: nothing else is taken instead.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from program import BROKEN, INVALID, NOT_READY, ProgramError

FORCE_CPU = "UNSLOTH_FORCE_CPU"
"""unsloth's own setting: with 1 it trains on a CPU, slowly and without packing; for tests."""


def require() -> None:
    """Raise ProgramError (4) where unsloth or its GPU is not here."""
    if importlib.util.find_spec("unsloth") is None:
        message = "train.engine: unsloth is not installed in this environment"
        raise ProgramError(message, "install images/train/unsloth.lock (thinkship does so by itself), or set train.engine: trl", NOT_READY)
    if not torch.cuda.is_available() and os.environ.get(FORCE_CPU) != "1":
        message = "train.engine: unsloth needs an NVIDIA GPU, and none is here"
        raise ProgramError(message, "use a machine with one, or set train.engine: trl", NOT_READY)


os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it would ask a hub
require()
from unsloth import FastLanguageModel  # noqa: E402 - after the check, and before trl, transformers and peft


def trainer_settings() -> dict[str, Any]:
    """Return what differs from the trainer's configuration for trl: unsloth brings its own checkpointing."""
    return {}


def adapted_model(folder: Path, tags: list[int], recipe: dict[str, Any]) -> Any:
    """Return the frozen base with a fresh adapter; ProgramError (3) for packing on a CPU, which unsloth lacks."""
    wanted = recipe["train"]
    if wanted["packing"] != "none" and not torch.cuda.is_available():
        raise ProgramError("train.packing: unsloth does not pack on a CPU", "set train.packing: none", INVALID)
    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=recipe["max_length"],
        load_in_4bit=wanted["quantization"] == "nf4",
        use_exact_model_name=True,  # or it takes another repository than the one that was sealed
        random_state=recipe["seed"],
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=wanted["lora"]["rank"],
        lora_alpha=wanted["lora"]["alpha"],
        lora_dropout=wanted["lora"]["dropout"],
        target_modules=list(wanted["lora"]["target_modules"]),
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=recipe["seed"],
    )
    _give_mask(model)
    require_masks(model, wanted["packing"] != "none")
    return model


def _give_mask(model: Any) -> None:
    """Hand the inner model the causal mask that xformers wants: unsloth's own forward of the whole model does so, and ours takes its place."""
    inner = model.get_base_model().model
    if not torch.cuda.is_available():
        return  # its models for a CPU are transformers' own
    from unsloth.utils.attention_dispatch import HAS_XFORMERS

    if HAS_XFORMERS and "causal_mask" in inspect.signature(inner.forward).parameters:
        from xformers.ops.fmha.attn_bias import LowerTriangularMask

        mask = LowerTriangularMask()
        inner.register_forward_pre_hook(lambda module, given, named: (given, {"causal_mask": mask, **named}), with_kwargs=True)


def require_masks(model: Any, packed: bool) -> None:
    """Raise ProgramError (6) where a token sees those after it or another row's.

    unsloth chooses among attention kernels by what is installed, and one of them masks only what it is told to.
    """
    inner = model.get_base_model().model.train()
    device = next(model.parameters()).device
    tokens = torch.arange(8, 24, device=device)[None]
    rows = {"position_ids": torch.arange(8, device=device).repeat(2)[None], "packed_seq_lengths": torch.tensor([8, 8], device=device)}

    def moved(changed: int, kept: slice, **inputs: Any) -> bool:
        other = tokens.index_fill(1, torch.tensor([changed], device=device), 7)
        with torch.no_grad():
            first, second = (inner(input_ids=ids, use_cache=False, **inputs).last_hidden_state[:, kept] for ids in (tokens, other))
        return not torch.allclose(first, second, rtol=0.05, atol=0.05)

    if moved(15, slice(0, 15)) or (packed and moved(3, slice(8, 16), **rows)):
        message = "unsloth's attention lets a token see what it must not: those after it, or another row's"
        raise ProgramError(message, "use train.engine: trl, and report this with the versions in images/train/unsloth.lock", BROKEN)
