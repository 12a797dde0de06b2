"""TRL's SFT trainer with the loss at the completion's positions alone, a held-out loss counted by tokens, a stop at the first number that is
none, and checkpoints that are marked when they are whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from batches import describe
from completion_loss import IGNORED, replace_forward
from program import BROKEN, ProgramError, progress
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

COMPLETE = "complete"
"""File in a checkpoint that is written to its end."""


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on rows that are already tokenised (batches.py); `rows_file` holds them as text, for messages."""

    def __init__(self, rows_file: Path, **parts: Any) -> None:
        super().__init__(**parts)
        self.add_callback(Marker())
        self.remove_callback(PrinterCallback)  # standard output is for events
        if self.args.use_cpu:
            # TRL casts a 4-bit model's adapter to bfloat16, in which a CPU without AVX512-BF16 is seven times slower
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        replace_forward(self.model)
        self._rows_file = rows_file
        self._tokens, self._since = 0, time.monotonic()
        self._rows: list[int] = []

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the mean loss of a batch's supervised tokens; ProgramError (6) names the batch where it is no number."""
        rows = inputs.pop("rows").tolist()
        self._rows += rows
        self._tokens += int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        items = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = model(**inputs) / items
        self._require_number("the loss", float(loss.detach()), self.state.global_step + 1, rows)
        # the step's items are those of all processes, over which the gradients are averaged
        return loss * self.accelerator.num_processes

    def _require_number(self, name: str, value: float, step: int, rows: list[int]) -> None:
        if math.isfinite(value):
            return
        message = f"{name} became {value} in step {step} of {self.state.max_steps}, on {describe(self._rows_file, rows)}"
        raise ProgramError(message, "lower train.learning_rate or lengthen train.warmup_steps; if it comes again, look at these rows", BROKEN)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's tokens and the speed since the last line, and say the progress; ProgramError (6) where a gradient is no number."""
        if "loss" in logs:
            self._require_number("the gradient", logs.get("grad_norm", 0.0), self.state.global_step, self._rows)
            tokens = int(self.accelerator.reduce(torch.tensor(self._tokens, device=self.args.device), "sum"))
            logs |= {"tokens": tokens, "tokens_per_second": round(tokens / max(time.monotonic() - self._since, 1e-9), 1)}
            self._restart()
            if self.is_world_process_zero():
                progress(self.state.global_step, self.state.max_steps, "steps", f"loss {float(logs['loss']):.4f}")
        super().log(logs, start_time)

    def _restart(self) -> None:
        self._tokens, self._rows, self._since = 0, [], time.monotonic()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Log and return the held-out rows' mean loss a supervised token, over all of them and all processes."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad(), self.compute_loss_context_manager():
            for inputs, weight in self._held_out():
                supervised = (inputs["labels"][:, 1:] != IGNORED).sum()
                total += weight * torch.tensor([float(self.model_wrapped(**inputs)), float(supervised)], dtype=torch.float64)
        loss, tokens = self.accelerator.reduce(total.to(self.args.device), "sum").tolist()
        metrics = {"eval_loss": loss / tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.model.train()
        self._restart()  # these seconds are not the training's
        return metrics

    def _held_out(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield this process's share of the held-out batches, each with weight 1.

        Processes work in step, so each is given as many; what one has too many has weight 0.
        """
        size, units, processes = self.args.per_device_eval_batch_size, list(self.eval_dataset), self.accelerator.num_processes
        batches = [units[at : at + size] for at in range(0, len(units), size)]
        for at in range(self.accelerator.process_index, math.ceil(len(batches) / processes) * processes, processes):
            inputs = self._prepare_inputs(self.data_collator(batches[at % len(batches)]))
            yield {name: value for name, value in inputs.items() if name != "rows"}, int(at < len(batches))

    def trained_weights(self) -> dict[str, torch.Tensor] | None:
        """Return the weights gathered from all processes where each holds a part of them, None where the model holds them all."""
        whole = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        return None if whole else self.accelerator.get_state_dict(self.model_wrapped)


class Marker(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint after its last file was written; a kill before that leaves it unmarked."""

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Write the mark."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
