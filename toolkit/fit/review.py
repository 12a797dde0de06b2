"""A recipe held against a machine before a byte is fetched: one finding a stage and engine, an error where it cannot work."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from toolkit.errors import NotReadyError, ThinkshipError
from toolkit.finding import Finding
from toolkit.fit import GB, choice, serving, shape, storage, training
from toolkit.fit.card import DRIVER, Card, present, smaller
from toolkit.fit.estimate import gib
from toolkit.fit.shape import Checkpoint
from toolkit.plan import further_adapters
from toolkit.recipe import EngineName, Recipe

LINE = 125e6
"""Bytes a second of a line of 1 Gbit/s, for the time of a download."""
DISK = 1e9
"""Bytes a second of a disk, for the time of copying; a slower one is slower by as much."""


@dataclass(frozen=True)
class Case:
    """One recipe on one machine."""

    recipe: Recipe
    base: Checkpoint
    card: Card | None
    """The card to train and serve on, None for the CPU."""
    engines: tuple[EngineName, ...]
    memory: int
    """Bytes of the machine's memory."""


def case_of(recipe: Recipe, folder: Path, card: str | None, engines: tuple[EngineName, ...] = ()) -> Case | None:
    """Put a case together for a card by name, or else the one that the recipe states, or that is here; None for a base of unknown shape."""
    base = shape.of_source(recipe.base.source, folder)
    if base is None:
        return None
    if card:
        vllm = recipe.serve.vllm.model_copy(update={"card": card})
        recipe = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"vllm": vllm})})
    return Case(recipe, base, choice.card_of(recipe.serve), engines or recipe.serve.engines, _memory())


def here(recipe: Recipe, folder: Path, engines: tuple[EngineName, ...] = ()) -> Case | None:
    """Put a case together for the card that is here, whatever the recipe states; None for a base of unknown shape."""
    base = shape.of_source(recipe.base.source, folder)
    return Case(recipe, base, next(iter(present()), None), engines or recipe.serve.engines, _memory()) if base else None


def review(case: Case) -> Iterator[Finding]:
    """Yield the findings of every stage."""
    for look in STAGES.values():
        yield from look(case)


def require(case: Case | None, stages: set[str]) -> None:
    """Raise NotReadyError with everything that cannot work in these stages; nothing where nothing is known of the base."""
    if case is None:
        return
    wrong = [finding for name in STAGES if name in stages for finding in STAGES[name](case) if finding.severity == "error"]
    if wrong:
        message = "\n       ".join(f"{finding.check}: {finding.message}" for finding in wrong)
        raise NotReadyError(message, "; ".join(dict.fromkeys(finding.remedy for finding in wrong if finding.remedy)))


def _base(case: Case) -> Iterator[Finding]:
    seconds = case.base.bytes / LINE
    long = f"{seconds / 60:.0f} minutes" if seconds >= 60 else f"{seconds:.0f} s"
    yield Finding("ok", "fit base", f"{case.base.name}: {case.base.bytes / GB:.1f} GB to fetch, {long} at 1 Gbit/s")


def _train(case: Case) -> Iterator[Finding]:
    if case.recipe.train is None:
        yield Finding("ok", "fit train", "nothing is trained here: the recipe names an adapter that was trained elsewhere")
        return
    wanted = training.Training.of_recipe(case.recipe)
    yield from _driver(case, "fit train")
    if case.card is None:
        yield _in_memory("fit train", storage.training_memory(case.base, case.recipe), case, "at least, on the CPU")
        return
    need, room = training.estimate(case.base, wanted), case.card.usable
    length, batch = training.largest_length(case.base, wanted, room), training.largest_batch(case.base, wanted, room)
    message = f"{wanted.engine}, {wanted.batch} x {wanted.length:,} tokens: {need} of {case.card}"
    if need.total > room:
        yield Finding("error", "fit train", message, _smaller(case, wanted, length, batch))
        return
    yield Finding("ok", "fit train", message)
    yield Finding("ok", "fit train", f"room for max_length {length:,} at this batch, or a batch of {batch}; {_time(case, wanted)}")


def _smaller(case: Case, wanted: training.Training, length: int, batch: int) -> str:
    """Say which training would fit."""
    if length:
        shorter = f"dataset.max_length: {length} fits at batch_size {wanted.batch}"
        return f"{shorter}, batch_size: {batch} at this length" if batch else shorter
    wide = f"; {case.base.wide_mlps} MLPs of this 4-bit base are in 16 bits, those of a plain bnb-4bit repository are not"
    return "a larger card, train.quantization: nf4, or a smaller base" + (wide if case.base.wide_mlps else "")


def _time(case: Case, wanted: training.Training) -> str:
    train = case.recipe.train
    assert train
    tokens = train.steps * train.gradient_accumulation * wanted.tokens
    seconds = training.seconds(case.base.shape, tokens, case.card) if case.card else None
    return f"{tokens / 1e6:.1f} M tokens at most" + (f" in {seconds / 60:.0f} minutes or fewer" if seconds else "")


