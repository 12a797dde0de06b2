"""What one training step holds on the card, and how long the steps take.

The frozen base and the adapter with its optimiser always lie there; on top comes the larger of two moments: one layer is computed again and its
gradients with it (gradient checkpointing), or a piece of the logits with theirs. As the gradients grow from the last layer to the first, the kept
inputs go: the larger of the two counts, unless earlier batches of the step have left gradients for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from toolkit.fit import GIB
from toolkit.fit.card import Card
from toolkit.fit.estimate import Estimate, Term
from toolkit.fit.shape import NF4_BYTES, NF4_CONSTANTS, Checkpoint, Shape
from toolkit.recipe import Recipe

CONTEXT = 0.5 * GIB
"""CUDA's context and the libraries' workspaces, one H100, driver 580."""
OPERATIONS = 6
"""Operations a weight and token: forward, forward again, gradients of the inputs, two each; frozen weights have no gradients."""
UTILISATION = 0.44
"""Share of the published bf16 rate that training reached: 2,255 tokens/s of a 32B model on one H100, every row full, the first steps included."""
STEP = 128
"""Lengths are searched in multiples of this."""


@dataclass(frozen=True)
class Engine:
    """What differs between training libraries: bytes a token and a weight."""

    intermediates: float
    """Values of the MLP's width that live when its gradients are computed."""
    hiddens: float
    """Values of the model's width that live then."""
    logit_bytes: float
    """Bytes that live for one logit when its gradient is computed."""
    logits_at_once: int
    """Logits made at a time."""
    keeps_inputs: bool
    """Whether the layers' inputs stay on the card; else they lie in the host's memory meanwhile."""
    unused: float
    """Bytes that torch's allocator holds and nobody uses: the card's memory beyond peak and context, 0.4 to 2.0 GiB on twelve configurations."""
    source: str


ENGINES = {
    "trl": Engine(6.0, 9.0, 14, 1 << 26, True, 1.0 * GIB, "one H100, benchmarks/memory_gpu.py; images/train/completion_loss.py"),
    "unsloth": Engine(6.0, 5.5, 14, 1 << 26, False, 0.4 * GIB, "one H100: 20.9 GiB at 2 x 2,048 and 1 x 4,096 tokens, 20.2 at 2,600"),
}


@dataclass(frozen=True)
class Training:
    """What a recipe asks of a step."""

    engine: str
    quantization: str
    rank: int
    modules: tuple[str, ...]
    batch: int
    length: int
    """Tokens of the longest row, or of a pack."""
    optimizer: str = "adamw"
    supervised: float = 1.0
    """Share of the tokens that carry loss, for which logits are made; not known before the rows are read."""
    accumulates: bool = False
    """Whether a step is more than one batch: the gradients of all layers then lie there while the next batch's inputs are kept."""

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Training:
        """Read a recipe."""
        train = recipe.train
        assert train
        lora = train.lora
        optimizer = getattr(train, "optimizer", "adamw")
        rows = (train.batch_size, recipe.dataset.max_length)
        several = train.gradient_accumulation > 1
        return cls(train.engine, train.quantization, lora.rank, lora.target_modules, *rows, optimizer, accumulates=several)

    @property
    def tokens(self) -> int:
        """Tokens of one forward pass."""
        return self.batch * self.length


def estimate(checkpoint: Checkpoint, training: Training) -> Estimate:
    """Return what a step holds on the card, in bytes."""
    shape, engine = checkpoint.shape, ENGINES[training.engine]
    quantized = training.quantization == "nf4" or checkpoint.prequantized
    layer = training.tokens * layer_bytes(shape, engine) + (2 * shape.largest_linear if quantized else 0)
    logits = min(training.tokens * training.supervised * shape.vocabulary, engine.logits_at_once) * engine.logit_bytes
    terms = (
        *_base(checkpoint, quantized),
        *_adapter(shape, training),
        *_growing(shape, training),
        Term("layer's gradients" if layer >= logits else "logits", max(layer, logits), engine.source),
    )
    return Estimate(terms, (Term("CUDA context", CONTEXT, "one H100"), Term("allocator", engine.unused, "unused parts of its blocks")))


def layer_bytes(shape: Shape, engine: Engine) -> float:
    """Return the bytes a token that live while one layer is computed again and its gradients are."""
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_dim
    return 2 * (engine.intermediates * shape.intermediate + engine.hiddens * shape.hidden + attention)


def _base(checkpoint: Checkpoint, quantized: bool) -> Iterable[Term]:
    shape = checkpoint.shape
    wide = checkpoint.wide_parameters if quantized else shape.linear_parameters
    narrow = shape.linear_parameters - wide
    yield Term("NF4 weights", narrow * NF4_BYTES, "four bits a weight")
    yield Term("NF4 constants", narrow * NF4_CONSTANTS, "double quantisation: 8 bits for 64 weights, 32 for 16,384 (arXiv 2305.14314)")
    yield Term("16-bit weights", wide * 2, "linear layers that are not quantised")
    yield Term("embeddings", shape.embedding_parameters * 2, "embedding and output layer stay in 16 bits")


def adapter_parameters(shape: Shape, training: Training) -> int:
    """Count the adapter's weights: rank x (width in + width out) for each of its modules."""
    widths = sum(sum(shape.linears[name]) for name in training.modules if name in shape.linears)
    return shape.layers * training.rank * widths


def _adapter(shape: Shape, training: Training) -> Iterable[Term]:
    count, each = adapter_parameters(shape, training), _adapter_bytes(training)
    states = 2 * each if training.optimizer == "adamw" else 2
    yield Term("adapter", count * each, f"{count:,} weights of {each} bytes")
    yield Term("optimiser", count * states, "AdamW's two states a weight, 8 bits each with adamw_8bit")


def _adapter_bytes(training: Training) -> int:
    # TRL holds a QLoRA adapter in bf16 (sft_trainer.py), PEFT any other in fp32 (autocast_adapter_dtype), unsloth all in fp32
    return 2 if training.engine == "trl" and training.quantization == "nf4" else 4


def _growing(shape: Shape, training: Training) -> Iterable[Term]:
    """Yield what grows while the other goes: the adapter's gradients and the layers' inputs."""
    gradients = adapter_parameters(shape, training) * _adapter_bytes(training)
    kept = training.tokens * shape.layers * shape.hidden * 2 if ENGINES[training.engine].keeps_inputs else 0
    if training.accumulates or gradients >= kept:
        yield Term("its gradients", gradients, "as the adapter's weights")
    if training.accumulates or gradients < kept:
        yield Term("layer inputs", kept, "gradient checkpointing keeps one 16-bit input a layer")


def largest_length(checkpoint: Checkpoint, training: Training, room: float) -> int:
    """Return the longest max_length whose step fits into `room` bytes at the recipe's batch, 0 where none does."""
    return _largest(lambda count: estimate(checkpoint, replace(training, length=count * STEP)).total <= room) * STEP


def largest_batch(checkpoint: Checkpoint, training: Training, room: float) -> int:
    """Return the largest batch whose step fits into `room` bytes at the recipe's max_length, 0 where none does."""
    return _largest(lambda count: estimate(checkpoint, replace(training, batch=count)).total <= room)


def _largest(fits: Callable[[int], bool], limit: int = 1 << 12) -> int:
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def seconds(shape: Shape, tokens: int, card: Card) -> float | None:
    """Return the seconds that training on so many tokens takes, None for a card whose rate is not known."""
    return tokens * OPERATIONS * shape.parameters / (card.flops * UTILISATION) if card.flops else None
