"""Stage merge: the adapter is added onto the 16-bit base in fp32 and rounded once; the merged model must give the logits of base + adapter.

Not covered: merging in bounded memory (the whole model is held in fp32), merging onto dequantised 4-bit weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from program import BROKEN, INVALID, Args, ProgramError, note, progress, run
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")
PROBES = 8
"""Held-out rows whose logits are compared: enough to find a wrong merge, seconds on a CPU."""


def main(args: Args) -> int:
    """Leave model/ and merge.json."""
    base, adapter, output = args.inputs["base"] / "model", args.inputs["train"] / "adapter", args.output / "model"
    tokenizer = AutoTokenizer.from_pretrained(base)
    probes = [tokenizer.encode(text, add_special_tokens=False) for text in probe_texts(args.inputs["dataset"] / "eval.jsonl")]
    model = adapted(base, adapter)
    wanted = logits(model, probes)
    progress(1, 3, "merge", "merging")
    merged = model.merge_and_unload(safe_merge=True).to(getattr(torch, args.recipe["merge"]["dtype"]))
    merged.generation_config = None  # copied below as it stands; transformers would add its own defaults
    merged.save_pretrained(output)
    copy_rest(base, output)
    progress(2, 3, "merge", "comparing")
    facts = compared(wanted, logits(reloaded(base, output), probes), args.recipe["merge"])
    (args.output / "merge.json").write_text(json.dumps({"probes": len(probes), **facts}, indent=2) + "\n", encoding="utf-8")
    note(f"logits differ from base + adapter by at most {facts['max_logit_difference']:.3f}, {facts['mean_logit_difference']:.4f} on average")
    return 0


def probe_texts(path: Path) -> list[str]:
    """Return prompt and completion of the first held-out rows."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:PROBES]]
    return [row["prompt"] + row["completion"] for row in rows]


def adapted(base: Path, adapter: Path) -> Any:
    """Return the base in fp32 with the adapter beside it; ProgramError (3) where their shapes differ."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    try:
        return PeftModel.from_pretrained(model, adapter).eval()
    except (RuntimeError, ValueError) as error:  # PEFT lists the tensors that do not fit
        raise ProgramError(f"the adapter does not fit this base: {str(error).splitlines()[0]}", "merge it onto the base it was trained on", INVALID) from error


@torch.no_grad()
def logits(model: Any, probes: list[list[int]]) -> list[torch.Tensor]:
    """Return the fp32 logits of each probe, each of shape (tokens, vocabulary)."""
    return [model(input_ids=torch.tensor([ids], device=model.device)).logits[0].float() for ids in probes]


def copy_rest(base: Path, output: Path) -> None:
    """Copy what a merge does not change, byte for byte."""
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, output / name)


def reloaded(base: Path, folder: Path) -> Any:
    """Load the merged files again in fp32; ProgramError (6) where a tensor of the base is missing, new or of another shape."""
    before, after = shapes(base), shapes(folder)
    odd = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if odd:
        raise ProgramError(f"the merged model has other tensors than the base: {', '.join(odd[:3])}", "look at the stage's log", BROKEN)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a checkpoint."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
    return found


def compared(wanted: list[torch.Tensor], seen: list[torch.Tensor], recipe: dict[str, Any]) -> dict[str, Any]:
    """Return how far the logits lie apart and how often the likeliest token agrees; ProgramError (6) beyond the recipe's limit."""
    apart = torch.cat([(one - other).abs().flatten() for one, other in zip(wanted, seen, strict=True)])
    agree = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in zip(wanted, seen, strict=True)])
    facts = {
        "dtype": recipe["dtype"],
        "max_logit_difference": apart.max().item(),
        "mean_logit_difference": apart.mean().item(),
        "top1_agreement": agree.float().mean().item(),
    }
    if not facts["max_logit_difference"] <= recipe["max_logit_difference"]:
        message = f"logits differ from base + adapter by {facts['max_logit_difference']:.3f}, more than {recipe['max_logit_difference']}"
        raise ProgramError(message, "merge to a wider type (merge.dtype), or raise merge.max_logit_difference if that is acceptable", BROKEN)
    return facts


if __name__ == "__main__":
    run(main)
