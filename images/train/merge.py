"""Stage merge: the adapter is added to the 16-bit base in 32-bit arithmetic and rounded once; the result must answer as base and adapter do.

The 4-bit base of the training is not merged onto: rounding the sum to 4 bits again would erase most of what was learnt.
Not covered: models whose 32-bit weights do not fit into memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import probes
import torch
from checkpoint import REPORTED, load_tokenizer, parameters, save_model
from peft import PeftModel
from program import BROKEN, Args, ProgramError, note, progress, run
from transformers import AutoModelForCausalLM

PROBES = 8
"""Held-out rows on which the logits are compared and that the merged model answers."""
WEIGHTS = (".safetensors", ".safetensors.index.json")


def main(args: Args) -> int:
    """Leave model/, merge.json, probes.jsonl and tokens.jsonl."""
    base, adapter, target = args.inputs["base"] / "model", args.inputs["train"] / "adapter", args.output / "model"
    kind = getattr(torch, args.recipe["merge"]["dtype"])
    tokenizer = load_tokenizer(base)
    rows = [json.loads(line) for line in (args.inputs["dataset"] / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:PROBES]]
    texts, prompts = probe_texts(rows, tokenizer), [row["prompt"] for row in rows]
    adapted = PeftModel.from_pretrained(load(base), adapter).eval()
    progress(1, 4, "parts", "base and adapter loaded")
    wanted = list(logits_of(adapted, texts))
    with adapted.disable_adapter():
        before = probes.greedy(adapted, tokenizer, prompts, probes.BASE_TOKENS)
    merged = adapted.merge_and_unload(safe_merge=True)  # refuses weights that are not finite
    progress(2, 4, "parts", "merged")
    save_model(merged, target, kind)
    copy_companions(base, target, args.recipe["merge"]["dtype"])
    del adapted, merged
    progress(3, 4, "parts", "written")
    check_files(base, target)
    final = load(target)
    facts = {"parameters": parameters(target), **compare(wanted, logits_of(final, texts), texts)}
    probes.write(args.output / "probes.jsonl", [row["question"] for row in rows], probes.greedy(final, tokenizer, prompts), before)
    probes.write_tokens(args.output / "tokens.jsonl", tokenizer, {row["prompt"]: row["question"] for row in rows})
    facts |= {"dtype": args.recipe["merge"]["dtype"], "base": json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))}
    (args.output / "merge.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    progress(4, 4, "parts", "compared")
    limit, seen = args.recipe["merge"]["max_logit_difference"], facts["max_logit_difference"]
    distance = f"at most {seen:.3f} apart, mean {facts['mean_logit_difference']:.4f}"
    note(f"logits of merged model and base + adapter: {distance}; the same choice at {facts['agreement']:.1%} of the positions")
    if not seen <= limit:
        message = f"the merged model's logits are up to {seen:.3f} from those of base + adapter, more than {limit}"
        raise ProgramError(message, "use merge.dtype: float32 to see whether rounding is the cause, or raise merge.max_logit_difference", BROKEN)
    return 0


def load(folder: Path) -> Any:
    """Return a checkpoint with 32-bit weights; ProgramError (6) unless its files hold exactly the model's weights."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    problems = [f"{name} {sorted(map(str, report[name]))[:3]}" for name in REPORTED if report[name]]
    if problems:
        raise ProgramError(f"{folder.name} does not load strictly: {'; '.join(problems)}", "look at the stage's log", BROKEN)
    return model.eval()


def probe_texts(rows: list[dict[str, str]], tokenizer: Any) -> list[tuple[torch.Tensor, int]]:
    """Return token ids of held-out rows, each with the length of its prompt."""
    pairs = [[tokenizer.encode(row[part], add_special_tokens=False) for part in ("prompt", "completion")] for row in rows]
    return [(torch.tensor([prompt + completion]), len(prompt)) for prompt, completion in pairs]


def logits_of(model: Any, texts: list[tuple[torch.Tensor, int]]) -> Iterator[torch.Tensor]:
    """Yield the logits [tokens, vocabulary] that predict each text's completion."""
    with torch.inference_mode():
        for ids, prompt in texts:
            yield model(input_ids=ids).logits[0, prompt - 1 : -1].float()


def compare(wanted: list[torch.Tensor], found: Iterator[torch.Tensor], texts: list[tuple[torch.Tensor, int]]) -> dict[str, Any]:
    """Return how far two models' logits are apart, and how often both would choose the same token."""
    apart, same = [], []
    for one, other in zip(wanted, found, strict=True):
        apart.append((one - other).abs())
        same.append(one.argmax(-1) == other.argmax(-1))
    distances = torch.cat(apart)
    return {
        "max_logit_difference": round(float(distances.max()), 6),
        "mean_logit_difference": round(float(distances.mean()), 6),
        "agreement": round(float(torch.cat(same).float().mean()), 6),
        "texts": len(texts),
        "positions": int(distances.shape[0]),
    }


def copy_companions(base: Path, target: Path, dtype: str) -> None:
    """Copy everything but the weights from the base, byte by byte; only config.json says another dtype."""
    for path in (path for path in base.iterdir() if not path.name.endswith(WEIGHTS)):
        shutil.copyfile(path, target / path.name)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (target / "config.json").write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_files(base: Path, target: Path) -> None:
    """Hold the folder against its contract: the base's companions, weights, and nothing else."""
    companions = [{path.name for path in folder.iterdir() if not path.name.endswith(WEIGHTS)} for folder in (base, target)]
    if companions[0] != companions[1] or parameters(base) != parameters(target):
        odd = sorted(companions[0] ^ companions[1]) or f"{parameters(target)} parameters instead of {parameters(base)}"
        raise ProgramError(f"the merged folder is not the base's set of files: {odd}", "look at the stage's log", BROKEN)


if __name__ == "__main__":
    run(main)
