"""Measures what training steps hold on a GPU and prints it beside toolkit/fit's estimate: our own train program, random weights, rows that are full.

    python3 benchmarks/memory_gpu.py WORK [--only 0 3 7] [--seconds 500]

Nothing is downloaded. Needs the packages of images/train/requirements.in (and unsloth for its rows) and pydantic, PyYAML. Checkpoints are made in
WORK (up to 19 GB each) and found there again. "peak" is torch's max_memory_allocated, "card" the most that nvidia-smi showed, each with its estimate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import random_model  # noqa: E402

from toolkit import recipe_file  # noqa: E402 - the repository is not installed on that machine
from toolkit.fit import GIB, training  # noqa: E402
from toolkit.fit.shape import of_folder  # noqa: E402
from toolkit.recipe import Recipe  # noqa: E402
from toolkit.stages import STAGES  # noqa: E402

STEPS = 2
TRL, UNSLOTH = {"engine": "trl"}, {"engine": "unsloth", "optimizer": "adamw_8bit"}


@dataclass(frozen=True)
class Row:
    """One configuration: a shape, how it is stored, and what of the recipe differs."""

    shape: str
    stored: str
    batch: int
    length: int
    rank: int = 16
    train: dict[str, Any] = field(default_factory=lambda: TRL)


ROWS = (
    Row("qwen2-32b", "nf4", 2, 2048),
    Row("qwen2-32b", "nf4", 2, 2048, train=UNSLOTH),
    Row("qwen2-32b", "nf4", 1, 1024),
    Row("qwen2-32b", "nf4", 1, 4096, rank=64),
    Row("qwen2-32b", "nf4", 2, 2048, train=TRL | {"packing": "packed", "optimizer": "adamw_8bit"}),
    Row("qwen2-7b", "bf16", 2, 2048),
    Row("qwen2-7b", "bf16", 1, 8192, rank=64),
    Row("qwen2-7b", "bf16", 2, 1024, train=TRL | {"quantization": "none"}),
    Row("qwen3-4b", "bf16", 4, 2048),
    Row("qwen2-1.5b", "bf16", 4, 2048),
    Row("smollm2-135m", "bf16", 8, 1024),
    Row("qwen2-32b", "nf4", 1, 4096, train=UNSLOTH),
)


def recipe_of(row: Row) -> Recipe:
    """Return the recipe of a row; ValueError where this tree does not know one of its keys."""
    made = recipe_file.load(ROOT / "recipes" / "qwq-32b-medical.yml")
    unknown = set(row.train) - set(type(made.train).model_fields)
    if unknown:
        raise ValueError(f"train has no {', '.join(sorted(unknown))} here")
    wanted = made.train.model_dump() | {"steps": STEPS, "batch_size": row.batch, "gradient_accumulation": 1, "warmup_steps": 1} | row.train
    wanted["lora"] = {**wanted["lora"], "rank": row.rank}
    train = type(made.train).model_validate(wanted)
    return made.model_copy(update={"train": train, "dataset": made.dataset.model_copy(update={"max_length": row.length})})


def write_rows(folder: Path, row: Row) -> None:
    """Write rows that fill max_length, nearly all of them supervised."""
    folder.mkdir(parents=True)
    lines, known = [], random_model.words()
    for number in range(row.batch * STEPS * 2):
        words = [f" {known[(number * 7919 + at * 104729) % len(known)]}" for at in range(row.length)]
        pair = {"question": "q", "expected": None, "prompt": "".join(words[:16]), "completion": "".join(words[16:])}
        lines.append(json.dumps(pair) + "\n")
    for name in ("train.jsonl", "eval.jsonl"):
        (folder / name).write_text("".join(lines), encoding="utf-8")


class Watch(threading.Thread):
    """Keeps the most memory that nvidia-smi shows."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.over = 0, threading.Event()

    def run(self) -> None:
        """Look every quarter of a second."""
        query = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
        while not self.over.wait(0.25):
            self.most = max(self.most, int(subprocess.run(query, capture_output=True, text=True).stdout.split()[0]))


def measure(row: Row, recipe: Recipe, work: Path) -> tuple[float, float, float]:
    """Return the peak that torch saw and the most on the card, in bytes, and the seconds; SystemExit's words where the program fails."""
    base = work / f"{row.shape}-{row.stored}"
    if not (base / "base.json").is_file():
        maker = (sys.executable, str(ROOT / "benchmarks" / "random_model.py"), row.shape, str(base / "model"), "--stored", row.stored)
        subprocess.run(maker, check=True)
        (base / "base.json").write_text('{"source": "random"}', encoding="utf-8")
    run = work / f"run-{ROWS.index(row)}-{os.getpid()}"
    write_rows(run / "dataset", row)
    for name in ("output", "scratch"):
        (run / name).mkdir()
    places = {"inputs": {"base": str(base), "dataset": str(run / "dataset")}, "output": str(run / "output"), "scratch": str(run / "scratch")}
    (run / "args.json").write_text(json.dumps({**places, "recipe": STAGES["train"].slice(recipe)}), encoding="utf-8")
    watch, began = Watch(), time.monotonic()
    watch.start()
    command = (sys.executable, str(ROOT / STAGES["train"].program), str(run / "args.json"))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"})
    watch.over.set()
    if done.returncode:
        raise RuntimeError((done.stdout[-400:] + done.stderr[-800:]).strip())
    facts = json.loads((run / "output" / "train.json").read_text(encoding="utf-8"))
    return facts["peak_memory"], watch.most * (1 << 20), time.monotonic() - began


def line(row: Row, recipe: Recipe, work: Path) -> str:
    """Measure a row and return its line of the table."""
    peak, card, seconds = measure(row, recipe, work)
    checkpoint = of_folder(work / f"{row.shape}-{row.stored}" / "model")
    assert checkpoint
    made = training.estimate(checkpoint, training.Training.of_recipe(recipe))
    how = ", ".join(f"{value}" for value in row.train.values())
    cells = (f"{size / GIB:.2f}" for size in (peak, made.allocated, card, made.total))
    off = made.allocated / peak - 1
    return f"| {row.shape} | {how} | {row.rank} | {row.batch} x {row.length} | {' | '.join(cells)} | {off:+.1%} | {seconds:.0f} |"


def main() -> None:
    """Print the table, a line as soon as it is known."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("work", type=Path)
    options.add_argument("--only", type=int, nargs="+", default=range(len(ROWS)))
    options.add_argument("--seconds", type=float, default=500)
    given = options.parse_args()
    began = time.monotonic()
    names = ("shape", "training", "rank", "batch x tokens", "peak GiB", "estimate", "card GiB", "estimate", "off", "seconds")
    print(f"| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)
    for number in given.only:
        if time.monotonic() - began > given.seconds:
            print(f"time is up before row {number}: --only {number} …")
            return
        row = ROWS[number]
        try:
            print(line(row, recipe_of(row), given.work.resolve()), flush=True)
        except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:
            print(f"row {number} ({row.shape}, {row.train}): {error}", flush=True)


if __name__ == "__main__":
    main()
