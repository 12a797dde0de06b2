"""Stage train: an adapter learns the completions over a frozen base, held in NF4 (QLoRA) or as it is; a killed run goes on from its
last whole checkpoint.

Not covered: several GPUs, packing.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from checkpoint import load_tokenizer, share
from completion_trainer import COMPLETE, CompletionTrainer
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, load_peft_weights
from program import BROKEN, INVALID, Args, ProgramError, note, run
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, DataCollatorForSeq2Seq, set_seed
from trl import SFTConfig

IGNORED = -100
"""Label of a token that carries no loss."""
WINDOW = 8
"""Batches among which rows are grouped by length."""


def main(args: Args) -> int:
    """Leave adapter/, metrics.jsonl and train.json."""
    started = time.monotonic()
    disable_progress_bars()
    set_seed(args.recipe["seed"])
    tokenizer = load_tokenizer(args.inputs["base"] / "model")
    rows = tokenized(args.inputs["dataset"] / "train.jsonl", tokenizer, args.recipe["max_length"])
    rows = ordered(rows, args.recipe["train"]["batch_size"], args.recipe["seed"])
    model = adapted_model(args.inputs["base"] / "model", tokenizer, args.recipe)
    trainer = CompletionTrainer(
        model=model,
        args=configuration(args),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED, pad_to_multiple_of=8 if torch.cuda.is_available() else None),
    )
    resumed = newest_checkpoint(args.scratch)
    if resumed:
        note(f"goes on from {resumed.name}")
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    base = json.loads((args.inputs["base"] / "base.json").read_text(encoding="utf-8"))
    save_adapter(trainer.model, args.output / "adapter", base["source"])
    metrics = [entry for entry in trainer.state.log_history if "loss" in entry]
    (args.output / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in metrics), encoding="utf-8")
    facts = {"base": base, "resumed_from": resumed.name if resumed else None, **summary(model, metrics, time.monotonic() - started)}
    (args.output / "train.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    check_loss(metrics)
    note(f"loss {facts['first_loss']:.3f} -> {facts['last_loss']:.4f} in {len(metrics)} steps, {facts['tokens_per_second']:.0f} tokens/s")
    return 0


def tokenized(path: Path, tokenizer: Any, max_length: int) -> list[dict[str, list[int]]]:
    """Return input_ids and labels of the rows; the prompt carries no loss.

    Prompt and completion are tokenised apart, as a server does that sees the prompt alone; over a joint text, tokens could
    reach across the seam.
    """
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt, completion = (tokenizer.encode(row[part], add_special_tokens=False) for part in ("prompt", "completion"))
        ids = prompt + completion
        if len(ids) > max_length:
            raise ProgramError(f"a row of {len(ids)} tokens, more than {max_length}", "run the dataset stage again", BROKEN)
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [IGNORED] * len(prompt) + completion})
    return rows


def ordered(rows: list[dict[str, list[int]]], batch: int, seed: int) -> list[dict[str, list[int]]]:
    """Return the rows shuffled, with rows of similar length in a batch, so that little is computed on padding.

    The trainer's own grouping by length goes from the longest to the shortest rows, which made the last steps unlearn.
    """
    chance = random.Random(seed)
    shuffled = chance.sample(rows, len(rows))
    batches = []
    for start in range(0, len(shuffled), batch * WINDOW):
        window = sorted(shuffled[start : start + batch * WINDOW], key=lambda row: len(row["input_ids"]))
        parts = [window[at : at + batch] for at in range(0, len(window), batch)]
        batches += chance.sample(parts, len(parts))
    batches.sort(key=len, reverse=True)  # the one short batch last
    return [row for part in batches for row in part]


def adapted_model(folder: Path, tokenizer: Any, recipe: dict[str, Any]) -> Any:
    """Return the frozen base with a fresh adapter, and trainable rows for the two tags where they were added to the vocabulary."""
    wanted, think, on_gpu = recipe["train"], recipe["think"], torch.cuda.is_available()
    kind = torch.bfloat16 if on_gpu else torch.float32  # a CPU without AVX512-BF16 is seven times slower in bfloat16
    quantized = {"quantization_config": nf4(kind)} if wanted["quantization"] == "nf4" else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, device_map={"": 0 if on_gpu else "cpu"}, **quantized)
    model.config.use_cache = False
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes 0.50: such CPUs repack the weights in the first pass without gradient, and later gradients are wrong
            module.support_avx512bf16_for_cpu = False
    tags = tokenizer.convert_tokens_to_ids([think["open"], think["close"]])
    lora = LoraConfig(
        r=wanted["lora"]["rank"],
        lora_alpha=wanted["lora"]["alpha"],
        lora_dropout=wanted["lora"]["dropout"],
        target_modules=list(wanted["lora"]["target_modules"]),
        trainable_token_indices={"embed_tokens": sorted(tags)} if think["add_tokens"] else None,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:  # PEFT names the modules it did not find
        raise ProgramError(f"train.lora.target_modules: {error}", "name linear layers of this model", INVALID) from error


def nf4(kind: torch.dtype) -> BitsAndBytesConfig:
    """Return QLoRA's quantisation: NF4 with quantised constants, computing in `kind`."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind)


