"""What a recipe can say of one engine alone: how vLLM, llama.cpp and Ollama are given the model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from toolkit.compression import STORED, StoredFormat
from toolkit.fit.card import checked
from toolkit.section import Fraction, Section

Placing = Literal["merged", "separate", "both"]
"""Whether an engine is given the merged model, the base with the adapter beside it, or one after the other."""


class LlamaCpp(Section):
    """What llama.cpp is given beyond what the recipe implies."""

    adapter: Placing = "merged"
    """`separate` serves the 16-bit base with the adapter beside it (variant `f16-adapter`); `both` is that and the merged files."""


class Ollama(Section):
    """What Ollama is given beyond what the recipe implies."""

    adapter: Placing = "merged"
    """`separate` serves the 16-bit base with the adapter as the Modelfile's ADAPTER (variant `f16-adapter`); `both` is that and the merged file."""


class Vllm(Section):
    """Flags of vLLM beyond those the recipe implies."""

    variants: Annotated[tuple[Literal["auto", "bnb-nf4", "fp8", "fp8-weights", "bf16", StoredFormat], ...], Field(min_length=1)] = ("auto",)
    """`bf16` serves the merged weights; these quantise them while loading: `fp8` for cards that compute in it, `fp8-weights` computing
    in 16 bits for older ones, `bnb-nf4` with bitsandbytes, as the tutorial does. `w4a16`, `int8`, `fp8-dynamic` and `bnb-nf4-stored` are made
    once, as files (section `compress`). `auto` is the one of the first four that is fastest for serve.parallel and serve.context on the card.
    `serve` takes the first."""
    profile: Literal["fitted", "tutorial"] = "fitted"
    """`fitted`: sequences, CUDA graphs and key-value cache are sized for the card and the load; `tutorial`: the tutorial's flags, no others."""
    card: Annotated[str, AfterValidator(checked)] | None = None
    """The card it is meant for, as `RTX 4090` or `24GiB`: no more of a larger one is taken. The machine's own where it is not set."""
    tensor_parallel: Annotated[int, Field(gt=0)] = 1
    """Cards over which the weights are spread."""
    kv_cache: Literal["auto", "fp8"] = "auto"
    """Type of the key-value cache: 16 bits, or half of it."""
    gpu_memory_utilization: Fraction | None = None
    """Share of the GPU's memory vLLM may take, instead of the fitted size; 0.9 where the card is neither stated nor seen."""
    extra_args: tuple[str, ...] = ()
    """Further flags, as they are."""
    adapter: Placing = "merged"
    """`separate` serves the base in each of the variants with the adapter beside it (`bf16-adapter`); `both` is that and the merged model."""

    @model_validator(mode="after")
    def _stored_is_merged(self) -> Vllm:
        stored = [variant for variant in self.variants if variant in STORED]
        if stored and self.adapter == "separate":
            raise ValueError(f"variants: {', '.join(stored)} is made of the merged model; set adapter to merged or both, or serve another variant")
        return self
