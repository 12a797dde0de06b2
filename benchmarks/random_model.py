"""Makes a checkpoint of a known shape with random weights, for memory and speed, which do not depend on what the weights are.

    python3 benchmarks/random_model.py SHAPE FOLDER [--stored bf16|nf4|zeros] [--layers N]

SHAPE is a name of toolkit/fit/shapes.json, such as qwen2-32b. Needs torch, safetensors and tokenizers; nf4 needs bitsandbytes and a GPU. In bf16 one
layer's tensors are written under every layer's name: 65 GB in half a minute, a tmpfs where the disk is small; zeros are bf16 too, and holes of their
files, which take no disk. The tokenizer's words: four letters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SHAPES = Path(__file__).resolve().parent.parent / "toolkit" / "fit" / "shapes.json"
FAMILIES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Others are written as qwen3, which has no biases either: transformers puts another tokenizer beside a model of type llama."""
LAYERS_A_FILE = 8
LETTERS = ("abcdefg", "hijklmn", "opqrst", "uvwxyz")
"""Of which a word takes one each."""
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": ["lm_head"],
}


def config(shape: dict[str, Any], kind: str, stored: str) -> dict[str, Any]:
    """Return config.json of a shape."""
    family = "qwen2" if kind.startswith("qwen2") else "qwen3"
    made = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "vocab_size": shape["vocabulary"],
        "tie_word_embeddings": shape["tied"],
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    return made | ({"quantization_config": NF4} if stored == "nf4" else {})


def linears(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return a layer's linear modules with their rows and columns."""
    hidden, inner = shape["hidden"], shape["intermediate"]
    wide, narrow = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    attention = {"q_proj": (wide, hidden), "k_proj": (narrow, hidden), "v_proj": (narrow, hidden), "o_proj": (hidden, wide)}
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return {f"self_attn.{name}": size for name, size in attention.items()} | {f"mlp.{name}": size for name, size in mlp.items()}


def layer(shape: dict[str, Any], kind: str, stored: str, device: str) -> dict[str, torch.Tensor]:
    """Return one layer's tensors, without their prefix."""
    made: dict[str, torch.Tensor] = {}
    for name, size in linears(shape).items():
        weight = normal(size, stored, device)
        made |= quantized(name, weight) if stored == "nf4" else {f"{name}.weight": weight.cpu()}
        if kind.startswith("qwen2") and name.endswith(("q_proj", "k_proj", "v_proj")):
            made[f"{name}.bias"] = torch.zeros(size[0], dtype=torch.bfloat16)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        made[f"{norm}.weight"] = torch.ones(shape["hidden"], dtype=torch.bfloat16)
    if not kind.startswith("qwen2"):
        made |= {f"self_attn.{name}_norm.weight": torch.ones(shape["head_dim"], dtype=torch.bfloat16) for name in ("q", "k")}
    return made


def normal(size: tuple[int, int], stored: str, device: str) -> torch.Tensor:
    """Return weights of deviation 0.02, or zeros."""
    drawn = torch.zeros if stored == "zeros" else torch.randn
    return drawn(*size, device=device, dtype=torch.bfloat16) * 0.02


def quantized(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a weight as bitsandbytes stores it, with its constants quantised too."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    constants = {f"{name}.weight.{key}": value.cpu() for key, value in state.as_dict(packed=True).items()}
    return {f"{name}.weight": packed.cpu(), **constants}


def files(shape: dict[str, Any], kind: str, stored: str) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the content of each weight file."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    same = layer(shape, kind, stored, device) if stored != "nf4" else None
    for start in range(0, shape["layers"], LAYERS_A_FILE):
        content: dict[str, torch.Tensor] = {}
        for number in range(start, min(start + LAYERS_A_FILE, shape["layers"])):
            tensors = same or layer(shape, kind, stored, device)
            content |= {f"model.layers.{number}.{name}": tensor.clone() if same else tensor for name, tensor in tensors.items()}
        yield content
    table = normal((shape["vocabulary"], shape["hidden"]), stored, device).cpu()
    ends = {"model.embed_tokens.weight": table, "model.norm.weight": torch.ones(shape["hidden"], dtype=torch.bfloat16)}
    yield ends if shape["tied"] else {**ends, "lm_head.weight": table.clone()}


def make(kind: str, folder: Path, stored: str = "bf16", layers: int | None = None) -> None:
    """Write the checkpoint, of so many layers or all, with a tokenizer of as many words as the vocabulary has rows."""
    shape = json.loads(SHAPES.read_text(encoding="utf-8"))["shapes"][kind]
    shape["layers"] = layers or shape["layers"]
    folder.mkdir(parents=True)
    where = {}
    for number, content in enumerate(files(shape, kind, stored), 1):
        name = f"model-{number:05d}.safetensors"
        save_file(content, folder / name, metadata={"format": "pt"})
        if stored == "zeros":
            subprocess.run(("fallocate", "--dig-holes", str(folder / name)), check=True)
        where |= dict.fromkeys(content, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config(shape, kind, stored), indent=2), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": [2]}), encoding="utf-8")
    write_tokenizer(folder, shape["vocabulary"])


def words() -> list[str]:
    """Return texts that are one token each, at the start or after a space, and stay one whatever follows: no letter stands at two places."""
    return ["".join(letters) for letters in product(*LETTERS)]


def write_tokenizer(folder: Path, size: int) -> None:
    """Write a byte-level BPE tokenizer of `words`: transformers rebuilds a Qwen2 model's tokenizer from vocabulary and merges alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    special = {"bos_token": "<bos>", "pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    begun = [["".join(letters) for letters in product(*LETTERS[:count])] for count in range(2, len(LETTERS) + 1)]
    merges = [(word[:-1], word[-1]) for parts in begun for word in parts] + [("Ġ", word) for word in begun[-1]]
    names = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    names += [f"<unused{number}>" for number in range(size - len(names))]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40960, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_adapter(base: Path, folder: Path, rank: int, dora: bool = False) -> None:
    """Write an adapter of all linear layers, as PEFT names and stores it; its change is about 1 % of the weights."""
    from tensor_files import Checkpoint  # of the room that measures

    folder.mkdir()
    tensors = {}
    for name, weight in Checkpoint(base).weights.items():
        if name.endswith("_proj.weight"):
            place = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(rank, weight.columns) * 0.01
            tensors[f"{place}.lora_B.weight"] = torch.randn(weight.rows, rank) * 0.01
            if dora:
                tensors[f"{place}.lora_magnitude_vector"] = torch.full((weight.rows,), 0.02 * weight.columns**0.5)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": modules, "use_dora": dora}
    config["base_model_name_or_path"] = str(base.resolve())
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    """Make it and say how long it took."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("shape")
    options.add_argument("folder", type=Path)
    options.add_argument("--stored", choices=["bf16", "nf4", "zeros"], default="bf16")
    options.add_argument("--layers", type=int)
    given = options.parse_args()
    began = time.monotonic()
    make(given.shape, given.folder, given.stored, given.layers)
    size = sum(path.stat().st_size for path in given.folder.iterdir())
    print(f"{given.shape} in {given.stored}: {size / 1e9:.1f} GB in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
