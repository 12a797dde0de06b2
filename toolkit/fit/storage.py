"""What a recipe leaves on the disk, and what its stages without a card hold in the machine's memory."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.compression import STORED
from toolkit.fit.estimate import Term
from toolkit.fit.serving import WEIGHT_BYTES, weights
from toolkit.fit.shape import Checkpoint, Shape
from toolkit.fit.training import Training, adapter_parameters
from toolkit.gguf_files import GgufType
from toolkit.plan import variants
from toolkit.recipe import EngineName, Recipe
from toolkit.variants import is_apart

BITS: dict[GgufType, float] = {
    **{"f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.5625, "q5_k_m": 5.69, "q5_k_s": 5.57, "q4_k_m": 4.85, "q4_k_s": 4.67, "q4_0": 4.55},
    **{"q3_k_l": 4.3, "q3_k_m": 4.0, "q3_k_s": 3.64, "q2_k": 3.16, "iq4_nl": 4.68, "iq4_xs": 4.46, "iq3_m": 3.76, "iq3_s": 3.66, "iq3_xs": 3.5},
    **{"iq3_xxs": 3.25, "iq2_m": 2.93, "iq2_s": 2.74, "iq2_xs": 2.59, "iq2_xxs": 2.38},
}
"""Bits a weight in a GGUF file, as llama.cpp's quantiser prints them (tools/quantize/README.md); a 32B model's q4_k_m is 19.9 GB."""
DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
MERGE_MEMORY = 1 << 30
"""Bytes of memory in which a model of any size is merged (images/train/merged_checkpoint.py)."""
PROOF_BYTES = 4 * 1.2
"""Bytes a weight that comparing the merged model takes, in 32 bits (images/train/logits.py)."""
CHECKPOINTS = 3
"""Adapters on the disk at once while training: two checkpoints and the one that is being written, each with its optimiser."""
MERGED, OF_BASE, COPY = "merged model", " of the base", "Ollama's copy"
"""Names of terms."""
RUNTIME = 1 << 30
"""What a server on the CPU takes beside weights and cache."""


def disk(checkpoint: Checkpoint, recipe: Recipe, engines: tuple[EngineName, ...]) -> Iterator[Term]:
    """Yield what is left on the disk, in bytes, in the order in which it is made; the environments, about 15 GB, are not counted."""
    shape = checkpoint.shape
    yield Term("base", checkpoint.bytes, "as it is stored on the hub")
    if recipe.train:
        adapter = adapter_parameters(shape, Training.of_recipe(recipe))
        yield Term("adapter and checkpoints", CHECKPOINTS * adapter * 12, "weights and optimiser in 32 bits")
    if recipe.gguf.source == "merge":
        yield Term(MERGED, merged_bytes(shape, recipe), f"{recipe.merge.dtype}")
    for variant in recipe.serve.vllm.variants if "vllm" in engines else ():
        if variant in STORED:
            yield Term(f"compressed {variant}", weights(shape, variant), f"{WEIGHT_BYTES[variant] * 8:.3g} bits a weight of a linear layer")
    if {"llamacpp", "ollama"} & set(engines):
        for kind in recipe.gguf.types:
            yield Term(f"gguf {kind}", gguf_bytes(shape, kind), f"{BITS[kind]} bits a weight")
        yield Term(f"gguf {recipe.gguf.types[0]}{OF_BASE}", gguf_bytes(shape, recipe.gguf.types[0]), "for the comparison before and after")
    if "ollama" in engines:
        yield Term(COPY, gguf_bytes(shape, recipe.modelfile.gguf), "ollama create rewrites the file")


def peak(checkpoint: Checkpoint, recipe: Recipe, engines: tuple[EngineName, ...]) -> float:
    """Return the most bytes on the disk at once where `run --reclaim` frees what is not served.

    That is when the tuned GGUF files are made, merged model beside them, or later, when they are served beside the base's and Ollama's copy.
    """
    terms = tuple(disk(checkpoint, recipe, engines))
    late = [term for term in terms if term.name.endswith(OF_BASE) or term.name == COPY]
    return max(sum(term.bytes for term in terms if term not in late), sum(term.bytes for term in terms if not _freed(term.name, recipe, engines)))


def _freed(name: str, recipe: Recipe, engines: tuple[EngineName, ...]) -> bool:
    """Say whether the merged model, or a tuned GGUF file, is given to none of the engines."""
    served = {(engine, variant) for engine in engines for variant in variants(recipe, engine) if not is_apart(variant)}
    if name == MERGED:
        return not any(engine in ("vllm", "transformers") and variant not in STORED for engine, variant in served)
    kind = name.removeprefix("gguf ")
    return kind in recipe.gguf.types and not any(engine in ("llamacpp", "ollama") and variant == kind for engine, variant in served)


def merged_bytes(shape: Shape, recipe: Recipe) -> float:
    """Return the bytes of the merged checkpoint."""
    return shape.parameters * DTYPES[recipe.merge.dtype]


def gguf_bytes(shape: Shape, kind: GgufType) -> float:
    """Return the bytes of a GGUF file."""
    return shape.parameters * BITS[kind] / 8


def proof_memory(shape: Shape) -> float:
    """Return the bytes of memory in which the merged model is asked and compared; with less, rows of its weights are compared."""
    return shape.parameters * PROOF_BYTES + MERGE_MEMORY


def training_memory(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Return the least bytes of memory of a training without a card: the frozen base alone, in NF4 or in 32 bits."""
    assert recipe.train
    shape = checkpoint.shape
    each = 0.516 if recipe.train.quantization == "nf4" or checkpoint.prequantized else 4
    return shape.linear_parameters * each + shape.embedding_parameters * 4


def serving_memory(shape: Shape, recipe: Recipe, engine: EngineName, variant: str) -> float:
    """Return the bytes of memory of a server without a card."""
    cache = shape.kv_bytes() * recipe.serve.context * recipe.serve.parallel
    match engine:
        case "llamacpp" | "ollama":
            return gguf_bytes(shape, recipe.modelfile.gguf) + cache + RUNTIME
        case "transformers":
            return shape.parameters * 4 + cache + RUNTIME  # 16 bits are many times slower on a CPU
        case "vllm":
            each = WEIGHT_BYTES.get(variant, 2.0)
            return shape.linear_parameters * each + shape.embedding_parameters * 2 + 2 * RUNTIME
