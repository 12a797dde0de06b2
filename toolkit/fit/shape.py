"""The shape of a model, and how its checkpoint stores it: from config.json where that is here, from shapes.json for known repositories."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import InvalidError

SHAPES = Path(__file__).with_name("shapes.json")
KNOWN_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of model_type whose layers are the ones described here: attention with grouped keys, an MLP of three matrices, no experts."""
NF4_BYTES, NF4_CONSTANTS, NF4_CONSTANTS_WIDE = 0.5, (1 + 4 / 256) / 64, 4 / 64
"""Bytes a weight: four bits; one quantised constant for 64 weights and one fp32 constant for 256 of those (QLoRA, double quantisation,
arXiv 2305.14314 section 3); and an fp32 constant for 64 weights where double quantisation is undone, as vLLM's loader does."""
STORED_BYTES: dict[str, float] = {"bf16": 2, "f32": 4, "q4_1": 0.625, "nf4": NF4_BYTES + NF4_CONSTANTS}


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense decoder; all that memory depends on."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @classmethod
    def of_config(cls, config: Mapping[str, Any], name: str = "config.json") -> Shape:
        """Read a checkpoint's config.json; InvalidError for a kind of model that is not described here."""
        if config.get("model_type") not in KNOWN_TYPES:
            message = f"{name}: memory is not known for a model of type {config.get('model_type')!r}"
            raise InvalidError(message, f"known are {', '.join(KNOWN_TYPES)}")
        heads = int(config["num_attention_heads"])
        return cls(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """A layer's linear modules, each with its width in and out."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, wide),
            "k_proj": (self.hidden, narrow),
            "v_proj": (self.hidden, narrow),
            "o_proj": (wide, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def mlp_parameters(self) -> int:
        """Weights of one layer's MLP."""
        return 3 * self.hidden * self.intermediate

    @property
    def attention_parameters(self) -> int:
        """Weights of one layer's attention."""
        return sum(inner * outer for inner, outer in self.linears.values()) - self.mlp_parameters

    @property
    def linear_parameters(self) -> int:
        """Weights of all layers' linear modules, which are what gets quantised."""
        return self.layers * (self.mlp_parameters + self.attention_parameters)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and, unless it is tied to it, the output layer; they stay in 16 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All weights; norms and biases, below a thousandth, are left out."""
        return self.linear_parameters + self.embedding_parameters

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear module: what is held in 16 bits for a moment where weights are dequantised."""
        return max(inner * outer for inner, outer in self.linears.values())

    def kv_bytes(self, value_bytes: float = 2) -> float:
        """Return the bytes of keys and values of one token: QwQ-32B's 64 layers x 8 heads x 128 x 2 x 2 B are 0.25 MiB."""
        return self.layers * self.kv_heads * self.head_dim * 2 * value_bytes


@dataclass(frozen=True)
class Checkpoint:
    """A base as it lies on a hub or a disk."""

    name: str
    shape: Shape
    stored: Literal["bf16", "f32", "nf4", "q4_1"] = "bf16"
    wide_mlps: int = 0
    """MLPs that a 4-bit checkpoint leaves in 16 bits."""
    wide_attentions: int = 0
    """Attentions that it leaves in 16 bits."""

    @property
    def prequantized(self) -> bool:
        """Whether the 16-bit weights cannot be had from it."""
        return self.stored == "nf4"

    @property
    def wide_parameters(self) -> int:
        """Linear weights that stay in 16 bits."""
        return self.wide_mlps * self.shape.mlp_parameters + self.wide_attentions * self.shape.attention_parameters

    @property
    def bytes(self) -> float:
        """What is downloaded or read."""
        shape, each = self.shape, STORED_BYTES[self.stored]
        if self.stored != "nf4":
            return shape.parameters * each
        return (shape.linear_parameters - self.wide_parameters) * each + 2 * (self.wide_parameters + shape.embedding_parameters)


def of_source(source: Any, folder: Path) -> Checkpoint | None:
    """Return what is known of a recipe's base.source, None where nothing is; InvalidError for a folder with a config.json of another kind."""
    if hasattr(source, "path"):
        return of_folder(folder / source.path)
    names = (getattr(source, key, "") for key in ("hub", "modelscope", "pypi"))
    return next((found for name in names if name and (found := known(name))), None)


def of_folder(folder: Path) -> Checkpoint | None:
    """Read a checkpoint folder's config.json, None where there is none; InvalidError as `Shape.of_config`."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    shape, quantized = Shape.of_config(config, str(path)), config.get("quantization_config") or {}
    if quantized.get("quant_method") == "bitsandbytes":
        skipped = [str(name) for name in quantized.get("llm_int8_skip_modules") or ()]
        return Checkpoint(folder.name, shape, "nf4", *(sum(name.endswith(part) for name in skipped) for part in (".mlp", ".self_attn")))
    return Checkpoint(folder.name, shape, "f32" if "float32" in (config.get("dtype"), config.get("torch_dtype")) else "bf16")


@cache
def _table() -> dict[str, Checkpoint]:
    data = json.loads(SHAPES.read_text(encoding="utf-8"))
    shapes = {name: Shape(**values) for name, values in data["shapes"].items()}
    made = {}
    for name, row in data["repositories"].items():
        kept = {field.name: row[field.name] for field in fields(Checkpoint)[2:] if field.name in row}
        made[name] = Checkpoint(name, shapes[row["shape"]], **kept)
    return made


def known(name: str) -> Checkpoint | None:
    """Look a repository or package up in shapes.json."""
    return _table().get(name)
