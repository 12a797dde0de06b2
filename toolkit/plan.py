"""A locked recipe becomes steps with known ids: pure, so that a plan can be printed, compared and tested without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit.adapter import FurtherAdapter
from toolkit.artifact import digest
from toolkit.compression import STORED
from toolkit.engine_settings import Placing
from toolkit.errors import InvalidError
from toolkit.recipe import EngineName, Recipe
from toolkit.resolve import Lock, content_of_path, further
from toolkit.stages import IMAGES, IMPORTED, MODELFILES, ROOT, STAGES, Stage, digest_files, imported, program_files, stages
from toolkit.variants import APART, TYPES, is_apart

BITS = {kind: variant for variant, kind in TYPES.items()}
MODULES: dict[EngineName, str] = {"llamacpp": "llamacpp", "ollama": "ollama", "vllm": "vllm", "transformers": "train"}
"""Folder under images/ that each engine runs from."""
MANY: tuple[EngineName, ...] = ("vllm", "llamacpp")
"""Engines that serve several adapters on one base: Ollama takes one a model (server/create.go, errOnlyOneAdapterSupported)."""


@dataclass(frozen=True)
class Step:
    """One directory to be made: by which stage, from which other steps, with which arguments."""

    name: str
    stage: Stage
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name -> name of the step whose directory it is."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """Input name -> a folder that no step makes."""
    id: str = ""

    @property
    def directory(self) -> str:
        """Name of its directory in the store."""
        return f"{self.name}-{self.id[:12]}"


def plan(lock: Lock, engines: tuple[EngineName, ...] | None = None) -> tuple[Step, ...]:
    """Return the steps of a recipe in an order in which each finds its inputs made; `engines` replaces the recipe's."""
    done: dict[str, Step] = {}
    for step, content in _drafts(lock, engines or lock.recipe.serve.engines):
        identity = {
            "stage": step.stage.name,
            "program": step.stage.digest,
            "recipe": step.recipe,
            "inputs": {name: done[other].id for name, other in step.inputs.items()},
            "content": content,
        }
        done[step.name] = Step(step.name, step.stage, step.recipe, step.inputs, step.paths, digest(identity))
    return tuple(done.values())


def until(steps: Iterable[Step], stage: str) -> tuple[Step, ...]:
    """Keep the steps of a stage and of those before it."""
    order = list(STAGES)
    return tuple(step for step in steps if order.index(step.stage.name) <= order.index(stage))


def _drafts(lock: Lock, engines: tuple[EngineName, ...]) -> Iterator[tuple[Step, list[str]]]:
    recipe = lock.recipe
    slices = {name: {**stage.slice(recipe), **lock.files(name)} for name, stage in stages(recipe).items()}
    template = digest_files((MODELFILES / f"{recipe.base.family}.chat.jinja",))
    places = {"recipe_dir": lock.folder}
    yield Step("base", STAGES["base"], slices["base"], {}, {**places, "modelfiles": MODELFILES}), [lock.base, template]
    yield Step("dataset", STAGES["dataset"], slices["dataset"], {"base": "base"}, places), [lock.dataset, lock.holdout]
    yield _adapter_draft(lock, slices["train"])
    tuned = _tuned(recipe)
    _require_merge(recipe, engines)
    yield Step(tuned, STAGES[tuned], slices[tuned], {"base": "base", "train": "train", "dataset": "dataset"}), []
    stored = list(_compress_drafts(recipe, slices)) if "vllm" in engines else []
    yield from stored
    if {"llamacpp", "ollama"} & set(engines):
        yield from _gguf_drafts(lock, slices, "ollama" in engines)
    beside = list(_apart_drafts(lock, slices, engines))
    yield from beside
    serves = [draft for engine in engines for draft in _serve_drafts(lock, engine)]
    yield from serves
    inputs = {draft.name: draft.name for draft, _ in serves} | {"dataset": "dataset"}
    inputs |= {draft.name: draft.name for draft, _ in stored}
    inputs |= {"gguf": "gguf"} if {"llamacpp", "ollama"} & set(engines) else {}
    inputs |= {"train": "train"} if recipe.adapter else {}
    inputs |= {draft.name: draft.name for draft, _ in beside if draft.stage.name == "train"}
    yield Step("verify", STAGES["verify"], slices["verify"], inputs), [_report_digest()]


def _tuned(recipe: Recipe) -> str:
    """Return the step that leaves the tuned model: whole, or what tells of it beside the GGUF files that are made of base and adapter."""
    return "reference" if recipe.gguf.source == "one_pass" else "merge"


def _require_merge(recipe: Recipe, engines: tuple[EngineName, ...]) -> None:
    others = [engine for engine in engines if engine not in ("llamacpp", "ollama")]
    if others and recipe.gguf.source == "one_pass":
        message = f"{', '.join(others)} serve the merged checkpoint, which gguf.source: one_pass does not leave"
        raise InvalidError(message, "set gguf.source: merge, or serve with llamacpp or ollama")


