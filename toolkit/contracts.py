"""What each stage's directory must hold before it is sealed, checked on the host with nothing but its files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import BrokenError
from toolkit.quality import breaches

Check = Callable[[Path, Mapping[str, Any]], Iterator[str]]
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def check(stage: str, directory: Path, recipe: Mapping[str, Any]) -> None:
    """Hold a directory against its stage's contract; BrokenError lists every breach."""
    try:
        problems = list(CONTRACTS[stage](directory, recipe))
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        problems = [f"cannot be read: {type(error).__name__}: {error}"]
    if problems:
        message = "\n  ".join([f"the {stage} stage left a directory that breaks its contract:", *problems])
        raise BrokenError(message, f"look at the stage's log; the directory {directory.name} was not sealed")


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _missing(directory: Path, *names: str) -> Iterator[str]:
    yield from (f"{name}: is missing" for name in names if not (directory / name).is_file())


def _model(directory: Path, think: Mapping[str, Any]) -> Iterator[str]:
    """Check an HF checkpoint: its files, and that the think tags are single tokens which the weights have rows for."""
    missing = list(_missing(directory, *MODEL_FILES))
    if missing or not list(directory.glob("*.safetensors")):
        yield from missing or ["no *.safetensors"]
        return
    config, generation = _json(directory / "config.json"), _json(directory / "generation_config.json")
    added = {token["content"]: token["id"] for token in _json(directory / "tokenizer.json")["added_tokens"]}
    for tag in (think["open"], think["close"]):
        if added.get(tag, math.inf) >= config["vocab_size"]:
            yield f"tokenizer.json: {tag} is no single token of the model's vocabulary of {config['vocab_size']}"
    if not generation.get("eos_token_id"):
        yield "generation_config.json: eos_token_id is not set"


def _base(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(directory, "base.json")
    yield from _model(directory / "model", recipe["base"]["think"])


def _dataset(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(directory, "stats.json")
    close, thoughtless = recipe["think"]["close"], recipe.get("dataset", {}).get("allow_no_reasoning", False)
    for name in ("train.jsonl", "eval.jsonl"):
        rows = _rows(directory / name)
        if not rows:
            yield f"{name}: no rows"
        for number, row in enumerate(rows, 1):
            reasoning, tag, answer = row["completion"].partition(close)
            thought = thoughtless or reasoning.removeprefix(recipe["think"]["open"]).strip()
            if not (tag and thought and answer.strip()):
                yield f"{name}:{number}: the completion lost its reasoning or its answer"


def _train(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(directory, "train.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    losses = [row["loss"] for row in _rows(directory / "metrics.jsonl") if "loss" in row]
    if not losses or not all(map(math.isfinite, losses)):
        yield "metrics.jsonl: the loss is missing or not finite"
    elif len(losses) >= 4 and sum(losses[-2:]) >= sum(losses[:2]):
        yield f"metrics.jsonl: the loss did not fall (from {losses[0]:.3f} to {losses[-1]:.3f})"


def _merge(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _model(directory / "model", recipe["think"])
    limit, facts = recipe["merge"]["max_logit_difference"], _json(directory / "merge.json")
    seen = facts["max_logit_difference"]
    if seen is None:
        yield from [] if facts.get("why") and facts["rows"]["weights"] else ["merge.json: neither logits nor rows were compared"]
        yield from _missing(directory, "tokens.jsonl")
        return
    yield from _missing(directory, "probes.jsonl", "tokens.jsonl")
    if not seen <= limit:
        yield f"merge.json: logits differ from base + adapter by {seen}, more than {limit}"


def _gguf(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    measured = _json(directory / "gguf.json")["types"]
    for kind in recipe["gguf"]["types"]:
        path = directory / f"model-{kind}.gguf"
        if not path.is_file():
            yield f"{path.name}: is missing"
            continue
        with path.open("rb") as stream:
            magic, version, tensors = struct.unpack("<4sIQ", stream.read(16))  # GGUF specification: magic, version, tensor count
        if magic != b"GGUF" or version not in (2, 3) or not tensors:
            yield f"{path.name}: no GGUF header of version 2 or 3 with tensors"
        yield from (f"{path.name}: {words}" for words in breaches(kind, {"types": measured, "limits": recipe["gguf"]}))


def _modelfile(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    if not (directory / "Modelfile").read_text(encoding="utf-8").startswith(("FROM ", "#")):
        yield "Modelfile: does not start with FROM"


def _serve(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(directory, "endpoint.json", "findings.json", "answers.jsonl")


def _verify(directory: Path, recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from _missing(directory, "report.html", "report.xml")
    if _json(directory / "report.json")["verdict"] not in ("pass", "fail"):
        yield "report.json: the verdict is neither pass nor fail"


CONTRACTS: dict[str, Check] = {
    "base": _base,
    "dataset": _dataset,
    "train": _train,
    "merge": _merge,
    "gguf": _gguf,
    "modelfile": _modelfile,
    "serve": _serve,
    "verify": _verify,
}
