"""A store that looks finished for a recipe, with small files: sealed as the pipeline seals, so that what reads stores takes it for real."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit import service
from toolkit.artifact import seal
from toolkit.store import Store

CONFIG = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
}
CHECKPOINT = {"model/config.json": json.dumps(CONFIG), "model/model.safetensors": "weights", "model/tokenizer.json": "{}"}
FILES = {
    "base": {**CHECKPOINT, "base.json": "{}"},
    "dataset": {"train.jsonl": "{}\n", "stats.json": "{}"},
    "train": {"adapter/adapter_config.json": '{"r": 16}', "adapter/adapter_model.safetensors": "adapter", "metrics.jsonl": ""},
    "merge": {**CHECKPOINT, "probes.jsonl": "{}\n"},
    "reference": {"model/config.json": json.dumps(CONFIG), "probes.jsonl": "{}\n"},
    "lora": {"adapter.gguf": "adapter"},
    "gguf": {"model-f16.gguf": "16 bits", "model-q8_0.gguf": "8 bits", "model-q4_k_m.gguf": "4 bits"},
    "modelfile": {"Modelfile": "FROM ../gguf/model-q8_0.gguf\n"},
}


def finish(recipe: Path, root: Path, engines: tuple[str, ...] = ("vllm", "ollama", "llamacpp")) -> Path:
    """Make and seal the directories that the engines need of a recipe; return the store."""
    store = Store(root)
    for engine in engines:
        _, needed = service.steps(recipe, engine, None)  # type: ignore[arg-type]
        for step in needed:
            directory = store.directory(step)
            if store.sealed(step):
                continue
            for name, text in FILES[step.stage.name].items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_text(text, encoding="utf-8")
            facts = {"step": step.name, "stage": step.stage.name, "id": step.id, "inputs": {}, "recipe": {}, "programs": "", "runner": "local"}
            seal(directory, **facts, thinkship="0", seconds=0)
    return root