def _adapter_draft(lock: Lock, slice_: Mapping[str, Any]) -> tuple[Step, list[str]]:
    """Return the step that leaves the adapter: trained here, or trained elsewhere and imported."""
    stage = stages(lock.recipe)["train"]
    if lock.recipe.adapter:
        return Step("train", stage, {**slice_, **lock.files("adapter")}, {"base": "base"}, {"recipe_dir": lock.folder}), [lock.adapter]
    return Step("train", stage, slice_, {"base": "base", "dataset": "dataset"}), _other_lock(stage, slice_)


def _other_lock(stage: Stage, recipe: Mapping[str, Any]) -> list[str]:
    """Return what a step's lock holds where it is not the one that its stage's digest covers."""
    lock = stage.lock(recipe)
    return [] if lock == "requirements.lock" else [digest_files((IMAGES / str(stage.environment) / lock,))]


def _report_digest() -> str:
    """Return what a report's page and XML are made by: the verify step leaves them beside the verdict."""
    folder = ROOT / "toolkit" / "report"
    return digest_files((*program_files(folder / "__init__.py"), *sorted(folder.glob("page.*"))))


def _compress_drafts(recipe: Recipe, slices: Mapping[str, Any]) -> Iterator[tuple[Step, list[str]]]:
    stage = STAGES["compress"]
    for variant in (variant for variant in recipe.serve.vllm.variants if variant in STORED):
        arguments = {**slices["compress"], "format": variant}
        yield Step(f"compress-{variant}", stage, arguments, {"model": "merge", "dataset": "dataset"}), _other_lock(stage, arguments)


def _apart_drafts(lock: Lock, slices: Mapping[str, Any], engines: tuple[EngineName, ...]) -> Iterator[tuple[Step, list[str]]]:
    """Yield what servers of a base with adapters beside it are given: GGUF files of the adapters, Ollama's Modelfile, the further adapters."""
    recipe = lock.recipe
    apart = [engine for engine in engines if any(map(is_apart, variants(recipe, engine)))]
    if {"llamacpp", "ollama"} & set(apart):
        yield Step("lora", STAGES["lora"], slices["lora"], {"base": "base", "train": "train"}), []
    if "ollama" in apart:
        inputs = {"gguf": "gguf-base", "model": _tuned(recipe), "dataset": "dataset", "lora": "lora"}
        yield Step("modelfile-adapter", STAGES["modelfile"], _base_modelfile(recipe, slices), inputs), _modelfile_templates(recipe)
    for one in further_adapters(recipe, engines):
        arguments = {**imported(recipe, one), **lock.files(further(one.name))}
        train = f"adapter-{one.name}"
        yield Step(train, IMPORTED, arguments, {"base": "base"}, {"recipe_dir": lock.folder}), [lock.adapters[one.name]]
        inputs = {"base": "base", "train": train, "dataset": "dataset"}
        yield Step(f"reference-{one.name}", STAGES["reference"], slices["reference"], inputs), []
        if "llamacpp" in apart:
            yield Step(f"lora-{one.name}", STAGES["lora"], slices["lora"], {"base": "base", "train": train}), []


def further_adapters(recipe: Recipe, engines: tuple[EngineName, ...]) -> tuple[FurtherAdapter, ...]:
    """Return those of serve.adapters that engines lay beside the recipe's own: all, or none where they serve merged models or take one alone."""
    taken = any(is_apart(variant) for engine in set(MANY) & set(engines) for variant in variants(recipe, engine))
    return recipe.serve.adapters if taken else ()


def _base_modelfile(recipe: Recipe, slices: Mapping[str, Any]) -> dict[str, Any]:
    return {**slices["modelfile"], "modelfile": {**slices["modelfile"]["modelfile"], "gguf": recipe.gguf.types[0]}}


def _modelfile_templates(recipe: Recipe) -> list[str]:
    return [digest_files(tuple(sorted(MODELFILES.glob(f"{recipe.base.family}.*")) + sorted(MODELFILES.glob("Modelfile.j2"))))]


