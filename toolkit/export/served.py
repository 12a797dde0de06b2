"""One engine of a recipe as a cluster runs it: its flags with the cluster's paths, its image, the files it needs with their checksums."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit import console, recipe_file, reclaim, service
from toolkit.artifact import FileEntry, Record
from toolkit.engines import Target, Tools, engine
from toolkit.engines.vllm import beside
from toolkit.errors import InvalidError, NotReadyError, UsageError
from toolkit.fit.card import present
from toolkit.images import Image
from toolkit.plan import Step
from toolkit.recipe import EngineName, Recipe
from toolkit.store import Store
from toolkit.targets import target
from toolkit.variants import is_apart

ENGINES: tuple[EngineName, ...] = ("vllm", "ollama", "llamacpp")
"""Those that have an image."""
MODELS = Path("/models")
"""Where the store's directories are seen in every container of ours."""
GPU_IMAGES = ("vllm", "ollama")
"""Images that can use a GPU: llamacpp's wheel is a build for the CPU."""
IMAGE_SETS = ("HOME", "OLLAMA_HOST", "OLLAMA_MODELS", "no_proxy", "NO_PROXY")
"""What the images say themselves, since it depends on the place alone."""


@dataclass(frozen=True)
class Wish:
    """What a command line asks for."""

    engine: EngineName
    variant: str | None = None
    gpu: bool | None = None
    """None: as the recipe's verify.gpu says, else wherever the image can use one."""
    registry: str = ""
    adapter: bool = False
    """Serve the base with the adapter beside it instead of the merged model."""


@dataclass(frozen=True)
class File:
    """One file that must lie below MODELS."""

    path: str
    size: int
    sha256: str
    source: str
    """Its path in a repository that holds nothing but this model."""

    def described(self, by_source: bool) -> dict[str, Any]:
        """Return it as the chart's values have it."""
        there = {"from": self.source} if by_source else {}
        return {"path": self.path, **there, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True)
class Served:
    """One engine with everything that a cluster is told of it."""

    recipe: Recipe
    engine: EngineName
    target: Target
    """With the cluster's paths."""
    args: tuple[str, ...]
    """What the image's program is given."""
    env: Mapping[str, str]
    image: str
    gpus: int
    files: tuple[File, ...]
    variant: str
    checkpoint: str
    """The directory with config.json or the GGUF, below MODELS."""
    adapter: str = ""
    """The adapter's directory below MODELS, empty for the merged model."""
    verdict: str = ""
    """The report's, empty where there is none."""
    prequantised: bool = False
    """Whether the checkpoint itself is stored in bitsandbytes' format."""

    @property
    def name(self) -> str:
        """What clients ask for."""
        return self.target.served_name

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


def served(path: Path, wish: Wish, root: Path) -> Served:
    """Return an engine of a recipe with its finished store.

    NotReadyError where a directory is missing or reclaimed, BrokenError where one was touched.
    """
    if wish.engine not in ENGINES:
        raise UsageError(f"{wish.engine} has no image to deploy", f"one of {', '.join(ENGINES)}")
    if wish.adapter and wish.engine != "vllm":
        raise UsageError(f"{wish.engine} is not given adapters here", "--adapter is for vLLM; Ollama and llama.cpp serve the merged model")
    store = Store(root)
    step, needed = service.steps(path, wish.engine, wish.variant)
    wish = _with_adapter(wish, step)
    records = {other.name: _sealed(store, other, path) for other in needed}
    if not wish.adapter:  # base and adapter are never freed
        reclaim.require(store, step, needed)
    inputs = {key: store.directory(other) for key, name in step.inputs.items() for other in needed if other.name == name}
    if wish.adapter:
        inputs["model"] = next(store.directory(other) for other in needed if other.name == "base")
    recipe, given = recipe_file.load(path), replace(target(step.recipe, inputs), adapter=None, adapters={})
    gpu = _on_gpu(recipe, wish)
    moved = replace(given, model=_moved(given.model), gguf=_moved(given.gguf), modelfile=_moved(given.modelfile))
    adapter = next(f"{other.directory}/adapter" for other in needed if other.name == "train") if wish.adapter else ""
    args, env = _launch(wish, moved, gpu, store.root / adapter if adapter else None)
    files = tuple(_files(wish, given, {other.directory: records[other.name] for other in needed}))
    main = moved.gguf if wish.engine != "vllm" else moved.model
    assert main is not None
    gpus = (given.vllm.tensor_parallel if wish.engine == "vllm" else 1) if gpu else 0
    return Served(
        *(recipe, wish.engine, moved, args, env, image(wish.engine, wish.registry, gpu), gpus, files, given.variant),
        *(main.relative_to(MODELS).as_posix(), adapter, verdict(path, wish.engine, store), _prequantised(given.model)),
    )


def _with_adapter(wish: Wish, step: Step) -> Wish:
    """Return the wish with --adapter where the variant itself is the base with its adapter; UsageError where only vLLM's objects can say that."""
    if not is_apart(step.recipe["variant"]):
        return wish
    if wish.engine != "vllm":
        message = f"{step.recipe['variant']} is the base with its adapter beside it, which is exported for vLLM alone"
        raise UsageError(message, "name a merged one with --variant, or set the recipe's serve section to adapter: both")
    if left_out := step.recipe.get("adapters"):
        console.remark(f"the recipe's own adapter is exported; {', '.join(left_out)} of serve.adapters are not")
    return replace(wish, adapter=True)


