"""Prove a GGUF: the same shape, token ids, chat template and end tokens as its HF checkpoint, and answers close to those of the 16-bit file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from libllama import Model, opened
from tokenizers import Tokenizer

Rows = Sequence[tuple[Sequence[int], int]]

STRINGS = (
    *(" ", "  ", "\n", "\n\n", "\n \n\n", "\t", "a", " a", "  lead and trail  ", "x\n\n  y\t z\r\n"),
    *("Hello, world!", "don't DON'T we'll", "3", "47 + 85 = 132", "1,234,567.89"),
    *("def f(x):\n    return {'a': x[0]}  # why\n", "{{ json . }} {% if %}"),
    *("你好，世界。", "　全角　空格", "日本語のテスト", "Ünïcödé ß", "👩‍🔬🙂", "a\u00a0b\u200bc", "ﷺ"),
    *("<think>", "</think>", "<think>\nTens: 70 + 50 = 120.\n</think>\n\n129", "<|im_start|>user\nHi<|im_end|>\n", "<thinking>", "</"),
)
"""Texts on which tokenizers have been seen to differ: white space, digits, other scripts, joined emoji, code, special tokens and near misses."""


def faults(gguf: Path, model: Path, prompt: str) -> Iterator[str]:
    """Yield every way in which the file is not the checkpoint; `prompt` is a rendered conversation."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    with opened(gguf, vocabulary_only=True) as loaded:
        yield from _metadata(loaded, model)
        yield from _tokens(loaded, tokenizer, prompt)
        yield from _around(loaded, tokenizer, prompt, _bos(model))
        yield from _ends(loaded, model)


def _metadata(loaded: Model, model: Path) -> Iterator[str]:
    """Yield where the metadata disagrees with config.json and chat_template.jinja."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kind = loaded.metadata("general.architecture")
    wanted = {
        "general.architecture": config["model_type"],
        f"{kind}.block_count": str(config["num_hidden_layers"]),
        f"{kind}.embedding_length": str(config["hidden_size"]),
        f"{kind}.context_length": str(config["max_position_embeddings"]),
        "tokenizer.chat_template": (model / "chat_template.jinja").read_text(encoding="utf-8"),
    }
    for name, value in wanted.items():
        if loaded.metadata(name) != value:
            yield f"{name} is {loaded.metadata(name)!r}, the checkpoint has {value!r}"


def _tokens(loaded: Model, tokenizer: Any, prompt: str) -> Iterator[str]:
    """Yield each text that llama.cpp and the HF tokenizer split differently."""
    for text in (*STRINGS, prompt):
        ours, theirs = loaded.tokenize(text), tokenizer.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            yield f"token ids of {text!r} are {ours} in llama.cpp and {theirs} in the checkpoint"


def _around(loaded: Model, tokenizer: Any, prompt: str, bos: str) -> Iterator[str]:
    """Yield a complaint where llama.cpp would send another prompt than the template's; llama-server drops a BOS that the model adds itself."""
    sent = prompt.removeprefix(bos) if loaded.adds_bos else prompt
    if loaded.tokenize(sent, add_special=True) != tokenizer.encode(prompt, add_special_tokens=False).ids:
        yield "llama.cpp puts a token (BOS?) around the prompt that the chat template does not have"


def _bos(model: Path) -> str:
    token = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8")).get("bos_token") or ""
    return token["content"] if isinstance(token, dict) else token


def _ends(loaded: Model, model: Path) -> Iterator[str]:
    """Yield each token at which generation_config.json ends an answer and llama.cpp does not."""
    ends = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    eos = loaded.metadata("tokenizer.ggml.eos_token_id")
    if eos not in map(str, ends):
        yield f"tokenizer.ggml.eos_token_id is {eos}, generation_config.json ends at {ends}"
    yield from (f"llama.cpp does not end an answer at token {token}, generation_config.json does" for token in ends if not loaded.ends(token))


def weights(model: Path) -> int:
    """Return the number of weights in all safetensors files, from their headers."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        total += sum(int(np.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")
    return total


def scores(gguf: Path, rows: Rows, reference: Path) -> dict[str, float]:
    """Evaluate the completions of `rows` (ids, start) against `reference`: KL (nats a token: mean, 99th percentile, largest), top-1 agreement,
    perplexity, and the number of weights.

    `reference` is a .npy of log-probabilities; where there is none yet, this file's own are written there and the KL is 0. ValueError for a logit
    that is not finite.
    """
    losses, divergences, agreed, place = [], [], 0, 0
    with opened(gguf) as model, _yardstick(reference, rows) as true:
        for (ids, start), seen in zip(rows, model.log_probabilities(rows), strict=True):
            if not np.isfinite(seen).all():
                raise ValueError("a logit is not finite")
            part, place = true(place, seen), place + len(seen)
            losses.extend(-seen[range(len(seen)), list(ids[start:])])
            divergences.extend((np.exp(part) * (part - seen)).sum(axis=1))
            agreed += int((part.argmax(axis=1) == seen.argmax(axis=1)).sum())
        kl = {"mean_kl": np.mean(divergences), "p99_kl": np.percentile(divergences, 99), "max_kl": np.max(divergences)}
        measured = {**kl, "top1": agreed / place, "perplexity": np.exp(np.mean(losses))}
        size = {"weights": model.weights, "bits_per_weight": model.tensor_bytes * 8 / model.weights, "tokens": place}
    return {name: float(value) for name, value in measured.items()} | size


@contextlib.contextmanager
def _yardstick(path: Path, rows: Rows) -> Iterator[Callable[[int, np.ndarray], np.ndarray]]:
    """Yield a function from (place, log-probabilities) to the reference's there; the first file, which finds none, becomes it."""
    if path.exists():
        known = np.load(path, mmap_mode="r")
        yield lambda place, seen: known[place : place + len(seen)]
        return
    positions, kept = sum(len(ids) - start for ids, start in rows), []

    def keep(place: int, seen: np.ndarray) -> np.ndarray:
        if not kept:
            kept.append(np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.float32, (positions, seen.shape[1])))
        kept[0][place : place + len(seen)] = seen
        return seen

    yield keep
    kept[0].flush()
    path.with_suffix(".part").replace(path)
