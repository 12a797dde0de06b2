"""Merge what cannot be merged and print how each attempt ended: `merge_faults.py FOLDER`.

Runs in the train environment. Each line is a JSON object: the case, the exit code, message and remedy, and whether the base is as it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "images" / "train"))

import merged_checkpoint
import torch
from program import ProgramError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

UP, HEAD, TABLE = "model.layers.0.mlp.up_proj", "lm_head", "model.embed_tokens"
Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
Case = Callable[[Path, Tensors, Config], None]


def case(change: Callable[[Tensors, Config], Any]) -> Case:
    """Return a case that changes the adapter alone."""
    return lambda base, tensors, config: change(tensors, config)


def factor(tensors: Tensors, module: str, rows: int, columns: int, rank: int = 2) -> None:
    """Add factors for a module."""
    tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, columns) * 0.1
    tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank) * 0.1


def spoil(tensors: Tensors, part: str, value: float) -> None:
    """Put a value into a factor."""
    tensors[f"base_model.model.{UP}.{part}.weight"][0, 1] = value


def index(base: Path) -> Config:
    """Return the base's index."""
    return json.loads((base / "model.safetensors.index.json").read_text())


def misname(base: Path, tensors: Tensors, config: Config) -> None:
    found = index(base)
    found["weight_map"][f"{UP}.weight"] = "model-00009-of-00009.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps(found))


def shorten(base: Path, tensors: Tensors, config: Config) -> None:
    path = base / index(base)["weight_map"][f"{UP}.weight"]
    path.write_bytes(path.read_bytes()[:-100])


def behead(base: Path, tensors: Tensors, config: Config) -> None:
    path = base / index(base)["weight_map"][f"{UP}.weight"]
    path.write_bytes(path.read_bytes()[:40])


def rewrite(base: Path, name: str, value: torch.Tensor) -> None:
    """Store another tensor in the base."""
    path = base / index(base)["weight_map"][name]
    save_file({**load_file(path), name: value}, path)


CASES: dict[str, Case] = {
    "fits": case(lambda tensors, config: None),
    "other shape": case(lambda tensors, config: factor(tensors, UP, 161, 64)),
    "other width": case(lambda tensors, config: factor(tensors, UP, 160, 32)),
    "no such layer": case(lambda tensors, config: factor(tensors, "model.layers.7.mlp.up_proj", 160, 64)),
    "half a pair": case(lambda tensors, config: tensors.pop(f"base_model.model.{UP}.lora_B.weight")),
    "other vocabulary": case(lambda tensors, config: tensors.update({f"base_model.model.{TABLE}.weight": torch.zeros(100, 64)})),
    "unknown weight": case(lambda tensors, config: tensors.update({"base_model.model.model.extra.weight": torch.zeros(4)})),
    "nan": case(lambda tensors, config: spoil(tensors, "lora_A", float("nan"))),
    "infinite": case(lambda tensors, config: spoil(tensors, "lora_B", float("inf"))),
    "nan in a saved module": case(lambda tensors, config: tensors.update({"base_model.model.model.norm.weight": torch.full((64,), float("nan"))})),
    "rank zero": case(lambda tensors, config: config.update(r=0)),
    "other rank": case(lambda tensors, config: config.update(rank_pattern={"up_proj": 4})),
    "bias": case(lambda tensors, config: config.update(bias="all")),
    "bias of a layer": case(lambda tensors, config: tensors.update({f"base_model.model.{UP}.lora_B.bias": torch.zeros(160)})),
    "pissa": case(lambda tensors, config: config.update(init_lora_weights="pissa")),
    "loha": case(lambda tensors, config: config.update(peft_type="LOHA")),
    "setting of tomorrow": case(lambda tensors, config: config.update(use_tomorrow=True)),
    "magnitudes missing": case(lambda tensors, config: config.update(use_dora=True)),
    "token beyond the table": case(
        lambda tensors, config: (
            tensors.update({f"base_model.model.{TABLE}.token_adapter.trainable_tokens_delta": torch.zeros(1, 64)}),
            config.update(trainable_token_indices={"embed_tokens": [96]}),
        )
    ),
    "too large for float16": case(lambda tensors, config: spoil(tensors, "lora_B", 1e7)),
    "too small for bfloat16": case(lambda tensors, config: tensors.update({name: value * 1e-3 for name, value in tensors.items()})),
    "missing shard": lambda base, tensors, config: (base / index(base)["weight_map"][f"{UP}.weight"]).unlink(),
    "absent file in the index": misname,
    "truncated shard": shorten,
    "truncated header": behead,
    "base in fp8": lambda base, tensors, config: rewrite(base, f"{UP}.weight", torch.zeros(160, 64).to(torch.float8_e4m3fn)),
    "base in mxfp4": lambda base, tensors, config: (base / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "mxfp4"}})),
    "tied": lambda base, tensors, config: (
        factor(tensors, HEAD, 96, 64),
        rewrite(base, f"{HEAD}.weight", torch.zeros(1)),
        (base / "config.json").write_text(json.dumps({**json.loads((base / "config.json").read_text()), "tie_word_embeddings": True})),
        drop(base, f"{HEAD}.weight"),
    ),
}


def drop(base: Path, name: str) -> None:
    """Take a tensor out of the base."""
    found = index(base)
    path = base / found["weight_map"].pop(name)
    (base / "model.safetensors.index.json").write_text(json.dumps(found))
    save_file({one: value for one, value in load_file(path).items() if one != name}, path)


def digest(folder: Path) -> str:
    """Return a sum over a folder's files."""
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def attempt(name: str, base: Path, folder: Path) -> Config:
    """Merge one case."""
    torch.manual_seed(2)
    tensors: Tensors = {}
    factor(tensors, UP, 160, 64)
    config: Config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["up_proj"], "bias": "none"}
    shutil.copytree(base, folder / "base")
    CASES[name](folder / "base", tensors, config)
    (folder / "adapter").mkdir()
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    before, dtype = digest(folder / "base"), "float16" if name.endswith(" float16") else "bfloat16"
    try:
        merged = merged_checkpoint.make(folder / "base", folder / "adapter", folder / "out", dtype, name)
        merged_checkpoint.require_kept(merged, 0.5, dtype)
        ended: Config = {"code": 0}
    except ProgramError as error:
        ended = {"code": error.code, "message": error.message, "remedy": error.remedy}
    return {"case": name, "untouched": digest(folder / "base") == before, **ended}


def main() -> None:
    """Try all cases."""
    folder = Path(sys.argv[1])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, **sizes)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder / "base", max_shard_size="40KB")
    for number, name in enumerate(CASES):
        (folder / str(number)).mkdir()
        sys.stdout.write(json.dumps({"event": "case", **attempt(name, folder / "base", folder / str(number))}) + "\n")


if __name__ == "__main__":
    main()
