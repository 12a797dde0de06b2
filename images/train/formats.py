"""The formats in which a checkpoint can lie on the disk for vLLM, each with the library that makes it.

compressed-tensors (w4a16, int8, fp8-dynamic) are made by llm-compressor, the format's own project; bnb-nf4-stored is what transformers saves of a
model that bitsandbytes has quantised, double quantisation and all. Linear layers are quantised, embeddings and the output layer stay in 16 bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_model
from program import INVALID, ProgramError
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

OUTPUT = "lm_head"
"""The output layer: often the embedding's own weights, and dear to get wrong."""
GROUPS = (128, 64, 32)
"""Weights that share a scale in w4a16, the largest that divides every layer's width is taken; vLLM's kernels know these."""

BATCH = 16
"""Rows in one pass of the calibration."""

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Wanted:
    """What a format is made with: token ids of the rows it is calibrated on, and layers left alone beside the output layer."""

    rows: Rows
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
    _compress(loaded, target, wanted, GPTQModifier(config_groups={"group_0": scheme}, ignore=_ignored(wanted)), scales_in_16_bits=True)
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
    _compress(_load(model), target, Wanted((), wanted.ignore), modifier)
    return {"ignored": _ignored(wanted)}


FORMATS: Mapping[str, Callable[[Path, Path, Wanted], dict[str, Any]]] = {
    "bnb-nf4-stored": bnb_nf4,
    "w4a16": w4a16,
    "int8": int8,
    "fp8-dynamic": fp8_dynamic,
}


def batched(rows: Rows) -> Iterator[torch.Tensor]:
    """Yield the rows as tensors [rows, tokens], equal lengths together: a pass over a single short row costs nearly as much, and filler would be
    calibrated on like words.
    """
    for _, same in itertools.groupby(sorted(rows, key=len), key=len):
        yield from torch.tensor([list(row) for row in same]).split(BATCH)


def _inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _load(model: Path) -> Any:
    """Return the model in its own 16 bits for a GPU, in 32 for a CPU, which computes many times slower in 16."""
    return load_model(model, "auto" if torch.cuda.is_available() else torch.float32)


def _in_16_bits(loaded: Any, scales: bool) -> None:
    """Round what is not quantised to 16 bits, and the scales where vLLM reads them so: weights of four bits stay the same multiples of them, those of
    eight would not.
    """
    for module in loaded.modules():
        quantised = hasattr(module, "weight_scale")
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and (not quantised or (scales and name == "weight_scale")):
                parameter.data = parameter.data.to(torch.bfloat16)


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


def _compress(loaded: Any, target: Path, wanted: Wanted, modifier: Any, scales_in_16_bits: bool = False) -> None:
    """Run llm-compressor's one pass over the rows, and save the weights in their few bits."""
    from llmcompressor import oneshot

    given: dict[str, Any] = {}
    if wanted.rows:
        batches = list(batched(wanted.rows))
        loader: Any = DataLoader(batches, batch_size=None, collate_fn=_inputs)
        given = {"dataset": loader, "num_calibration_samples": len(batches), "max_seq_length": max(map(len, wanted.rows))}
    oneshot(model=loaded, recipe=modifier, **given)
    _in_16_bits(loaded, scales_in_16_bits)
    loaded.save_pretrained(target, save_compressed=True)
