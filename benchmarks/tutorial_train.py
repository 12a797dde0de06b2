"""The tutorial's own training, as the side that benchmarks/train_gpu.py is compared with: unsloth's loader and TRL's trainer on a text column,
two rows side by side, four such batches a step, every position learnt.

    python3 benchmarks/tutorial_train.py MODEL STEPS [--rows 480]

MODEL and the rows' lengths are those of train_gpu.py. Tokens are counted on the rows as the trainer has tokenised them, padding left out.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

import train_gpu

os.environ |= {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
STARTED = time.monotonic()
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402
from unsloth import FastLanguageModel  # noqa: E402 - before trl, transformers and peft, which it changes

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BATCH, ACCUMULATE = 2, 4


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note it."""
        torch.cuda.synchronize()
        self.ends.append(time.monotonic())


def trainer(model: Path, steps: int, rows: int) -> SFTTrainer:
    """Return the tutorial's trainer on rows of the dataset's lengths."""
    loaded, tokenizer = FastLanguageModel.from_pretrained(str(model), max_seq_length=train_gpu.MAX_LENGTH, load_in_4bit=True, dtype=None)
    adapted = FastLanguageModel.get_peft_model(
        loaded, r=16, target_modules=LAYERS, lora_alpha=16, lora_dropout=0, bias="none", use_gradient_checkpointing="unsloth", random_state=3407
    )
    words = train_gpu.word_maker(model, random.Random(1))
    settings = SFTConfig(
        output_dir=str(model.parent / "tutorial"),
        **{"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATE, "warmup_steps": 5, "max_steps": steps},
        **{"learning_rate": 2e-4, "optim": "adamw_8bit", "weight_decay": 0.01, "lr_scheduler_type": "linear", "seed": 3407},
        **{
            "logging_steps": 1,
            "report_to": "none",
            "dataset_text_field": "text",
            "max_length": train_gpu.MAX_LENGTH,
            "bf16": True,
            "save_strategy": "no",
        },
    )
    data = Dataset.from_list([{"text": words(length)} for length in train_gpu.lengths(rows)])
    return SFTTrainer(model=adapted, processing_class=tokenizer, train_dataset=data, args=settings)


def main() -> None:
    """Train and print the figures."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", type=Path)
    options.add_argument("steps", type=int)
    options.add_argument("--rows", type=int, default=480)
    given = options.parse_args()
    made, clock = trainer(given.model, given.steps, given.rows), Clock()
    made.add_callback(clock)
    lengths = [len(ids) for ids in made.train_dataset["input_ids"]]
    a_step = BATCH * ACCUMULATE * sum(lengths) / len(lengths)
    torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    made.train()
    ended = clock.ends[-1]
    losses = [round(entry["loss"], 3) for entry in made.state.log_history if "loss" in entry]
    warm = (len(clock.ends) - 3) * a_step / (ended - clock.ends[2]) if len(clock.ends) > 4 else float("nan")
    print(f"tutorial: {torch.cuda.get_device_name()}, {given.steps} steps of {a_step:.0f} tokens, loss {losses[0]} -> {losses[-1]}")
    rate, a_second = given.steps * a_step / (ended - began), (ended - began) / given.steps
    print(f"  {rate:.0f} useful tokens/s, {warm:.0f} after the first three steps, {a_second:.2f} s a step")
    print(f"  peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB allocated, {torch.cuda.max_memory_reserved() / 2**30:.2f} reserved")
    print(f"  {time.monotonic() - STARTED:.1f} s from the start of the program")


if __name__ == "__main__":
    main()
