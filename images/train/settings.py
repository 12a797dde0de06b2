"""The recipe's train section as the trainer's configuration."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from program import NOT_READY, Args, ProgramError
from trl import SFTConfig

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
"""train.optimizer -> transformers' name."""
ZERO = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "bf16": {"enabled": "auto"},
    **dict.fromkeys(("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps", "gradient_clipping"), "auto"),
}
"""DeepSpeed's configuration: ZeRO-3, with the trainer's values. Nothing here has run it yet."""


def configuration(args: Args, engine: dict[str, Any]) -> SFTConfig:
    """Translate the recipe, with the engine's own settings; where several processes train, this joins them."""
    wanted, on_gpu = args.recipe["train"], torch.cuda.is_available()
    optimizer = OPTIMIZERS[wanted["optimizer"]]
    return SFTConfig(
        output_dir=str(args.scratch),
        max_steps=wanted["steps"],
        per_device_train_batch_size=wanted["batch_size"],
        per_device_eval_batch_size=wanted["batch_size"],
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
        train_sampling_strategy="sequential",  # batches.py has shuffled them
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        optim="adamw_torch_fused" if on_gpu and optimizer == "adamw_torch" else optimizer,
        dataloader_pin_memory=on_gpu,
        report_to=[],
        disable_tqdm=True,
        **{**engine, **_evaluation(wanted), **_processes(wanted, on_gpu)},
    )


def _evaluation(wanted: dict[str, Any]) -> dict[str, Any]:
    return {"eval_strategy": "steps", "eval_steps": wanted["eval_steps"]} if wanted["eval_steps"] else {}


def _processes(wanted: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """Return how several processes share the model; ProgramError (4) where DeepSpeed is wanted and not installed."""
    if wanted["processes"] == 1:
        return {}
    if not on_gpu:
        # transformers 5.17 loads an optimizer's state to "cpu:0", which torch.load does not take for the CPU
        torch.serialization.register_package(0, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None)
    backend = {"ddp_backend": "nccl" if on_gpu else "gloo", "ddp_find_unused_parameters": False}
    match wanted["distributed"]:
        case "fsdp":
            sharding = {"version": 2, "reshard_after_forward": True, "activation_checkpointing": on_gpu, "state_dict_type": "FULL_STATE_DICT"}
            return {**backend, "fsdp": True, "fsdp_config": sharding, "gradient_checkpointing": False}  # its own checkpointing gathers once less
        case "deepspeed":
            if importlib.util.find_spec("deepspeed") is None:
                message = "train.distributed: deepspeed is not installed in this environment"
                remedy = "use train.distributed: fsdp, which shards the model likewise, or an environment with deepspeed"
                raise ProgramError(message, remedy, NOT_READY)
            return {**backend, "deepspeed": ZERO}
        case _:
            return backend