def _merge(case: Case) -> Iterator[Finding]:
    if case.recipe.gguf.source == "one_pass":
        return
    if case.base.prequantized and case.recipe.merge.base == "original":
        message = f"{case.base.name} holds 4-bit weights, and merge.base: original wants the ones they were made from"
        remedy = "set merge.base: dequantised, stop after training with --until train, or take the 16-bit repository as base.source"
        yield Finding("error", "fit merge", message, remedy)
        return
    moved = case.base.bytes + 2 * storage.merged_bytes(case.base.shape, case.recipe)
    if case.recipe.merge.base == "dequantised" and "vllm" in case.engines and "bnb-nf4" in case.recipe.serve.vllm.variants:
        message = "serve.vllm.variants: bnb-nf4 rounds the merged weights to 4 bits again; onto merge.base: dequantised that erases the adapter"
        yield Finding("error", "fit merge", message, "serve fp8, fp8-weights or bf16, or set merge.base: original")
    why = f"to merge {case.base.shape.parameters / 1e9:.1f} G weights; {_copying(moved)}"
    yield _in_memory("fit merge", storage.MERGE_MEMORY, case, why)
    proof, held = storage.proof_memory(case.base.shape), 1.2 * storage.merged_bytes(case.base.shape, case.recipe)
    if proof > case.memory and not (case.card and held < case.card.memory):
        message = f"comparing the merged model's answers takes {proof / (1 << 30):.0f} GiB of memory; with less, rows of every tensor are compared"
        yield Finding("ok", "fit merge", message)


def _reference(case: Case) -> Iterator[Finding]:
    if case.recipe.gguf.source == "one_pass" or further_adapters(case.recipe, case.engines):
        shape = case.base.shape
        adapter = training.adapter_parameters(shape, training.Training.of_recipe(case.recipe)) if case.recipe.train else 0
        need = 4 * (shape.parameters + adapter)
        yield _in_memory("fit reference", need, case, "to ask base and adapter side by side, in 32 bits")


def _gguf(case: Case) -> Iterator[Finding]:
    if not {"llamacpp", "ollama"} & set(case.engines):
        return
    sizes = {kind: storage.gguf_bytes(case.base.shape, kind) for kind in case.recipe.gguf.types}
    reference = sizes[case.recipe.gguf.types[0]]
    shown = ", ".join(f"{kind} {size / GB:.1f} GB" for kind, size in sizes.items())
    message = f"{shown}; {_copying(2 * sum(sizes.values()) + storage.merged_bytes(case.base.shape, case.recipe))}"
    if reference <= case.memory:
        yield Finding("ok", "fit gguf", message)
    else:
        remedy = "each file is held against the 16-bit one, which is read again and again where memory does not hold it: expect hours"
        yield Finding("warning", "fit gguf", f"{message}; this machine has {gib(case.memory)} GiB of memory", remedy)


def _copying(size: float) -> str:
    return f"{size / GB:.1f} GB are read and written, {max(1, round(size / DISK / 60))} minutes or more at 1 GB/s"


def _serve(case: Case) -> Iterator[Finding]:
    yield from _driver(case, "fit serve")
    for engine in case.engines:
        if engine == "vllm" and case.card:
            yield from _vllm(case, case.card)
        elif case.card and engine in ("transformers", "ollama"):
            yield _on_card(case, engine, case.card)
        else:
            if engine == "vllm":
                yield from _not_on_a_cpu(case.recipe)
            variant = case.recipe.serve.vllm.variants[0]
            need = storage.serving_memory(case.base.shape, case.recipe, engine, variant)
            yield _in_memory(f"fit serve {engine}", need, case, f"on the CPU, {case.recipe.serve.parallel} x {case.recipe.serve.context:,} tokens")


def _not_on_a_cpu(recipe: Recipe) -> Iterator[Finding]:
    for variant in recipe.serve.vllm.variants:
        if reason := choice.wanting(variant):
            yield Finding("error", f"fit serve vllm {variant}", f"vLLM serves {variant} on {reason}", choice.ANYWHERE)


def _on_card(case: Case, engine: EngineName, card: Card) -> Finding:
    model, serve = case.base.shape, case.recipe.serve
    weights = storage.gguf_bytes(model, case.recipe.modelfile.gguf) if engine == "ollama" else model.parameters * 2.0
    need = weights + model.kv_bytes() * serve.context * serve.parallel + serving.CONTEXT
    message = f"{gib(need)} GiB of {card}, {serve.parallel} x {serve.context:,} tokens"
    if need <= card.usable:
        return Finding("ok", f"fit serve {engine}", message)
    if engine == "ollama":
        return Finding("warning", f"fit serve {engine}", message, "Ollama leaves a part of the layers to the CPU, which is many times slower")
    return Finding("error", f"fit serve {engine}", message, "lower serve.context or serve.parallel, or serve with another engine")


