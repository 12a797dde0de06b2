"""TRL's SFT trainer with three changes: the loss is computed at the completion's positions only, a loss that is no number ends
the run at its step, and a checkpoint is marked when it is whole.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from program import BROKEN, ProgramError, progress
from torch.nn.functional import cross_entropy, linear
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

COMPLETE = "complete"
"""File in a checkpoint that is written to its end."""


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains on rows that are already tokenised."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.add_callback(Marker())
        self.remove_callback(PrinterCallback)  # standard output is for events
        if self.args.use_cpu:
            # TRL casts a 4-bit model's adapter to bfloat16, in which a CPU without AVX512-BF16 is seven times slower
            for weight in self.model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        self._tokens, self._since = 0, time.monotonic()

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the mean loss of a batch's supervised tokens; ProgramError (6) when it is no number."""
        self._tokens += int(inputs["attention_mask"].sum())
        loss = completion_loss(model, inputs, num_items_in_batch)
        if not math.isfinite(value := float(loss.detach())):
            message = f"the loss became {value} in step {self.state.global_step + 1} of {self.state.max_steps}"
            raise ProgramError(message, "lower train.learning_rate or lengthen train.warmup_steps", BROKEN)
        return loss

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add the speed since the last line, and say the progress."""
        if "loss" in logs:
            logs["tokens_per_second"] = round(self._tokens / max(time.monotonic() - self._since, 1e-9), 1)
            self._tokens, self._since = 0, time.monotonic()
            progress(self.state.global_step, self.state.max_steps, "steps", f"loss {float(logs['loss']):.4f}")
        super().log(logs, start_time)


def completion_loss(model: Any, inputs: dict[str, Any], items: Any = None) -> torch.Tensor:
    """Return the mean cross-entropy at supervised positions, without computing logits elsewhere.

    The output layer of a small model is its largest. TRL 1.16 scores every position on a CPU, and its fused head does not take
    one with trainable rows.
    """
    core = model.get_base_model()
    hidden = core.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).last_hidden_state[:, :-1]
    targets = inputs["labels"][:, 1:]
    supervised = targets != -100
    logits = output_logits(core.get_output_embeddings(), hidden[supervised])
    total: torch.Tensor = cross_entropy(logits.float(), targets[supervised], reduction="sum")
    return total / (supervised.sum() if items is None else items)


def output_logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return logits [positions, vocabulary]; trainable rows of the head get their gradient without one for the whole matrix.

    PEFT's own pass copies the rows into the matrix, whose gradient of vocabulary x width is then computed for the sake of two rows.
    """
    rows = getattr(head, "token_adapter", None)
    if rows is None:
        logits: torch.Tensor = head(hidden)
        return logits
    logits = linear(hidden, rows.base_layer.weight)
    for name in rows.active_adapters:
        index = torch.tensor(rows.token_indices[name], device=logits.device)
        logits = logits.index_copy_(1, index, linear(hidden, rows.trainable_tokens_delta[name]))
    return logits


class Marker(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint after its last file was written; a kill before that leaves it unmarked."""

    def on_save(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Write the mark."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
