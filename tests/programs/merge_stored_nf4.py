"""Write a base's checkpoint as one that is stored in NF4: `merge_stored_nf4.py BASE FOLDER`. Runs in the train environment."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

base, folder = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copytree(base, folder)
settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
wanted = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", "model.layers.1.mlp.down_proj"], **settings)
model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.bfloat16, quantization_config=wanted, device_map="cpu")
(folder / "model" / "model.safetensors").unlink()
model.save_pretrained(folder / "model")
