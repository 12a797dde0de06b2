"""One training, whichever engine loads the model: rows, trainer, checkpoints, evaluation, and what is left of it on the disk."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import ranks
import torch
from batches import Flat, Padded, Unit, ordered, packed, tokenized
from checkpoint import load_tokenizer, share
from completion_trainer import COMPLETE, CompletionTrainer
from datasets import Dataset, disable_progress_bars
from peft import get_peft_model_state_dict, load_peft_weights
from program import BROKEN, NOT_READY, Args, ProgramError, note
from settings import configuration
from tracking import tracked
from transformers import TrainerCallback, set_seed


class Engine(Protocol):
    """What differs between training libraries: trl_engine.py, unsloth_engine.py."""

    def trainer_settings(self) -> dict[str, Any]:
        """Return settings of the trainer."""

    def adapted_model(self, folder: Path, tags: list[int], recipe: dict[str, Any]) -> Any:
        """Return the frozen base with a fresh adapter."""


def train(args: Args, engine: Engine) -> int:
    """Leave adapter/, metrics.jsonl and train.json, in the first process where there are several."""
    started = time.monotonic()
    disable_progress_bars()
    set_seed(args.recipe["seed"])
    resumed = newest_checkpoint(args.scratch)
    with tracked(args, resumed) as callbacks:
        trainer = _trainer(args, engine)
        _run(trainer, callbacks, resumed)
    trained = trainer.trained_weights()
    if not ranks.first():
        return 0
    base = json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))
    save_adapter(trainer.model, trained, args.output / "adapter", base["source"])
    metrics = [entry for entry in trainer.state.log_history if {"loss", "eval_loss"} & entry.keys()]
    (args.output / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in metrics), encoding="utf-8")
    facts = {"base": base, "resumed_from": resumed.name if resumed else None, **summary(trainer, metrics, time.monotonic() - started)}
    (args.output / "train.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    check_loss(metrics)
    losses = f"loss {facts['first_loss']:.3f} -> {facts['last_loss']:.4f}"
    note(f"{losses} in {trainer.state.global_step} steps, {facts['tokens_per_second']:.0f} tokens/s")
    if "eval_loss" in facts:
        note(f"held-out loss {facts['eval_loss']:.4f}")
    return 0


def _run(trainer: CompletionTrainer, callbacks: list[TrainerCallback], checkpoint: Path | None) -> None:
    for callback in callbacks:
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        message = f"the GPU's memory does not hold this training: {str(error).splitlines()[0]}"
        raise ProgramError(message, "lower train.batch_size or dataset.max_length, or take a larger GPU", NOT_READY) from error


def _trainer(args: Args, engine: Engine) -> CompletionTrainer:
    wanted, base = args.recipe["train"], args.inputs["base"] / "model"
    settings = configuration(args, engine.trainer_settings())  # first: with several processes it joins them, and says which GPU is whose
    tokenizer = load_tokenizer(base)
    rows = tokenized(args.inputs["dataset"] / "train.jsonl", tokenizer, args.recipe["max_length"])
    held_out = tokenized(args.inputs["dataset"] / "eval.jsonl", tokenizer, args.recipe["max_length"]) if wanted["eval_steps"] else []
    held_out = sorted(held_out[: wanted["eval_rows"]], key=lambda unit: len(unit["input_ids"]))
    think = args.recipe["think"]
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return CompletionTrainer(
        rows_file=args.inputs["dataset"] / "train.jsonl",
        model=engine.adapted_model(base, tokenizer.convert_tokens_to_ids([think["open"], think["close"]]), args.recipe),
        args=settings,
        train_dataset=Dataset.from_list(arranged(rows, args.recipe)),
        eval_dataset=Dataset.from_list(held_out) if held_out else None,
        processing_class=tokenizer,
        data_collator=Padded(padding, 8 if torch.cuda.is_available() else 1) if wanted["packing"] == "none" else Flat(),
    )


def arranged(rows: list[Unit], recipe: dict[str, Any]) -> list[Unit]:
    """Return the rows, or packs of them, in the order in which they are trained on; a step takes the next batch x processes of them."""
    wanted = recipe["train"]
    if wanted["packing"] != "packed":
        return ordered(rows, wanted["batch_size"] * wanted["processes"], recipe["seed"])
    packs = packed(rows, recipe["max_length"], recipe["seed"])
    tokens = sum(len(row["input_ids"]) for row in rows)
    a_step = wanted["batch_size"] * wanted["gradient_accumulation"] * wanted["processes"]
    full = tokens / (len(packs) * recipe["max_length"])
    if ranks.first():
        note(f"{len(rows)} rows in {len(packs)} packs, {full:.1%} full; all of them are {-(-len(packs) // a_step)} steps")
    return packs


def newest_checkpoint(scratch: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; half-written ones are removed."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if (path / COMPLETE).is_file()]
    if ranks.first():
        for path in (path for path in found if path not in whole):
            shutil.rmtree(path)
            note(f"{path.name} was half-written and is not used")
        if whole:
            note(f"goes on from {whole[-1].name}")
    return whole[-1] if whole else None


def save_adapter(model: Any, trained: dict[str, torch.Tensor] | None, folder: Path, base: str) -> None:
    """Write the adapter, whose weights `trained` holds unless the model does, and read it back; ProgramError (6) when it is not what was trained."""
    model.peft_config["default"].base_model_name_or_path = base  # not the path on this machine
    model.save_pretrained(folder, state_dict=trained, save_embedding_layers=False)
    share(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    wanted = get_peft_model_state_dict(model, state_dict=trained, save_embedding_layers=False)
    saved = load_peft_weights(str(folder), device="cpu")
    wrong = [name for name, weight in wanted.items() if name not in saved or not torch.equal(weight.cpu(), saved[name])]
    wrong += [name for name, weight in saved.items() if not torch.isfinite(weight).all()]
    if wrong or len(wanted) != len(saved):
        raise ProgramError(f"the adapter does not load as it was trained: {wrong[:3]}", "look at the stage's log", BROKEN)


def summary(trainer: CompletionTrainer, metrics: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return figures of the run; memory in bytes, peak of this process."""
    on_gpu = torch.cuda.is_available()
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in metrics if "eval_loss" in entry]
    rates = sorted(entry["tokens_per_second"] for entry in metrics if "tokens_per_second" in entry)
    return {
        "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
        "processes": trainer.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "tokens_per_second": rates[len(rates) // 2],
        "peak_memory": torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "trainable_parameters": trainer.model.get_nb_trainable_parameters()[0],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        **({"eval_loss": held_out[-1], "best_eval_loss": min(held_out)} if held_out else {}),
    }


def check_loss(metrics: list[dict[str, Any]]) -> None:
    """Hold the losses against the contract: where there are enough of them, the last fifth is below the first."""
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    width = max(1, len(losses) // 5)
    first, last = (sum(part) / width for part in (losses[:width], losses[-width:]))
    if len(losses) >= 4 and not last < first:
        raise ProgramError(f"the loss did not fall: from {first:.3f} to {last:.3f}", "lower train.learning_rate or train longer", BROKEN)
