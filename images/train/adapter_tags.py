"""Whether a model with this adapter can say its closing tag at all.

The base step starts the row of an added tag as the mean of the rows of the pieces it was written with (base_checkpoint.add_tags). A token's
logit is its row times the hidden state, so that the mean's is never above the largest of its pieces': no adapter that leaves the row as it is
can make the tag the likeliest token, however long it trains and however low its loss. Not covered: output layers with a bias.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from adapter_folder import Adapter
from program import ProgramError
from safetensors import safe_open
from tokenizers import Tokenizer

OUTPUT = ("lm_head.weight", "model.embed_tokens.weight")
"""The output layer's names in a checkpoint, tied last."""
ROUNDING = 0.02
"""Largest distance, as a share of the row's length, that counts as none: each row was rounded to bfloat16 by itself (0.4 %)."""
REMEDY = (
    "train the tags' rows too (PEFT: trainable_token_indices={'embed_tokens': [...]}), take a base that has its tags (any reasoning model), "
    "or train with this toolkit"
)


def check_closing_tag(adapter: Adapter, saved: Collection[str], base: Path, think: dict[str, Any]) -> None:
    """Refuse an adapter that leaves the closing tag's row as the base step made it; ProgramError (3)."""
    changes_rows = adapter.config.get("trainable_token_indices") or any(name.endswith(("embed_tokens.weight", "lm_head.weight")) for name in saved)
    if not changes_rows and is_mean_of_pieces(base, think["close"]):
        message = f"the adapter does not train the row of {think['close']}, which was added to this base: the model could never say it"
        raise ProgramError(message, REMEDY)


def is_mean_of_pieces(base: Path, tag: str) -> bool:
    """Say whether a tag's row of the output layer is, to within rounding, the mean of its pieces' rows."""
    told = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    number = next((token["id"] for token in told["added_tokens"] if token["content"] == tag), None)
    told["added_tokens"] = [token for token in told["added_tokens"] if token["content"] != tag]
    pieces = Tokenizer.from_str(json.dumps(told)).encode(tag, add_special_tokens=False).ids
    if number is None or len(pieces) < 2:
        return False
    row, *others = rows(base, [number, *pieces]) or (torch.zeros(1), torch.zeros(1))
    apart = (row - torch.stack(others).mean(0)).norm()
    return bool(row.norm() > 0 and apart < ROUNDING * row.norm())


def rows(base: Path, numbers: list[int]) -> list[torch.Tensor]:
    """Return rows of the output layer in 32 bits, none where it has another name; only they are read."""
    for name in OUTPUT:
        for path in sorted(base.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                if name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    layer = file.get_slice(name)
                    return [layer[number : number + 1][0].float() for number in numbers]
    return []
