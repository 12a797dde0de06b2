"""Whether an adapter's weights belong to this base: PEFT lays its config over the base's empty shape, and the file must hold just that."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from adapter_folder import DONE_BY_HAND, WEIGHTS, Adapter, header
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from program import ProgramError
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

Shapes = Mapping[str, list[int]]
SHOWN = 3
"""Names that a message tells."""
OTHER_BASE = "state the base that the adapter was trained on as base.source, or name the adapter of this one"
RESIZED = "train over the checkpoint that the base step leaves (thinkship run RECIPE --until base), which holds the think tags already"
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")


def safe_weights(adapter: Adapter, folder: Path) -> Path:
    """Return a safetensors file of the weights: the adapter's own, or what a pickle holds, read as plain tensors and written into `folder`."""
    if adapter.weights.name == WEIGHTS:
        return adapter.weights
    try:
        tensors = torch.load(adapter.weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own words advise to read it all the same
        raise ProgramError(
            f"{adapter.weights.name} holds more than tensors and was not read", "do not use it; have it saved as safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:  # torch seeks before the beginning of a short file
        raise ProgramError(f"{adapter.weights.name} was cut off or damaged", "copy the file again") from error
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ProgramError(f"{adapter.weights.name} holds no tensors by their names", DONE_BY_HAND)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)
    return folder / WEIGHTS


def check_shapes(adapter: Adapter, weights: Path, base: Path) -> int:
    """Hold the file's tensors against what PEFT expects over this base and return their parameters; ProgramError (3) names what differs."""
    found = {name: shape for name, (_, shape) in header(weights).items()}
    wanted, plain = expected(adapter, base)
    _check_vocabulary(found, plain)
    saved_whole = {name for name in found.keys() - wanted.keys() if plain.get(name) == found[name]}  # save_embedding_layers
    wrong = [name for name in sorted(found) if name in wanted and wanted[name] != found[name]]
    if wrong:
        raise ProgramError(*_unlike(wrong, wanted, found, len(wanted)))
    strange, missing = sorted(found.keys() - wanted.keys() - saved_whole), sorted(wanted.keys() - found.keys())
    if strange or missing:
        parts = [(strange, "have no place in this base"), (missing, "that its config asks for over this base are missing")]
        told = "; ".join(f"{len(names)} tensors {words}: {', '.join(names[:SHOWN])}" for names, words in parts if names)
        raise ProgramError(f"the adapter is not one of this base: {told}", OTHER_BASE)
    return sum(torch.Size(shape).numel() for shape in found.values())


def _unlike(wrong: list[str], wanted: Shapes, found: Shapes, total: int) -> tuple[str, str]:
    first = wrong[0]
    told = f"{first} is {_size(found[first])} where this base and the config's rank want {_size(wanted[first])}"
    message = f"{len(wrong)} of {total} tensors have other sizes: {told}"
    if 0 in found[first]:
        return message, "save it again: DeepSpeed ZeRO-3 writes empty weights unless it gathers them (stage3_gather_16bit_weights_on_model_save)"
    ranks = {shape[0] for name, shape in found.items() if name.endswith("lora_A.weight")}
    if all(sorted(found[name])[1:] == sorted(wanted[name])[1:] for name in wrong):
        return message, f"correct r in adapter_config.json: the weights have rank {', '.join(map(str, sorted(ranks)))}"
    return message, OTHER_BASE


def _size(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def _check_vocabulary(found: Shapes, plain: Shapes) -> None:
    """Refuse embeddings of another vocabulary: the trainer added tokens and resized the model."""
    for name, shape in found.items():
        rows = plain.get(name)
        if rows and shape != rows and len(shape) == len(rows) == 2 and shape[1] == rows[1]:
            raise ProgramError(f"{name} has {shape[0]} rows and this base's vocabulary {rows[0]}: the trainer resized it", RESIZED)


def expected(adapter: Adapter, base: Path) -> tuple[Shapes, Shapes]:
    """Return the shapes of the tensors that PEFT saves for this config over this base, and those of the base's own weights by PEFT's names."""
    config = LoraConfig.from_pretrained(str(adapter.folder))
    config = copy.copy(config)
    config.init_lora_weights = False  # nothing has a value here
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    model.tie_weights()
    _check_targets(adapter.config, [name for name, _ in model.named_modules()])
    _check_tied(adapter.config, model)
    plain = {f"base_model.model.{name}": list(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        with torch.device("meta"):
            wrapped = get_peft_model(model, config)
        tensors = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    except (ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise ProgramError(f"PEFT cannot lay the adapter over this base: {str(error).splitlines()[0]}", OTHER_BASE) from error
    return {name: list(tensor.shape) for name, tensor in tensors.items()}, plain


def _check_targets(config: Mapping[str, Any], modules: list[str]) -> None:
    """Refuse a config that names modules of which the base has none; PEFT passes over them where another one is found."""
    for key in ("target_modules", "modules_to_save"):
        names = config.get(key) or []
        lacking = [name for name in names if not any(module == name or module.endswith(f".{name}") for module in modules)]
        if lacking and not isinstance(names, str):
            there = sorted({module.rpartition(".")[2] for module in modules if module.endswith(("_proj", "_fc", "c_attn", "dense", "fc1", "fc2"))})
            raise ProgramError(f"{key} names {', '.join(lacking)}, of which this base has none (it has {', '.join(there)})", OTHER_BASE)


def _check_tied(config: Mapping[str, Any], model: Any) -> None:
    """Refuse an adapter that changes one of two tied layers: a merged checkpoint holds one matrix for both and cannot be what was trained."""
    named = [name for key in ("target_modules", "modules_to_save") if isinstance(config.get(key), list) for name in config[key]]
    changed = [name for name in named if name.rpartition(".")[2] in EMBEDDINGS]
    if changed and model.config.tie_word_embeddings and not config.get("ensure_weight_tying"):
        message = f"the adapter changes {' and '.join(changed)}, which this base ties to its other end: trained apart, they are no longer one matrix"
        raise ProgramError(message, "train with the linear layers alone, with trainable_token_indices, or with PEFT's ensure_weight_tying: true")


def check_values(weights: Path) -> None:
    """Refuse weights that are no numbers, and an adapter that changes nothing; ProgramError (3)."""
    changes = False
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                count = int((~torch.isfinite(tensor)).sum())
                raise ProgramError(
                    f"{name} holds {count} values that are no numbers (NaN or Inf)",
                    "train it again with a lower learning rate, or take an earlier checkpoint",
                )
            changes = changes or ("lora_A" not in name and bool(tensor.any()))
    if not changes:
        raise ProgramError("every lora_B is zero: the adapter changes nothing", "take a checkpoint that was saved after training, not before")
