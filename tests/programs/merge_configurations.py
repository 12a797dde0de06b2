"""Merge random adapters of tiny models with adapter.py and with PEFT, and print how far they are apart: `merge_configurations.py FOLDER KIND SEED`.

Runs in the train environment. Each line is a JSON object: the kind, the settings drawn, the largest difference, the largest change.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import torch
from adapter import Adapter
from peft import LoraConfig, PeftModel, get_peft_model
from tensor_files import Checkpoint
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Phi3Config, Qwen3MoeConfig
from transformers.utils import logging

SIZES = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
RESIZED = 104
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def configuration(kind: str) -> Any:
    """Return a tiny model's configuration."""
    if kind == "gpt2":
        return GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=4, n_positions=64, **ENDS)
    if kind == "phi3":
        return Phi3Config(intermediate_size=160, **SIZES, **ENDS)
    if kind == "moe":
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16}
        return Qwen3MoeConfig(intermediate_size=160, **SIZES, **experts, **ENDS)
    return LlamaConfig(intermediate_size=160, tie_word_embeddings=kind.endswith("tied"), **SIZES, **ENDS)


def settings(kind: str, dice: random.Random) -> dict[str, Any]:
    """Draw an adapter's configuration that this kind of model can have."""
    drawn: dict[str, Any] = {"r": dice.choice([1, 2, 5, 8]), "lora_alpha": dice.choice([1, 3, 16]), "use_rslora": dice.random() < 0.5}
    modules = {"gpt2": ("c_attn", "c_proj", "c_fc"), "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}.get(kind, LINEAR)
    if kind == "moe":
        modules = LINEAR[:4]
        drawn["target_parameters"] = dice.choice([["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], ["mlp.experts.down_proj"]])
    else:
        drawn["use_dora"] = dice.random() < 0.5
    drawn["target_modules"] = sorted(dice.sample(modules, dice.randint(1, len(modules))))
    name = dice.choice(drawn["target_modules"])
    if dice.random() < 0.5:
        drawn["rank_pattern"] = {rf"layers\.0\..*{name}" if kind != "gpt2" else name: 3}
    if dice.random() < 0.5:
        drawn["alpha_pattern"] = {name: 7}
    extra = dice.choice(["none", "rows", "saved", "embedding"]) if not kind.startswith("resized") else "none"
    table = "wte" if kind == "gpt2" else "embed_tokens"
    if extra == "rows":
        drawn["trainable_token_indices"] = {table: sorted(dice.sample(range(96), 4))}
    elif extra == "saved" and kind not in ("tied", "gpt2"):
        drawn["modules_to_save"] = ["lm_head", dice.choice(["norm", "input_layernorm"])]
    elif extra == "embedding" and kind not in ("tied", "gpt2", "moe"):
        drawn["target_modules"] += [table, "lm_head"]
    return drawn


def loaded(base: Path) -> Any:
    """Return the base's model, with eight tokens more where its name says so."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if base.name.startswith("resized"):
        model.resize_token_embeddings(RESIZED, mean_resizing=False)
    return model


def adapt(base: Path, folder: Path, drawn: dict[str, Any]) -> None:
    """Write an adapter with random weights."""
    torch.manual_seed(1)
    model = get_peft_model(loaded(base), LoraConfig(**drawn))
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            weight.data += torch.randn_like(weight) * (0.05 if "magnitude" not in name else 0.01)
    resized = base.name.startswith("resized")
    if resized:
        model.get_input_embeddings().weight.data += 0.01
    model.save_pretrained(folder, save_embedding_layers=resized)


def wanted(base: Path, folder: Path, out: Path) -> dict[str, torch.Tensor]:
    """Return what PEFT merges, by the names of a checkpoint."""
    model = PeftModel.from_pretrained(loaded(base), folder).merge_and_unload(safe_merge=True)
    model.save_pretrained(out)
    return {name: weight.tensor() for name, weight in Checkpoint(out).weights.items()}


def main() -> None:
    """Compare one drawn configuration."""
    folder, kind, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    base = folder / kind
    torch.manual_seed(0)
    if not base.is_dir():
        model = AutoModelForCausalLM.from_config(configuration(kind))
        for weight in model.parameters():
            weight.data += torch.randn_like(weight) * 0.02  # norms are all ones otherwise
        model.save_pretrained(base, max_shard_size="100KB")
    for number in range(seed, seed + 6):
        drawn = settings(kind, random.Random(f"{kind}-{number}"))
        adapt(base, folder / f"adapter-{kind}-{number}", drawn)
        expected = wanted(base, folder / f"adapter-{kind}-{number}", folder / f"merged-{kind}-{number}")
        checkpoint = Checkpoint(base)
        adapter = Adapter(checkpoint, folder / f"adapter-{kind}-{number}")
        apart, moved, odd = 0.0, 0.0, sorted(set(expected) ^ set(checkpoint.weights))
        for name, weight in checkpoint.weights.items():
            before, after = weight.tensor().float(), adapter.tensor(name)
            apart = max(apart, float(((before if after is None else after) - expected[name]).abs().max()))
            moved = max(moved, float((expected[name][: len(before)] - before).abs().max()))
            odd += [f"{name} for nothing"] if after is not None and torch.equal(before, after) else []
        odd += [] if adapter.vocabulary == (RESIZED if kind.startswith("resized") else None) else [f"vocabulary {adapter.vocabulary}"]
        sys.stdout.write(json.dumps({"kind": kind, "drawn": drawn, "apart": apart, "moved": moved, "odd": odd}) + "\n")


if __name__ == "__main__":
    main()
