"""An adapter that was trained elsewhere: how a recipe states it, and a first look at its config and its files' names before a base is fetched.

All else is looked at by images/train/import_adapter.py, which has the base beside it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from toolkit.errors import InvalidError
from toolkit.section import Name, Section
from toolkit.sources import HubSource, ModelScopeSource, PathSource

CONFIG = "adapter_config.json"
SAFETENSORS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
CONVERT = (
    "convert it where you trust its maker: torch.load(path, weights_only=True), then safetensors.torch.save_file; "
    "or set allow_pickle: true beside its source, which reads it in that way and no other"
)


class Adapter(Section):
    """An adapter that was trained elsewhere, by LLaMA-Factory, ms-swift, Axolotl, ColossalAI or a notebook: a folder that PEFT wrote."""

    source: HubSource | ModelScopeSource | PathSource
    """Where it comes from."""
    allow_pickle: bool = False
    """Take `adapter_model.bin` where there are no safetensors: read as plain tensors (weights_only), and as nothing else."""


class FurtherAdapter(Adapter):
    """One more adapter on the same base, trained elsewhere too, that is served beside the recipe's own."""

    name: Name
    """The name that clients ask for; in llama.cpp, which knows adapters by number, the one that reports call it by."""


def require_folder(folder: Path, allow_pickle: bool, key: str = "adapter/source") -> None:
    """Raise InvalidError where a folder of this machine cannot be an adapter; `key` says where the recipe names it."""
    if not folder.is_dir():
        raise InvalidError(f"{key}/path: {folder} is no folder", f"name the folder that holds {CONFIG}, from the recipe's folder on")
    names = {path.name for path in folder.iterdir()}
    require_files(names, f"{key}/path: {folder}", _inner(folder) or "name the folder that the trainer's save_pretrained wrote", allow_pickle)
    require_config((folder / CONFIG).read_text(encoding="utf-8", errors="replace"), str(folder))


def require_files(names: Collection[str], subject: str, remedy: str, allow_pickle: bool) -> None:
    """Raise InvalidError where these files are no adapter, or one that may not be read."""
    lacking = [name for name, there in ((CONFIG, CONFIG in names), (SAFETENSORS, {SAFETENSORS, PICKLE} & set(names))) if not there]
    if lacking:
        whole = "that is a whole checkpoint, not an adapter: state it as base.source"
        raise InvalidError(f"{subject} is no PEFT adapter: it holds no {lacking[0]}", whole if "config.json" in names else remedy)
    if SAFETENSORS not in names and not allow_pickle:
        raise InvalidError(f"{subject} holds {PICKLE} alone, a pickle, which can run anything when it is read", CONVERT)


def require_config(text: str, subject: str) -> None:
    """Raise InvalidError where an adapter's config is not that of a LoRA."""
    try:
        config = json.loads(text)
        kind = config.get("peft_type")
    except (ValueError, AttributeError) as error:
        raise InvalidError(f"{subject}: {CONFIG} is no JSON with settings", "copy the folder again") from error
    if kind != "LORA":
        remedy = "merge it with its own trainer, and state the merged checkpoint as base.source"
        raise InvalidError(f"{subject}: peft_type is {kind!r}; only LORA (with DoRA and rsLoRA) is taken", remedy)


def _inner(folder: Path) -> str:
    found = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    return f"name one of the folders in it: {', '.join(found)}" if found else ""
