"""Counts the bytes of activations that one training step holds at most, without a GPU: transformers' model with PEFT's adapter runs on torch's
meta device, where tensors have shapes and no content, and every storage alive is counted.

    <train environment>/bin/python benchmarks/memory_layers.py

Prints, for layers of several widths, the peak beyond weights, adapter, its gradients and the kept layer inputs, in bytes a token; the
coefficients of toolkit/fit/training.py (TRL) come from it. Not counted: the moment in which bitsandbytes holds a 4-bit matrix in 16 bits.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AttentionInterface, AutoModelForCausalLM, Qwen2Config, Qwen3Config

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak, self._seen = 0, 0, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class Attention(torch.autograd.Function):
    """Holds what a fused attention holds: queries, keys, values and its output, no square of scores."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return an output of the queries' shape."""
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Return gradients of the inputs' shapes."""
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


def attention(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks its attention functions to: [batch, heads, tokens, width] in, [batch, tokens, heads, width] out."""
    return Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def layer_peak(config: Any, tokens: int, rank: int = 16) -> int:
    """Return the peak of forward and backward pass through the layers, in bytes, with gradient checkpointing."""
    AttentionInterface.register("counted", attention)
    config._attn_implementation = "counted"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.config.use_cache = False
        model = get_peft_model(model, LoraConfig(r=rank, target_modules=MODULES, task_type="CAUSAL_LM"), autocast_adapter_dtype=False)
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        ids = torch.zeros(1, tokens, dtype=torch.long)
        positions = torch.arange(tokens).unsqueeze(0)
        with Alive() as alive:
            hidden = model.get_base_model().model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
            hidden.sum().backward()
        return alive.peak


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| kind | hidden | intermediate | layers | tokens | peak, bytes a token | of these kept layer inputs | the rest |\n|" + " --- |" * 8)
    for make, hidden, intermediate, heads, kv, layers in (
        (Qwen2Config, 5120, 27648, 40, 8, 2),
        (Qwen2Config, 5120, 27648, 40, 8, 6),
        (Qwen2Config, 5120, 13824, 40, 8, 2),
        (Qwen2Config, 2560, 13824, 20, 8, 2),
        (Qwen3Config, 4096, 12288, 32, 8, 2),
        (Qwen2Config, 576, 1536, 9, 3, 2),
    ):
        sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "vocab_size": 1024}
        config = make(**sizes, num_attention_heads=heads, num_key_value_heads=kv, head_dim=hidden // heads)
        small, large = (layer_peak(config, tokens) for tokens in (1024, 4096))
        each = (large - small) / 3072
        kept = layers * hidden * 2
        print(f"| {make.__name__[:5]} | {hidden} | {intermediate} | {layers} | | {each:,.0f} | {kept:,} | {each - kept:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
