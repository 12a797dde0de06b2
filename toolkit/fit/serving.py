"""What vLLM holds on a card, and the flags with which a model, a load and a card go together.

vLLM is given the size of its key-value cache in bytes instead of a share of the card: the total is then a sum of known terms, CUDA graphs
included, which its own budget leaves out or guesses (vllm-project/vllm#45178, #53013).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from toolkit.fit import GIB, MIB
from toolkit.fit.card import Card
from toolkit.fit.estimate import Estimate, Term
from toolkit.fit.shape import NF4_BYTES, NF4_CONSTANTS_WIDE, Shape

WEIGHT_BYTES = {"bnb-nf4": NF4_BYTES + NF4_CONSTANTS_WIDE, "fp8": 1.0, "fp8-weights": 1.0, "bf16": 2.0, "f16": 2.0, "f32": 4.0}
WEIGHT_BYTES |= {"bnb-nf4-stored": WEIGHT_BYTES["bnb-nf4"], "w4a16": 0.5 + 2 / 128, "int8": 1.0, "fp8-dynamic": 1.0}
"""Bytes of a linear weight; embedding and output layer stay in 16 bits."""
BITSANDBYTES = ("bnb-nf4", "bnb-nf4-stored")
"""Formats that bitsandbytes computes with: a matrix is dequantised for each pass."""
ROUNDING = 1.008
"""Quantised weights take this much more than their bits: 19.4 and 32.2 GiB were measured where 19.25 and 31.96 are counted."""
CONTEXT = 520 * MIB
"""CUDA's context of the engine's process, one H100, driver 580."""
LEFT = 0.45 * GIB
"""What vLLM holds beyond what is counted once it has served: 0.43 GiB in NF4 with eight requests at once, one H100."""
GRAPHS_BASE, GRAPH = 0.12 * GIB, 0.0282 * GIB
"""Memory of CUDA graphs: 0.86 GiB with 7 sizes and 2.1 GiB with 51, measured on 64 layers of QwQ-32B in NF4, a dequantised matrix in it."""
GRAPH_LAYERS = 64
TOKENS_AT_ONCE = (8192, 4096, 2048, 1024, 512)
"""Tokens of one forward pass (--max-num-batched-tokens): more let long prompts start sooner and take more memory."""
TIGHT = 2048
"""Tokens at once that are tried first where the whole load does not fit."""
LARGEST_GRAPH = 512
SINGLE = {"bnb-nf4": 0.33, "fp8": 0.72, "fp8-weights": 0.72, "bf16": 0.79}
SINGLE |= {"bnb-nf4-stored": 0.33, "fp8-dynamic": 0.72, "int8": 0.72}
"""Share of the memory's bandwidth at which weights are read for one stream, one H100: 53, 71 and 40 tokens/s of QwQ-32B; the stored formats like
their kin, w4a16 was not measured.
"""
NF4_EACH = 0.32
"""What each of five and more streams gets of a lone one's speed in bitsandbytes, which then dequantises the whole matrix: 17 of 53 tokens/s."""


@dataclass(frozen=True)
class Load:
    """What a server must stand: requests at once, each of up to `context` tokens."""

    parallel: int
    context: int
    kv_bytes: float = 2
    """Bytes of a value in the key-value cache: 2, or 1 with --kv-cache-dtype fp8."""
    cards: int = 1
    """Cards over which the weights are spread (tensor parallel)."""


@dataclass(frozen=True)
class Plan:
    """How vLLM is started on a card, and what it will hold there."""

    variant: str
    sizes: tuple[int, ...]
    """Batch sizes for which CUDA graphs are captured."""
    batched: int
    """Tokens of one forward pass."""
    cache: int
    """Bytes of the key-value cache, on each card."""
    tokens: int
    """Tokens it holds."""
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether weights and all else leave any cache."""
        return self.tokens > 0

    def requests(self, load: Load) -> int:
        """Return how many requests of full length find room at once."""
        return min(load.parallel, self.tokens // load.context)

    def flags(self, card: Card) -> tuple[str, ...]:
        """Return vLLM's flags; the share only tells it how much must be free at the start."""
        share = math.floor((self.estimate.total - CONTEXT) / card.memory * 1000) / 1000
        graphs = json.dumps({"cudagraph_capture_sizes": list(self.sizes)}, separators=(",", ":"))
        return (
            *("--max-num-batched-tokens", str(self.batched), "--compilation-config", graphs),
            *("--kv-cache-memory-bytes", str(self.cache), "--gpu-memory-utilization", f"{share:.3f}"),
        )


