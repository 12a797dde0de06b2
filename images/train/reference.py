"""Stage reference: what the trained model says, for a release whose GGUF files are made of base and adapter in one pass.

In the place of stage merge, and without its checkpoint: base and adapter answer as they were trained, side by side, and served copies are held
against that (probes.jsonl, tokens.jsonl). model/ holds everything of the base but its weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import probes
import torch
from checkpoint import load_tokenizer, parameters
from peft import PeftModel
from program import Args, progress, run
from transformers import AutoModelForCausalLM

PROBES = 8
"""Held-out rows that are answered."""
WEIGHTS = (".safetensors", ".safetensors.index.json")


def main(args: Args) -> int:
    """Leave model/ without weights, probes.jsonl, tokens.jsonl and reference.json."""
    base, adapter = args.inputs["base"] / "model", args.inputs["train"] / "adapter"
    tokenizer = load_tokenizer(base)
    rows = [json.loads(line) for line in (args.inputs["dataset"] / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:PROBES]]
    prompts = [row["prompt"] for row in rows]
    copy_companions(base, args.output / "model", args.recipe["dtype"])
    model = adapted(base, adapter)
    progress(1, 2, "parts", "base and adapter loaded")
    with model.disable_adapter():
        before = probes.greedy(model, tokenizer, prompts, probes.BASE_TOKENS)
    probes.write(args.output / "probes.jsonl", [row["question"] for row in rows], probes.greedy(model, tokenizer, prompts), before)
    probes.write_tokens(args.output / "tokens.jsonl", tokenizer, {row["prompt"]: row["question"] for row in rows})
    facts = {"parameters": parameters(base), "base": json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))}
    (args.output / "reference.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    progress(2, 2, "parts", "answers kept")
    return 0


def adapted(base: Path, adapter: Path) -> Any:
    """Return base and adapter side by side, in 32 bits."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()


def copy_companions(base: Path, target: Path, dtype: str) -> None:
    """Copy everything but the weights from the base, byte by byte; only config.json says another dtype."""
    target.mkdir()
    for path in (path for path in base.iterdir() if not path.name.endswith(WEIGHTS)):
        shutil.copyfile(path, target / path.name)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (target / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