def _gguf_drafts(lock: Lock, slices: Mapping[str, Any], modelfile: bool) -> Iterator[tuple[Step, list[str]]]:
    recipe = lock.recipe
    reference = {"gguf": {**slices["gguf"]["gguf"], "types": [recipe.gguf.types[0]], "imatrix": None, "source": "merge"}}
    given = recipe.gguf.imatrix.path if recipe.gguf.imatrix else None
    paths, content = ({"recipe_dir": lock.folder}, [content_of_path(lock.folder / given, "gguf/imatrix")]) if given else ({}, [])
    tuned = _tuned(recipe)
    merged = {"base": "base", "train": "train"} if tuned == "reference" else {}
    yield Step("gguf", STAGES["gguf"], slices["gguf"], {"model": tuned, **merged, "dataset": "dataset"}, paths), content
    yield Step("gguf-base", STAGES["gguf"], reference, {"model": "base", "dataset": "dataset"}), []
    if modelfile:
        templates = _modelfile_templates(recipe)
        yield Step("modelfile", STAGES["modelfile"], slices["modelfile"], {"gguf": "gguf", "model": tuned, "dataset": "dataset"}), templates
        inputs = {"gguf": "gguf-base", "model": "base", "dataset": "dataset"}
        yield Step("modelfile-base", STAGES["modelfile"], _base_modelfile(recipe, slices), inputs), templates


def variants(recipe: Recipe, engine: EngineName) -> tuple[str, ...]:
    """Return the quantisations in which an engine serves the tuned model; the first is what `serve` takes."""
    match engine:
        case "llamacpp":
            merged = (recipe.modelfile.gguf, *(kind for kind in recipe.gguf.types if kind != recipe.modelfile.gguf))
            return _placed(recipe.serve.llamacpp.adapter, merged, (recipe.gguf.types[0],))
        case "ollama":
            return _placed(recipe.serve.ollama.adapter, (recipe.modelfile.gguf,), (recipe.gguf.types[0],))
        case "vllm":
            served = recipe.serve.vllm.variants  # what is stored is stored merged
            return _placed(recipe.serve.vllm.adapter, served, tuple(kind for kind in served if kind not in STORED))
        case "transformers":
            return (BITS[recipe.merge.dtype],)


def _placed(adapter: Placing, merged: tuple[str, ...], bases: tuple[str, ...]) -> tuple[str, ...]:
    apart = tuple(f"{base}{APART}" for base in bases)
    return merged if adapter == "merged" else apart if adapter == "separate" else (*merged, *apart)


def serve_step(recipe: Recipe, engine: EngineName, variant: str, base: bool) -> Step:
    """Return the step, without its id, that starts one engine on one variant of the base or the tuned model and observes it."""
    tail = "-base" if base else ""
    inputs = {"model": "base" if base else _tuned(recipe), "dataset": "dataset"}
    beside = [one.name for one in recipe.serve.adapters] if is_apart(variant) and engine in MANY else []
    if is_apart(variant):
        inputs |= {"base": "base", **({"train": "train"} if engine == "vllm" else {"lora": "lora", "gguf": "gguf-base"})}
        kind = "adapter" if engine == "vllm" else "lora"
        inputs |= {f"{part}-{name}": f"{part}-{name}" for name in beside for part in (kind, "reference")}
    elif engine in ("llamacpp", "ollama"):
        inputs["gguf"] = f"gguf{tail}"
    if engine == "ollama":
        inputs["modelfile"] = "modelfile-adapter" if is_apart(variant) else f"modelfile{tail}"
    if engine == "vllm" and variant in STORED:
        inputs["checkpoint"] = f"compress-{variant}"
    arguments = {**STAGES["serve"].slice(recipe), "engine": engine, "variant": variant, "base": base}
    return Step(f"serve-{engine}-{variant}{tail}", STAGES["serve"], arguments | ({"adapters": beside} if beside else {}), inputs)


def _serve_drafts(lock: Lock, engine: EngineName) -> Iterator[tuple[Step, list[str]]]:
    recipe = lock.recipe
    folder = ROOT / "images" / MODULES[engine]
    servers = tuple(path for entry in sorted(folder.glob("serve*.py")) for path in program_files(entry))
    locks = tuple(path for path in (folder / "requirements.lock", folder / "cuda.lock", folder / "versions.env") if path.is_file())
    content = [digest_files((*servers, *locks))]
    for variant in variants(recipe, engine):
        step = serve_step(recipe, engine, variant, base=False)
        yield replace(step, paths={"recipe_dir": lock.folder}), content + _benchmarks_content(lock)
    if recipe.verify.task:
        plain = recipe.gguf.types[0] if engine in ("llamacpp", "ollama") else BITS[recipe.merge.dtype]
        yield serve_step(recipe, engine, plain, base=True), content


def _benchmarks_content(lock: Lock) -> list[str]:
    """Return what a serve step's benchmarks are made of, beside its recipe: their program, its lock, and tasks of one's own."""
    wanted = lock.recipe.verify.benchmarks
    folder = ROOT / "images" / "lmeval"
    own = [content_of_path(lock.folder / benchmark.folder, "verify/benchmarks/folder") for benchmark in wanted if benchmark.folder]
    programs = (*program_files(folder / "evaluate.py"), folder / "requirements.lock", ROOT / "toolkit" / "benchmarks.py")
    return [digest_files(programs), *own] if wanted else []