def plan(shape: Shape, variant: str, load: Load, card: Card) -> Plan:
    """Return the plan for one format: the most tokens at once with which the whole load finds room, or else with which one request does."""
    drafts = [_draft(shape, variant, load, card, batched) for batched in TOKENS_AT_ONCE]
    whole = [draft for draft in drafts if draft.tokens >= load.parallel * load.context]
    tight = [draft for draft in drafts if draft.batched <= TIGHT]
    return next(iter(whole), None) or next((draft for draft in tight if draft.tokens >= load.context), None) or drafts[-1]


def _draft(shape: Shape, variant: str, load: Load, card: Card, batched: int) -> Plan:
    sizes = capture_sizes(load.parallel)
    fixed = tuple(_fixed(shape, variant, load, (batched, sizes)))
    outside = (Term("CUDA context", CONTEXT, "one H100"), Term("allocator", LEFT, "what serving leaves"))
    room = card.usable - sum(term.bytes for term in outside) - sum(term.bytes for term in fixed)
    each = shape.kv_bytes(load.kv_bytes) / load.cards
    cache = max(0, int(room // MIB) * MIB)
    kept = Term("key-value cache", cache, f"{shape.kv_bytes(load.kv_bytes) / MIB:.3f} MiB a token")
    return Plan(variant, sizes, batched, cache, int(cache // each), Estimate((*fixed, kept), outside))


def _fixed(shape: Shape, variant: str, load: Load, step: tuple[int, tuple[int, ...]]) -> Iterator[Term]:
    batched, sizes = step
    yield Term("weights", weights(shape, variant) / load.cards, "bytes a weight of the format; embedding and output layer in 16 bits")
    yield Term("activations", activations(shape, variant, batched, load.parallel) / load.cards, "one forward pass, or the sampler's logits")
    yield Term("CUDA graphs", graphs(shape, variant, len(sizes)), f"{len(sizes)} sizes")


def capture_sizes(parallel: int) -> tuple[int, ...]:
    """Return the batch sizes that get a CUDA graph: small ones, then every eighth up to the requests at once; others are filled up to them."""
    top = min(LARGEST_GRAPH, -(-parallel // 8) * 8 if parallel > 4 else parallel)
    return tuple(sorted({1, 2, 4, *range(8, top + 1, 8), top} & set(range(1, top + 1))))


def weights(shape: Shape, variant: str) -> float:
    """Return the bytes of the weights as vLLM holds them."""
    linear = shape.linear_parameters * WEIGHT_BYTES[variant]
    return linear * (ROUNDING if WEIGHT_BYTES[variant] < 2 else 1) + shape.embedding_parameters * max(2.0, WEIGHT_BYTES[variant] - 2)


def activations(shape: Shape, variant: str, batched: int, parallel: int) -> float:
    """Return the bytes of a forward pass over `batched` tokens, with a matrix dequantised for it, or of sampling for all requests at once."""
    forward = batched * 2 * (3 * shape.intermediate + 6 * shape.hidden)
    if variant in BITSANDBYTES:
        forward += 2 * shape.largest_linear + batched * 2 * shape.intermediate
    return max(forward, parallel * shape.vocabulary * 16)


def graphs(shape: Shape, variant: str, sizes: int) -> float:
    """Return the bytes of the captured CUDA graphs."""
    matrix = 2 * 2 * shape.hidden * shape.intermediate if variant in BITSANDBYTES else 0
    return (GRAPHS_BASE + matrix + sizes * GRAPH * shape.layers / GRAPH_LAYERS) if sizes else 0


def total_by_share(shape: Shape, variant: str, share: float, card: Card, parallel: int = 1024) -> float:
    """Return what vLLM holds in all where it is given a share of the card, as the tutorial's flags do: the share, the context and the graphs."""
    return share * card.memory + CONTEXT + graphs(shape, variant, len(default_sizes(parallel)))


def default_sizes(parallel: int) -> tuple[int, ...]:
    """Return vLLM's own sizes, up to twice the requests at once (config/vllm.py): 51 where nothing is said."""
    top = min(2 * parallel, LARGEST_GRAPH)
    return tuple(size for size in (1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, 16)) if size <= top)


def speed(shape: Shape, variant: str, streams: int, card: Card) -> float | None:
    """Return the tokens a second of all streams together, None where the card's bandwidth or the format's speed is not known."""
    if not card.bandwidth or not streams or variant not in SINGLE:
        return None
    lone = SINGLE[variant] * card.bandwidth / weights(shape, variant)
    if variant in BITSANDBYTES:
        return max(lone, NF4_EACH * lone * streams)
    return lone * streams * float(0.97 ** math.log2(streams))
