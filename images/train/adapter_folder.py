"""An adapter's folder as another trainer left it: what its files say of themselves, read without torch and before anything heavy.

Formats: PEFT's adapter_config.json; safetensors (https://github.com/huggingface/safetensors, "Format"). Not covered: adapters of several
parts, and those that PEFT does not write (kohya's, diffusers').
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program import ProgramError

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
HEADER_LIMIT = 100_000_000
"""Bytes that a safetensors header may have (the format's own limit)."""
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to start the weights (init_lora_weights) that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ) change it too."""
UNMERGEABLE = {
    "layer_replication": "repeats layers, so that the merged model would not be the base's shape",
    "alora_invocation_tokens": "acts only behind certain tokens, which no merged weight can do",
    "arrow_config": "chooses among several adapters token by token, which no merged weight can do",
    "use_qalora": "belongs to its quantised base",
}
README_SIGNS = (("LLaMA-Factory", "llama-factory"), ("Axolotl", "axolotl"), ("ms-swift", "ms-swift"), ("unsloth", "unsloth"), ("TRL", "trl"))
"""Trainers by the tag that they write into a model card, the more telling ones first."""
DONE_BY_HAND = (
    "convert it where you trust its maker: torch.load(path, weights_only=True), then safetensors.torch.save_file; or set adapter.allow_pickle: true, "
    "which reads it in that way and no other"
)


@dataclass(frozen=True)
class Adapter:
    """A folder whose config was read and found to be a LoRA that can be merged."""

    folder: Path
    config: dict[str, Any]

    @property
    def weights(self) -> Path:
        """Return the file of its weights: safetensors wherever there are both."""
        safe = self.folder / WEIGHTS
        return safe if safe.is_file() else self.folder / PICKLE


def read(folder: Path, allow_pickle: bool) -> Adapter:
    """Read an adapter's config; ProgramError (3) for what is no LoRA, cannot be merged, or has no weights that may be read."""
    config = _config(folder)
    problem = next(_problems(config), None)
    if problem:
        raise ProgramError(f"{CONFIG}: {problem[0]}", problem[1])
    if not (folder / WEIGHTS).is_file():
        if not (folder / PICKLE).is_file():
            raise ProgramError(f"the adapter's folder {folder.name} holds no {WEIGHTS}", "copy the whole folder that the trainer wrote")
        if not allow_pickle:
            raise ProgramError(f"{folder.name} holds {PICKLE} alone, a pickle, which can run anything when it is read", DONE_BY_HAND)
    return Adapter(folder, config)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        inner = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}"))
        remedy = f"name one of its folders: {', '.join(inner)}" if inner else "name the folder that the trainer's save_pretrained wrote"
        if (folder / "config.json").is_file():
            remedy = "that is a whole checkpoint, not an adapter: state it as base.source"
        raise ProgramError(f"{folder.name} is no PEFT adapter: it holds no {CONFIG}", remedy)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProgramError(f"{CONFIG} is no JSON: {error}", "copy the folder again") from error
    if not isinstance(config, dict):
        raise ProgramError(f"{CONFIG} is no mapping of settings", "copy the folder again")
    return config


def _problems(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield why a config is not that of a LoRA that can be merged, each with its remedy."""
    kind = config.get("peft_type")
    if kind != "LORA":
        yield (
            f"peft_type is {kind!r}; only LORA (with DoRA and rsLoRA) is taken",
            "merge it with its own trainer, and state the merged checkpoint as base.source",
        )
    ranks = {"r": config.get("r"), **(config.get("rank_pattern") or {})}
    wrong = {name: rank for name, rank in ranks.items() if not isinstance(rank, int) or isinstance(rank, bool) or rank <= 0}
    if wrong:
        yield f"rank {wrong} is no rank: at least 1 is wanted", "train it again, or copy the folder again"
    if not config.get("target_modules") and not config.get("target_parameters"):
        yield "target_modules is empty: the adapter belongs to no layer", "copy the folder again"
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        remedy = "save it as a plain LoRA: PEFT's path_initial_model_for_weight_conversion, LLaMA-Factory's pissa_convert: true"
        yield f"init_lora_weights is {start!r}, which changes the base's own weights too: the adapter alone does not tell the model", remedy
    for name, why in UNMERGEABLE.items():
        if config.get(name):
            yield f"{name} is set; such an adapter {why}", "train a plain LoRA"


def header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return type and shape of every tensor of a safetensors file; ProgramError (3) where the file is not whole."""
    remedy, size = "copy the file again, and compare its checksum with the original's", path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            hint = " (a Git LFS pointer: run `git lfs pull`)" if first.startswith(b"version") else ""
            raise ProgramError(f"{path.name} is no safetensors file, or was cut off: {size} bytes{hint}", remedy)
        try:
            entries = json.loads(stream.read(length))
            tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            found = {name: (str(entry["dtype"]), [int(count) for count in entry["shape"]]) for name, entry in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ProgramError(f"{path.name}: its header cannot be read: {type(error).__name__}: {error}", remedy) from error
    if size != 8 + length + end:
        raise ProgramError(f"{path.name} has {size} bytes where its header tells of {8 + length + end}", remedy)
    if not found:
        raise ProgramError(f"{path.name} holds no tensor", "train it again: nothing was saved")
    return found


def trainer(folder: Path, config: dict[str, Any]) -> dict[str, str | None]:
    """Return who made an adapter, by its files alone: name and version where they tell, and PEFT's version."""
    name, version = _swift(folder) or _carded(folder) or (None, None)
    return {"name": name, "version": version, "peft": str(config["peft_version"]) if config.get("peft_version") else None}


def _swift(folder: Path) -> tuple[str, str | None] | None:
    for path in (folder / "args.json", folder / "sft_args.json"):  # before ms-swift 3
        told = _json(path)
        if isinstance(told, dict) and ("swift_version" in told or path.name == "sft_args.json"):
            return "ms-swift", str(told["swift_version"]) if told.get("swift_version") else None
    return None


def _carded(folder: Path) -> tuple[str, str | None] | None:
    """Read the tags at the head of a model card, and Axolotl's version in its text."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:50_000]
    except OSError:
        return None
    head = card.split("\n---", 1)[0] if card.startswith("---") else ""
    tags = {word.strip("'\"").lower() for word in re.findall(r"^\s*- (\S+)\s*$", head, re.MULTILINE)}
    version = re.search(r"axolotl version: `([^`\s]+)`", card)
    if version:
        return "Axolotl", version[1]
    return next(((name, None) for name, tag in README_SIGNS if tag in tags), None)


def losses(folder: Path) -> list[dict[str, float]]:
    """Return the losses that the trainer's own record tells of, none where it left none (transformers' trainer_state.json)."""
    state = _json(folder / "trainer_state.json")
    told = state.get("log_history") if isinstance(state, dict) else None
    kept = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")
    rows = ({key: row[key] for key in kept if isinstance(row.get(key), int | float)} for row in told or () if isinstance(row, dict))
    return [row for row in rows if {"loss", "eval_loss"} & row.keys()]


def shown(text: str) -> str:
    """Return a stranger's text as it may stand in a terminal: what does not print is spelt out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