def _sealed(store: Store, step: Step, path: Path) -> Record:
    record = store.sealed(step)
    if record is None:
        raise NotReadyError(f"{store.directory(step)} is not there or not finished", f"thinkship run {path} --store {store.root}")
    return record


def _on_gpu(recipe: Recipe, wish: Wish) -> bool:
    able = wish.engine in GPU_IMAGES
    if wish.gpu and not able:
        raise UsageError(f"the image of {wish.engine} is a build for the CPU", "leave out --gpu, or take --engine vllm or ollama")
    wanted = recipe.verify.gpu if wish.gpu is None else wish.gpu
    return able and wanted is not False


def _moved(path: Path | None) -> Path | None:
    """Return where a path of the store lies in the cluster: the directory's name says what is in it, so that releases lie side by side."""
    if path is None:
        return None
    directory = path.parent
    return MODELS / directory.name / path.name


def _launch(wish: Wish, moved: Target, gpu: bool, adapter: Path | None) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return arguments and settings, taken from the very command that the local runner starts."""
    name = wish.engine
    card = next(iter(present()), None) if gpu else None
    tools = Tools({name: Path("python")}, Path("/opt/thinkship"), Path("/tmp"), Path("ollama"), bind="0.0.0.0", gpu=gpu, card=card)
    command = engine(name).launch(moved, engine(name).port, tools)
    env = {key: value for key, value in command.env.items() if key not in IMAGE_SETS}
    if name == "ollama":
        return (), {"MODEL_NAME": moved.served_name, "MODELFILE": str(moved.modelfile), **env}
    args = list(command.argv[command.argv.index("--model") :])
    if adapter:
        place = args.index("--served-model-name")
        args[place : place + 2] = beside(moved.served_name, adapter, gpu, MODELS / adapter.parent.name / adapter.name)
    return tuple(args), env


def _files(wish: Wish, given: Target, records: Mapping[str, Record]) -> Iterator[File]:
    """Yield the files an engine reads, of all that its steps left."""
    if wish.engine == "vllm":
        assert given.model is not None
        yield from _below(given.model, records)
        for directory, record in records.items():
            if wish.adapter and record.step == "train":
                yield from _below(Path(directory) / "adapter", records)
        return
    for path in (given.gguf, given.modelfile if wish.engine == "ollama" else None):
        if path:
            (entry,) = (file for file in records[path.parent.name].files if file.path == path.name)
            yield _file(path.parent.name, entry, path.name)


def _below(folder: Path, records: Mapping[str, Record]) -> Iterator[File]:
    directory, prefix = folder.parent.name, f"{folder.name}/"
    for entry in records[directory].files:
        if entry.path.startswith(prefix):
            yield _file(directory, entry, entry.path.removeprefix(prefix))


def _file(directory: str, entry: FileEntry, source: str) -> File:
    return File(f"{directory}/{entry.path}", entry.size, entry.sha256, source)


def image(name: str, registry: str, gpu: bool = False) -> str:
    """Return an image by its content's tag, which `images push` gives it in a registry too."""
    found = Image(name, ("cuda" if gpu else "cpu") if name == "vllm" else "")
    return f"{registry.rstrip('/')}/{found.tag}" if registry else found.tag


def verdict(path: Path, name: EngineName, store: Store) -> str:
    """Return the verdict of the sealed report that covers an engine, and say so where there is none or it failed."""
    from toolkit.runs import steps

    recipe = recipe_file.load(path)
    planned = steps(path, () if name in recipe.serve.engines else (name,))
    last = planned[-1]
    found = json.loads((store.directory(last) / "report.json").read_text(encoding="utf-8"))["verdict"] if store.sealed(last) else ""
    if found != "pass":
        console.remark(f"{name}: " + ("the verdict is fail" if found else "not verified yet: no report of `thinkship run` covers it"))
    return str(found)


def _prequantised(model: Path | None) -> bool:
    config = model / "config.json" if model else None
    if not config or not config.is_file():
        return False
    told = json.loads(config.read_text(encoding="utf-8")).get("quantization_config") or {}
    return told.get("quant_method") == "bitsandbytes"


def spread(one: Served, nodes: int, gpus: int) -> tuple[int, int]:
    """Return (tensor, pipeline) parallel sizes for nodes with so many GPUs each: layers between nodes, matrices within one.

    A checkpoint stored in bitsandbytes' format knows pipelines alone (vLLM 0.33, bitsandbytes_loader.py). InvalidError where the shape cannot
    be divided.
    """
    tensor, pipeline = (1, nodes * gpus) if one.prequantised else (gpus, nodes)
    shape = one.target.shape
    heads, layers = (getattr(shape, "heads", None), shape.layers) if shape else (None, None)
    if heads and heads % tensor:
        raise InvalidError(f"{heads} attention heads cannot be spread over {tensor} GPUs", "choose a number of GPUs a node that divides them")
    if layers and pipeline > layers:
        raise InvalidError(f"{layers} layers cannot be spread over {pipeline} places", "take fewer nodes")
    return tensor, pipeline