def _vllm(case: Case, machine: Card) -> Iterator[Finding]:
    serve = case.recipe.serve
    card = smaller(serve.vllm.card, machine) or machine
    if case.base.prequantized and _tensor_parallel(case.recipe) > 1:
        message = "vLLM refuses pre-quantised bitsandbytes weights with tensor parallelism"
        yield Finding("error", "fit serve vllm", message, "serve.vllm.tensor_parallel: 1, or a 16-bit base")
    load = choice.load_of(serve)
    for variant in serve.vllm.variants:
        check = f"fit serve vllm {variant}"
        if variant != choice.AUTO and (problem := choice.unsuited(variant, card)):
            yield Finding("error", check, problem, choice.remedy(variant, card))
            continue
        try:
            chosen = choice.choose(case.base.shape, load, card) if variant == choice.AUTO else None
        except ThinkshipError as error:
            yield Finding("error", check, error.message, error.remedy)
            continue
        draft = chosen.plan if chosen and chosen.plan else serving.plan(case.base.shape, variant, load, card)
        yield from _planned(case, draft, (check, card, chosen.reason if chosen else ""))


def _planned(case: Case, draft: serving.Plan, told: tuple[str, Card, str]) -> Iterator[Finding]:
    check, card, reason = told
    load, model = choice.load_of(case.recipe.serve), case.base.shape
    if reason:
        yield Finding("ok", check, reason)
    message = f"{draft.estimate} of {card}"
    if draft.tokens < load.context:
        fits = f"serve.context: {draft.tokens // 128 * 128} fits" if draft.tokens >= 128 else "serve another variant, or auto"
        yield Finding("error", check, f"{message}; {draft.tokens:,} tokens of context find room, {load.context:,} are wanted", fits)
        return
    rate = serving.speed(model, draft.variant, max(1, draft.requests(load)), card)
    fast = f", about {rate:,.0f} tokens/s in all" if rate and not reason else ""
    yield Finding("ok", check, f"{message}; room for {draft.tokens:,} tokens of context{fast}")
    yield Finding("ok", check, "; ".join(choice.explained(case.recipe.serve, draft)))
    yield Finding("ok", check, f"flags: {shlex.join(draft.flags(card))}")


def _tensor_parallel(recipe: Recipe) -> int:
    """Return over how many cards vLLM spreads a model, by its own key or a further flag."""
    words = [part for word in recipe.serve.vllm.extra_args for part in word.split("=")]
    spread = [after for word, after in pairwise(words) if word in ("--tensor-parallel-size", "-tp")]
    return max([recipe.serve.vllm.tensor_parallel, *(int(count) for count in spread if count.isdigit())])


def _driver(case: Case, check: str) -> Iterator[Finding]:
    if case.card and case.card.driver_too_old:
        message = f"the NVIDIA driver {case.card.driver} is older than {DRIVER}, which CUDA 13 wants"
        yield Finding("error", check, message, f"install driver {DRIVER} or newer")


def _in_memory(check: str, need: float, case: Case, why: str) -> Finding:
    message = f"{gib(need)} GiB of memory {why}; this machine has {gib(case.memory)} GiB"
    if need <= case.memory:
        return Finding("ok", check, message)
    return Finding("error", check, message, f"a machine with {gib(need * 1.05)} GiB")


def _memory() -> int:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(fields["MemTotal"].split()[0]) << 10


STAGES: dict[str, Callable[[Case], Iterator[Finding]]] = {
    "base": _base,
    "train": _train,
    "merge": _merge,
    "reference": _reference,
    "gguf": _gguf,
    "serve": _serve,
}
"""What is looked at for each stage; the others take no more than these."""


def disk(case: Case, store: Path, reclaim: bool = False) -> Finding:
    """Hold what the recipe leaves on the disk, or with `reclaim` the most that lies there at once, against what is free where the store lies."""
    terms = tuple(storage.disk(case.base, case.recipe, case.engines))
    most = storage.peak(case.base, case.recipe, case.engines)
    need = most if reclaim else sum(term.bytes for term in terms)
    place = next(path for path in (store.resolve(), *store.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    shown = ", ".join(f"{term.name} {term.bytes / GB:.1f}" for term in terms if term.bytes >= 0.05 * GB)
    words = " at most at once, with what is freed on the way" if reclaim else ""
    message = f"{need / GB:.1f} GB in {place}{words} ({shown}); {free / GB:.0f} GB are free"
    short = need > free
    frugal = f"; run --reclaim takes {most / GB:.1f} GB" if not reclaim and most < need else ""
    remedy = f"what is there already counts too; --store names another disk{frugal}" if short else ""
    return Finding("warning" if short else "ok", "fit disk", message, remedy)
