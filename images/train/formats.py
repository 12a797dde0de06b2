"""The formats in which a checkpoint can lie on the disk for vLLM, each with the library that makes it.

compressed-tensors (w4a16, int8, fp8-dynamic) are made by llm-compressor, the format's own project; bnb-nf4-stored is what transformers saves of a
model that bitsandbytes has quantised, double quantisation and all. Linear layers are quantised, embeddings and the output layer stay in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_model
from program import INVALID, ProgramError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

OUTPUT = "lm_head"
"""The output layer: often the embedding's own weights, and dear to get wrong."""
GROUPS = (128, 64, 32)
"""Weights that share a scale in w4a16, the largest that divides every layer's width is taken; vLLM's kernels know these."""

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Wanted:
    """What a format is made with: token ids of the rows it is calibrated on, their longest, and layers left alone beside the output layer."""

    rows: Rows
    length: int
    ignore: tuple[str, ...]


def bnb_nf4(model: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    """Quantise with bitsandbytes while loading, and save what was quantised."""
    skipped = [OUTPUT, *wanted.ignore]
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )
    loaded = AutoModelForCausalLM.from_pretrained(model, quantization_config=settings, dtype=torch.bfloat16)
    if not any(type(module).__name__ == "Linear4bit" for module in loaded.modules()):
        raise ProgramError("no layer is left to quantise", "shorten compress.ignore", INVALID)
    loaded.save_pretrained(target)
    return {"ignored": skipped}


def w4a16(model: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    """Four bits a weight in groups, by GPTQ; computed in 16 bits."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier

    loaded = _load(model)
    group = _group(loaded, wanted)
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=group)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    _compress(loaded, target, wanted, GPTQModifier(config_groups={"group_0": scheme}, ignore=_ignored(wanted)))
    return {"ignored": _ignored(wanted), "group_size": group}


def int8(model: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    """Eight bits a weight, by GPTQ, and eight a value that is computed with, scaled token by token."""
    from llmcompressor.modifiers.gptq import GPTQModifier

    _compress(_load(model), target, wanted, GPTQModifier(targets="Linear", scheme="W8A8", ignore=_ignored(wanted)))
    return {"ignored": _ignored(wanted)}


def fp8_dynamic(model: Path, target: Path, wanted: Wanted) -> dict[str, Any]:
    """Eight-bit floating point, a scale for each row of weights and each token: nothing is calibrated."""
    from llmcompressor.modifiers.quantization import QuantizationModifier

    modifier = QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=_ignored(wanted))
    _compress(_load(model), target, Wanted((), wanted.length, wanted.ignore), modifier)
    return {"ignored": _ignored(wanted)}


FORMATS: Mapping[str, Callable[[Path, Path, Wanted], dict[str, Any]]] = {
    "bnb-nf4-stored": bnb_nf4,
    "w4a16": w4a16,
    "int8": int8,
    "fp8-dynamic": fp8_dynamic,
}


def _load(model: Path) -> Any:
    """Return the model in its own 16 bits: scales are stored in the type of the weights, and must be found in it."""
    return load_model(model, "auto")


def _ignored(wanted: Wanted) -> list[str]:
    return [OUTPUT, *(name if name.startswith("re:") else f"re:.*{name}$" for name in wanted.ignore)]


def _group(loaded: Any, wanted: Wanted) -> int:
    """Return the size of w4a16's groups; ProgramError where none divides every layer."""
    widths = {module.in_features for name, module in loaded.named_modules() if isinstance(module, torch.nn.Linear) and name != OUTPUT}
    fitting = [size for size in GROUPS if all(width % size == 0 for width in widths)]
    if not fitting:
        message = f"w4a16 cuts a layer's width into groups of {GROUPS[-1]} and more, which do not divide {sorted(widths)}"
        raise ProgramError(message, "serve another format: int8, fp8-dynamic or bnb-nf4-stored", INVALID)
    return fitting[0]


def _compress(loaded: Any, target: Path, wanted: Wanted, modifier: Any) -> None:
    """Run llm-compressor's one pass over the rows, and save the weights in their few bits."""
    from datasets import Dataset
    from llmcompressor import oneshot

    given: dict[str, Any] = {}
    if wanted.rows:
        rows = Dataset.from_dict({"input_ids": list(wanted.rows), "attention_mask": [[1] * len(row) for row in wanted.rows]})
        given = {"dataset": rows, "num_calibration_samples": len(wanted.rows), "max_seq_length": wanted.length, "shuffle_calibration_samples": False}
    oneshot(model=loaded, recipe=modifier, **given)
    loaded.save_pretrained(target, save_compressed=True)
