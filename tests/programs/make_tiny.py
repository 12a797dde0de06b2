"""Make a checkpoint of two random layers with the tokenizer, template and config files of another: `make_tiny.py SOURCE TARGET`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

source, target = map(Path, sys.argv[1:])
torch.manual_seed(3407)
config = AutoConfig.from_pretrained(source)
# 576 is no multiple of 256, so that K-quants fall back; 512 is one
config.hidden_size, config.intermediate_size, config.num_hidden_layers = 576, 512, 2
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained(target)
for path in source.glob("*"):
    if path.name not in ("config.json",) and path.suffix != ".safetensors":
        shutil.copy(path, target)