def configuration(args: Args) -> SFTConfig:
    """Translate the recipe into the trainer's configuration."""
    wanted, on_gpu = args.recipe["train"], torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(args.scratch),
        max_steps=wanted["steps"],
        per_device_train_batch_size=wanted["batch_size"],
        gradient_accumulation_steps=wanted["gradient_accumulation"],
        learning_rate=wanted["learning_rate"],
        warmup_steps=min(wanted["warmup_steps"], wanted["steps"] - 1),
        lr_scheduler_type=wanted["schedule"],
        weight_decay=wanted["weight_decay"],
        save_steps=wanted["checkpoint_steps"],
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=args.recipe["seed"],
        max_length=args.recipe["max_length"],
        train_sampling_strategy="sequential",  # `ordered` has shuffled them
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=on_gpu,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        dataloader_pin_memory=on_gpu,
        report_to=[],
        disable_tqdm=True,
    )


def newest_checkpoint(scratch: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; half-written ones are removed."""
    found = sorted(scratch.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in (path for path in found if not (path / COMPLETE).is_file()):
        shutil.rmtree(path)
        note(f"{path.name} was half-written and is not used")
    return next((path for path in reversed(found) if path.is_dir()), None)


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Write the adapter and read it back; ProgramError (6) when it is not what was trained."""
    model.peft_config["default"].base_model_name_or_path = base  # not the path on this machine
    model.save_pretrained(folder, save_embedding_layers=False)
    share(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    trained, saved = get_peft_model_state_dict(model, save_embedding_layers=False), load_peft_weights(str(folder), device="cpu")
    wrong = [name for name, weight in trained.items() if name not in saved or not torch.equal(weight.cpu(), saved[name])]
    wrong += [name for name, weight in saved.items() if not torch.isfinite(weight).all()]
    if wrong or len(trained) != len(saved):
        raise ProgramError(f"the adapter does not load as it was trained: {wrong[:3]}", "look at the stage's log", BROKEN)


def summary(model: Any, metrics: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return figures of the run; memory in bytes, peak of this process."""
    on_gpu = torch.cuda.is_available()
    losses = [entry["loss"] for entry in metrics]
    rates = sorted(entry["tokens_per_second"] for entry in metrics if "tokens_per_second" in entry)
    return {
        "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
        "tokens_per_second": rates[len(rates) // 2],
        "peak_memory": torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "trainable_parameters": model.get_nb_trainable_parameters()[0],
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def check_loss(metrics: list[dict[str, Any]]) -> None:
    """Hold the losses against the contract: where there are enough of them, the last fifth is below the first."""
    losses = [entry["loss"] for entry in metrics]
    width = max(1, len(losses) // 5)
    first, last = (sum(part) / width for part in (losses[:width], losses[-width:]))
    if len(losses) >= 4 and not last < first:
        raise ProgramError(f"the loss did not fall: from {first:.3f} to {last:.3f}", "lower train.learning_rate or train longer", BROKEN)


if __name__ == "__main__":
    run(main)
