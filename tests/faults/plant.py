"""Plants one fault in a GGUF: `plant.py ARGS.json`, run by the training environment's interpreter, which has llama.cpp's gguf package.

ARGS.json: source and target (files), and what is wrong with the target: `template` (a chat template), `fields` (key -> value of a header
field that is there), `tokens` (the name of a function of TOKENS), `weights` (the name of a function of WEIGHTS), `base` (the base model's
GGUF, for those that need one).
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

Weights = Callable[[str, np.ndarray, np.ndarray], np.ndarray]
"""(name, the tuned weight, the base's) -> the faulty one, of the same shape."""

LAYER = "blk.15."


def _embedding_rows(name: str, tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    if name == "token_embd.weight":
        tuned = tuned.copy()
        tuned[-2:] = tuned[:2]
    return tuned


def _noise(name: str, tuned: np.ndarray, base: np.ndarray) -> np.ndarray:
    return tuned + np.random.default_rng(1).normal(0, 0.15 * tuned.std(), tuned.shape).astype(tuned.dtype) if ".attn_" in name else tuned


WEIGHTS: dict[str, Weights] = {
    "the base itself": lambda name, tuned, base: base,
    "adapter merged twice": lambda name, tuned, base: tuned + (tuned - base),
    "adapter merged at half its strength": lambda name, tuned, base: (tuned + base) / 2,
    "adapter subtracted": lambda name, tuned, base: base - (tuned - base),
    "adapter merged in the first half of the layers alone": lambda name, tuned, base: base if name.startswith(("blk.1", "blk.2")) else tuned,
    "adapter of the attention alone": lambda name, tuned, base: base if ".ffn_" in name else tuned,
    "one layer lost": lambda name, tuned, base: np.zeros_like(tuned) if name.startswith(LAYER) and "norm" not in name else tuned,
    "queries and keys in the other rotary layout": lambda name, tuned, base: _unpermuted(tuned) if name.endswith("attn_q.weight") else tuned,
    "rows of the tags never written": _embedding_rows,
    "noise in the attention": _noise,
    "one matrix transposed": lambda name, tuned, base: np.ascontiguousarray(tuned.T) if name == f"{LAYER}attn_output.weight" else tuned,
    "rows of one matrix in the wrong order": lambda name, tuned, base: tuned[::-1] if name == f"{LAYER}ffn_down.weight" else tuned,
}


def _unpermuted(weight: np.ndarray) -> np.ndarray:
    rows, columns = weight.shape
    return weight.reshape(9, rows // 18, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _of_another_model(texts: list[str]) -> list[str]:
    """Turn the plain tokens of the vocabulary by one place among their like."""
    return [*texts[:1000], *texts[1001:-2], texts[1000], *texts[-2:]]


def _tags_swapped(texts: list[str]) -> list[str]:
    return [*texts[:-2], texts[-1], texts[-2]]


TOKENS = {"of another model": _of_another_model, "tags swapped": _tags_swapped}
"""Name of what is wrong with a vocabulary -> the faulty one."""


def rewrite(source: Path, target: Path, template: str | None, fields: dict[str, object], tokens: str | None = None) -> None:
    """Copy a GGUF with another header."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, arch=reader.get_field("general.architecture").contents())
    new = {}
    for key, value in fields.items():
        field = reader.get_field(key)
        kind = field.types[0] if field else gguf.GGUFValueType.BOOL
        new[key] = MetadataDetails(kind, value, sub_type=field.types[-1] if field and kind == gguf.GGUFValueType.ARRAY else None)
    if tokens:
        texts = TOKENS[tokens](reader.get_field("tokenizer.ggml.tokens").contents())
        new["tokenizer.ggml.tokens"] = MetadataDetails(gguf.GGUFValueType.ARRAY, texts, sub_type=gguf.GGUFValueType.STRING)
    if template is not None:
        new["tokenizer.chat_template"] = MetadataDetails(gguf.GGUFValueType.STRING, template)
    copy_with_new_metadata(reader, writer, new, ())


def reweigh(target: Path, base: Path, change: Weights) -> None:
    """Change the 16- and 32-bit tensors of a GGUF in place."""
    before = {tensor.name: tensor.data for tensor in gguf.GGUFReader(base).tensors}
    for tensor in gguf.GGUFReader(target, "r+").tensors:
        tensor.data[...] = change(tensor.name, tensor.data, before[tensor.name])


def main(given: dict[str, object]) -> None:
    """Make the target."""
    source, target = Path(str(given["source"])), Path(str(given["target"]))
    if given.get("template") is not None or given.get("fields") or given.get("tokens"):
        rewrite(source, target, given.get("template"), given.get("fields") or {}, given.get("tokens"))
    else:
        shutil.copyfile(source, target)
    if given.get("weights"):
        reweigh(target, Path(str(given["base"])), WEIGHTS[str(given["weights"])])


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
