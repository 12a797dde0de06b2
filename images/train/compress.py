"""Stage compress: the merged model in fewer bits for vLLM, as files: calibrated on the user's own rows, and held against the 16-bit model.

vLLM quantises a 16-bit checkpoint at every start; one that lies there quantised takes a fourth or half of the disk and of the reading, and GPTQ's
weights, calibrated on rows as they will be served, are nearer to the original's than plain rounding's. What is written is read again and measured on
held-out rows: how far it is from the model stands in compress.json. Not covered: models that find no room in the machine's memory in 16 bits.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

from checkpoint import load_model, load_tokenizer, share
from divergence import Rows, log_probabilities, measure
from formats import FORMATS, Wanted
from program import BROKEN, INVALID, Args, ProgramError, note, progress, run

WEIGHTS = (".safetensors", ".safetensors.index.json")
LIMITS = {"max_kl": ("mean_kl", True), "min_top1": ("top1", False), "max_perplexity_growth": ("perplexity_growth", True)}
"""Keys of the recipe's limits, each with the figure it bounds and whether from above."""


def main(args: Args) -> int:
    """Leave model/ and compress.json; exit code 6 where the files do not load strictly or are further from the model than the recipe allows."""
    model, target, kind = args.inputs["model"] / "model", args.output / "model", args.recipe["format"]
    settings = args.recipe["compress"]
    tokenizer = load_tokenizer(model)
    calibration = rows_of(args.inputs["dataset"] / "train.jsonl", tokenizer, settings["rows"])
    held_out = rows_of(args.inputs["dataset"] / "eval.jsonl", tokenizer, settings["eval_rows"])
    progress(0, 3, "parts", f"{kind}: {len(calibration)} rows to calibrate on")
    began = time.monotonic()
    facts = FORMATS[kind](model, target, Wanted([ids for ids, _ in calibration], tuple(settings["ignore"])))
    complete(model, target)
    facts |= {"seconds": round(time.monotonic() - began, 1), "calibration_rows": len(calibration)}
    progress(1, 3, "parts", f"{kind}: written in {facts['seconds']} s")
    reference = list(log_probabilities(load_model(model), held_out))
    progress(2, 3, "parts", "the 16-bit model's choices are known")
    facts |= measure(reference, log_probabilities(load_model(target), held_out), held_out)
    sizes = {"bytes": size(target), "reference_bytes": size(model)}
    limits = {name: settings[name] for name in LIMITS}
    report = {"reference": "merged", "rows": len(held_out), "types": {kind: {**sizes, **facts}}, "limits": limits}
    (args.output / "compress.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    told = f"{sizes['bytes'] / 1e6:.0f} of {sizes['reference_bytes'] / 1e6:.0f} MB, KL {facts['mean_kl']:.4f} nats a token, top-1 {facts['top1']:.1%}"
    progress(3, 3, "parts", f"{kind}: {told}, perplexity {facts['perplexity_growth']:+.2%}")
    within_limits(kind, facts, limits)
    return 0


def rows_of(path: Path, tokenizer: Any, count: int) -> Rows:
    """Return the first rows as they are served: prompt and completion in token ids, with the prompt's length."""
    with path.open(encoding="utf-8") as lines:
        given = [json.loads(line) for line in itertools.islice(lines, count)]
    if not given:
        raise ProgramError(f"{path.name} has no rows", "hold out at least one row, and leave some to calibrate on", INVALID)
    parts = [[tokenizer.encode(row[name], add_special_tokens=False) for name in ("prompt", "completion")] for row in given]
    return [(prompt + completion, len(prompt)) for prompt, completion in parts]


def complete(model: Path, target: Path) -> None:
    """Make the folder a checkpoint like the model's: tokenizer, template and end tokens byte by byte, and its config with the quantisation in it."""
    made = json.loads((target / "config.json").read_text(encoding="utf-8"))
    for path in target.iterdir():
        if not path.name.endswith(WEIGHTS):
            path.unlink()
    for path in model.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHTS):
            (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = made["quantization_config"]
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    share(target)


def size(folder: Path) -> int:
    """Return the bytes of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def within_limits(kind: str, facts: dict[str, Any], limits: dict[str, dict[str, float]]) -> None:
    """Stop where the format is further from the 16-bit model than the recipe allows."""
    for name, (figure, upper) in LIMITS.items():
        limit = limits[name].get(kind)
        if limit is not None and not (facts[figure] <= limit if upper else facts[figure] >= limit):  # no number keeps no limit
            message = f"{kind}: {figure} is {facts[figure]:.4f}, compress/{name}/{kind} allows {limit}"
            remedy = (
                "calibrate on more rows (compress.rows), leave a layer in 16 bits (compress.ignore), choose more bits, or change the limit knowingly"
            )
            raise ProgramError(message, remedy, BROKEN)
    note(f"{kind} keeps its limits" if any(kind in values for values in limits.values()) else f"{kind} has no limit to keep")


if __name__ == "__main__":
    run(main)
