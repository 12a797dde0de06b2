"""An HF checkpoint folder, as every stage of this room reads and writes it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from program import BROKEN, ProgramError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

REPORTED = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
"""Parts of transformers' loading report; a checkpoint that loads strictly leaves them all empty."""


def load_tokenizer(folder: Path) -> Any:
    """Return a checkpoint's tokenizer, with the chat template that lies beside it."""
    return AutoTokenizer.from_pretrained(folder)


def load_model(folder: Path, dtype: Any = torch.float32, device: str | None = None) -> Any:
    """Return a checkpoint to compute with, on a device where one is named.

    ProgramError (6) unless its files can be read and hold exactly the model's weights.
    """
    where: dict[str, Any] = {"device_map": {"": device}} if device else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, **where)
    except SafetensorError as error:
        raise ProgramError(f"the weights in {folder} cannot be read: {error}", "make the step again: remove its directory", BROKEN) from None
    problems = [f"{name} {sorted(map(str, report[name]))[:3]}" for name in REPORTED if report[name]]
    if problems:
        raise ProgramError(f"{folder.name} does not load strictly: {'; '.join(problems)}", "look at the stage's log", BROKEN)
    return model.eval()


def save_model(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write weights and config, rounded once to `dtype`."""
    model.config.dtype = dtype
    model.to(dtype).save_pretrained(folder, max_shard_size="5GB")
    share(folder)


def share(folder: Path) -> None:
    """Give the files the mode of any new file: safetensors writes them for their owner alone, and the next stage may run as another user."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def parameters(folder: Path) -> int:
    """Count the parameters that lie in a checkpoint's safetensors files, by their headers alone."""
    return sum(_parameters_in(path) for path in folder.glob("*.safetensors"))


def _parameters_in(path: Path) -> int:
    with path.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return sum(torch.Size(shape).numel() for shape in shapes)
