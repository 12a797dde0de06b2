"""Write a base of six files and an adapter of all its linear layers: `merge_interrupted_inputs.py FOLDER`. Runs in the train environment."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

folder = Path(sys.argv[1])
sizes = {"vocab_size": 96, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(LlamaConfig(num_attention_heads=8, num_key_value_heads=4, bos_token_id=0, eos_token_id=1, **sizes))
model.to(torch.bfloat16).save_pretrained(folder / "base", max_shard_size="4MB")
adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
for name, weight in adapted.named_parameters():
    if "lora_B" in name:
        weight.data += torch.randn_like(weight) * 0.05
adapted.save_pretrained(folder / "adapter")
