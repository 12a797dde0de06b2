"""Hold NF4 weights as tensor_files.py and trained_base.py read them against bitsandbytes': `merge_nf4.py FOLDER`.

Runs in the train environment. Each line is a JSON object: the type, whether constants are quantised too, whether the checkpoint itself is in NF4, the
number of weights and of those that differ in a bit. Columns of 544 end within a block of 64; two modules are left in 16 bits, as dynamic quants do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import torch
from bitsandbytes.functional import dequantize_4bit
from tensor_files import Checkpoint, Weight
from trained_base import as_trained, quantized_modules
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.utils import logging

SKIPPED = ["lm_head", "model.layers.1.mlp.down_proj"]


def other(weight: Weight, wanted: torch.Tensor) -> bool:
    """Say whether a weight differs, whole or by rows."""
    part = slice(weight.step * 4, weight.step * 8)
    rows = weight.read(part.start, part.stop)
    return not (torch.equal(weight.tensor(), wanted) and torch.equal(rows, wanted.view(weight.rows, -1)[part]))


def quantized(base: Path, kind: torch.dtype, nested: bool, skipped: list[str] | None) -> Any:
    """Load the base in NF4."""
    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": kind}
    wanted = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skipped, **settings)
    return AutoModelForCausalLM.from_pretrained(base, dtype=kind, quantization_config=wanted, device_map="cpu")


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Return what bitsandbytes dequantises."""
    modules = {name: module.weight for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    return {f"{name}.weight": dequantize_4bit(weight.data, weight.quant_state) for name, weight in modules.items()}


def tell(kind: torch.dtype, nested: bool, stored: bool, checkpoint: Checkpoint, wanted: dict[str, torch.Tensor]) -> None:
    """Print one line."""
    wrong = sum(other(checkpoint.weights[name], value) for name, value in wanted.items())
    print(json.dumps({"kind": str(kind), "nested": nested, "stored": stored, "weights": len(wanted), "other": wrong}))  # noqa: T201


def main() -> None:
    """Compare all."""
    folder = Path(sys.argv[1])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sizes = {"vocab_size": 96, "hidden_size": 256, "intermediate_size": 544, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **sizes)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder / "base")
    for kind in (torch.bfloat16, torch.float32, torch.float16):
        for nested in (False, True):
            model = quantized(folder / "base", kind, nested, SKIPPED)
            model.save_pretrained(folder / f"{kind}-{nested}")
            tell(kind, nested, True, Checkpoint(folder / f"{kind}-{nested}"), weights(model))
    modules = quantized_modules(folder / "base")
    for kind in (torch.bfloat16, torch.float32):
        wanted = weights(quantized(folder / "base", kind, True, [*SKIPPED[:1], *SKIPPED[1:]]))
        tell(kind, True, False, as_trained(Checkpoint(folder / "base"), [name for name in modules if name not in SKIPPED], kind), wanted)


if __name__ == "__main__":
    main()
