#!/usr/bin/env python3
"""Prove inside the image that it trains and merges: two random layers, two steps over NF4 weights, one merge. One line of JSON, exit code 0."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import merge
import tiny
import train
from program import Args

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TRAIN = {
    "engine": "trl",
    "quantization": "nf4",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": LAYERS},
    **{"steps": 2, "batch_size": 2, "gradient_accumulation": 1, "checkpoint_steps": 2},
    **{"packing": "packed", "optimizer": "adamw", "eval_steps": 2, "eval_rows": 4, "processes": 1, "distributed": "ddp", "track": []},
    **{"learning_rate": 1e-3, "warmup_steps": 1, "schedule": "linear", "weight_decay": 0.0},
}
MERGE = {"base": "auto", "dtype": "bfloat16", "max_logit_difference": 1.0, "min_delta_kept": 0.1}
SHARED = {"think": {"open": tiny.TAGS[0], "close": tiny.TAGS[1], "add_tokens": True}, "max_length": 256, "seed": 3407}


def main() -> int:
    """Run the stages' own programs and tell their figures."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        figures = work(Path(folder))
    print(json.dumps({"selftest": "train", "ok": True, "seconds": round(time.monotonic() - began, 1), **figures}))
    return 0


def work(folder: Path) -> dict[str, Any]:
    """Train and merge in `folder`; a stage that fails raises."""
    stages = {name: folder / name for name in ("base", "dataset", "train", "merge")}
    for place in stages.values():
        place.mkdir()
    tiny.write_checkpoint(stages["base"] / "model")
    (stages["base"] / "base.json").write_text('{"source": "selftest"}', encoding="utf-8")
    tiny.write_rows(stages["dataset"] / "train.jsonl", 8)
    tiny.write_rows(stages["dataset"] / "eval.jsonl", 4)
    train.main(Args(stages, stages["train"], folder / "scratch", {"train": TRAIN, **SHARED}))
    merge.main(Args(stages, stages["merge"], folder / "scratch", {"merge": MERGE, "quantization": TRAIN["quantization"], **SHARED}))
    trained, merged = (json.loads((stages[name] / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "merge"))
    return {"device": trained["device"], "last_loss": trained["last_loss"], "max_logit_difference": merged["max_logit_difference"]}


if __name__ == "__main__":
    sys.exit(main())
