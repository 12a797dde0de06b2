"""Engine trl: transformers loads the base, in NF4 or as it is, and PEFT lays the adapter over it; runs on a CPU too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import row_attention
import torch
from peft import LoraConfig, get_peft_model
from program import INVALID, ProgramError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def trainer_settings() -> dict[str, Any]:
    """Return this engine's own settings of the trainer."""
    return {"gradient_checkpointing": torch.cuda.is_available()}


def adapted_model(folder: Path, tags: list[int], recipe: dict[str, Any]) -> Any:
    """Return the frozen base with a fresh adapter, and trainable rows for the tags where they were added to the vocabulary."""
    wanted, on_gpu = recipe["train"], torch.cuda.is_available()
    kind = torch.bfloat16 if on_gpu else torch.float32  # a CPU without AVX512-BF16 is seven times slower in bfloat16
    sharded = wanted["processes"] > 1 and wanted["distributed"] != "ddp"
    quantized = {"quantization_config": nf4(kind, kind if sharded else torch.uint8)} if wanted["quantization"] == "nf4" else {}
    attention = {"attn_implementation": row_attention.register()} if wanted["packing"] != "none" else {}
    place = {} if sharded else {"device_map": {"": torch.cuda.current_device() if on_gpu else "cpu"}}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, **place, **quantized, **attention)
    model.config.use_cache = False
    if attention:
        row_attention.check_window(model.config, recipe["max_length"])
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50: such CPUs repack the weights in the first pass without gradient, and later gradients are wrong
            module.support_avx512bf16_for_cpu = False
    lora = LoraConfig(
        r=wanted["lora"]["rank"],
        lora_alpha=wanted["lora"]["alpha"],
        lora_dropout=wanted["lora"]["dropout"],
        target_modules=list(wanted["lora"]["target_modules"]),
        trainable_token_indices={"embed_tokens": sorted(tags)} if recipe["think"]["add_tokens"] else None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:  # PEFT names the modules it did not find
        raise ProgramError(f"train.lora.target_modules: {error}", "name linear layers of this model", INVALID) from error


def nf4(kind: torch.dtype, storage: torch.dtype) -> BitsAndBytesConfig:
    """Return QLoRA's quantisation: NF4 with quantised constants, computing in `kind`.

    Its bytes are stored as another type where the model is cut into shards, which takes weights of one type alone.
    """
    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": kind, "bnb_4bit_quant_storage": storage}
    return BitsAndBytesConfig(load_in_4bit=True, **settings)
