"""Runs the train stage's own program on a checkpoint and rows of real lengths; benchmarks/tutorial_train.py is the side that it is compared with.

    python3 benchmarks/train_gpu.py MODEL ROWS [--engine trl|unsloth] [--packing none|padding_free|packed] [--batch N] [--accumulate N] [--steps N]

MODEL is a checkpoint folder, such as one of QwQ-32B's shape with random NF4 weights; its tokenizer may lack a chat template and think tags.
The rows' lengths are those of medical-o1-reasoning-SFT as a lognormal distribution: median 700 tokens, 95 of 100 below 1,350, at most 2,048.
Needs the packages of images/train/requirements.in, or unsloth.in for --engine unsloth. With --packing packed, a step takes --accumulate packs
and --steps defaults to as many as it takes to see every row once; else a step takes --batch x --accumulate rows, the tutorial's 2 x 4.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_LENGTH = 2048
PROMPT_SHARE = 0.15
"""Part of a row that is its question, which carries no loss."""


def lengths(count: int, seed: int = 3407) -> list[int]:
    """Return lengths in tokens like those of the dataset's rows."""
    chance = random.Random(seed)
    return [max(64, min(MAX_LENGTH, int(chance.lognormvariate(6.55, 0.4)))) for _ in range(count)]


def write_inputs(folder: Path, model: Path, rows: int) -> list[int]:
    """Write the base and dataset steps' directories around the checkpoint, and return the rows' lengths in tokens."""
    for name in ("base", "dataset"):
        (folder / name).mkdir()
    (folder / "base" / "model").symlink_to(model.resolve())
    (folder / "base" / "base.json").write_text('{"source": "benchmark"}', encoding="utf-8")
    chance, wanted = random.Random(1), lengths(rows)
    words = word_maker(model, chance)
    for name, part in (("train", wanted), ("eval", wanted[:8])):
        lines = []
        for length in part:
            prompt = max(8, int(length * PROMPT_SHARE))
            lines.append(json.dumps({"question": "random words", "prompt": words(prompt), "completion": words(length - prompt)}))
        (folder / "dataset" / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return wanted


def word_maker(model: Path, chance: random.Random) -> Any:
    """Return a function that makes a text of n random tokens: words of a byte-level tokenizer, the benchmark's own or a real one, that stay apart."""
    vocabulary = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    pieces = [word for word in vocabulary if len(word) > 3 and word[0] == "Ġ" and word[1:].isascii() and word[1:].isalpha()]
    return lambda count: "".join(" " + word[1:] for word in chance.choices(pieces, k=count))


def recipe(given: argparse.Namespace) -> dict[str, Any]:
    """Return the train stage's slice with the tutorial's settings and the options."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    train = {
        "engine": given.engine,
        "quantization": "nf4",
        "lora": {"rank": 16, "alpha": 16, "dropout": 0.0, "target_modules": layers},
        **{"steps": given.steps, "batch_size": given.batch, "gradient_accumulation": given.accumulate, "packing": given.packing},
        **{"optimizer": given.optimizer, "learning_rate": 2e-4, "warmup_steps": 5, "schedule": "linear", "weight_decay": 0.01},
        **{"checkpoint_steps": 10**6, "eval_steps": None, "eval_rows": 8, "processes": 1, "distributed": "ddp", "track": [], "network": False},
    }
    return {"train": train, "think": {"open": "t1", "close": "t2", "add_tokens": False}, "max_length": MAX_LENGTH, "seed": 3407}


def run(folder: Path, slice_: dict[str, Any]) -> tuple[float, int, str]:
    """Run the program; return its seconds, from its start to its end, its exit code and its notes."""
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    inputs = {name: str(folder / name) for name in ("base", "dataset")}
    arguments = folder / "args.json"
    arguments.write_text(
        json.dumps({"inputs": inputs, "output": str(folder / "output"), "scratch": str(folder / "scratch"), "recipe": slice_}), encoding="utf-8"
    )
    began, said = time.monotonic(), []
    process = subprocess.Popen((sys.executable, str(ROOT / "images" / "train" / "train.py"), str(arguments)), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line) if line.startswith('{"event"') else {}
        if event.get("event") == "progress":
            print(f"  {time.monotonic() - began:5.0f} s: step {event['done']}/{event['total']} {event['text']}", file=sys.stderr)
        elif event:
            said.append(str(event.get("text") or event.get("message")))
    return time.monotonic() - began, process.wait(), "\n".join(said)


def figures(folder: Path, seconds: float) -> dict[str, Any]:
    """Return speed and memory, from what the stage left; the first three steps warm up, and a second rate leaves them out."""
    facts = json.loads((folder / "output" / "train.json").read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (folder / "output" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    times = [step["tokens"] / step["tokens_per_second"] for step in steps]
    warm = slice(3, None) if len(steps) > 4 else slice(None)
    return {
        "device": facts["device"],
        "useful_tokens_per_second": round(sum(step["tokens"] for step in steps) / sum(times)),
        "warm_tokens_per_second": round(sum(step["tokens"] for step in steps[warm]) / sum(times[warm])),
        "seconds_per_step": round(sum(times) / len(times), 2),
        "tokens_per_step": round(sum(step["tokens"] for step in steps) / len(steps)),
        "peak_gib": round(facts["peak_memory"] / 2**30, 2),
        "seconds_load_to_adapter": round(seconds, 1),
        "loss": [round(facts["first_loss"], 4), round(facts["last_loss"], 4)],
    }


def main() -> int:
    """Run once and print the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("rows", type=int)
    options.add_argument("--engine", default="trl", choices=("trl", "unsloth"))
    options.add_argument("--packing", default="packed", choices=("none", "padding_free", "packed"))
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--accumulate", type=int, default=3)
    options.add_argument("--steps", type=int)
    options.add_argument("--optimizer", default="adamw_8bit", choices=("adamw", "adamw_8bit", "paged_adamw_8bit"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.model.resolve().parent) as name:
        folder = Path(name)
        tokens = sum(write_inputs(folder, given.model, given.rows))
        a_step = given.batch * given.accumulate
        given.steps = given.steps or max(4, -(-tokens // (MAX_LENGTH * a_step)) if given.packing == "packed" else given.rows // a_step)
        print(f"{given.rows} rows, {tokens} tokens; {given.engine}, {given.packing}, {given.batch} x {given.accumulate}, {given.steps} steps")
        seconds, code, said = run(folder, recipe(given))
        print(said)
        if code and not (folder / "output" / "train.json").is_file():  # random words cannot be learnt: here a loss may stay
            return code
        found = figures(folder, seconds)
    for key, value in found.items():
        print(f"{key:>26}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
