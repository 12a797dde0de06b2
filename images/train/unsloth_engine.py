"""Engine unsloth: its own loader, kernels and checkpointing under the same trainer; on an NVIDIA GPU alone, in an environment of its own
(unsloth.lock), and imported before every library that it changes.

The import of this module ends with one error where unsloth cannot work: nothing else is taken instead.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from program import INVALID, NOT_READY, ProgramError

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
    return FastLanguageModel.get_peft_model(
        model,
        r=wanted["lora"]["rank"],
        lora_alpha=wanted["lora"]["alpha"],
        lora_dropout=wanted["lora"]["dropout"],
        target_modules=list(wanted["lora"]["target_modules"]),
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=recipe["seed"],
    )
