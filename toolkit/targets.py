"""From a serve step's slice and directories to what an engine is given: the target, and the tools it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.engine_settings import Vllm
from toolkit.engines import Target, Tools, engine
from toolkit.errors import InvalidError
from toolkit.fit.card import present
from toolkit.fit.shape import Shape, of_folder
from toolkit.places import Machine, Place
from toolkit.processors import has_nvidia
from toolkit.recipe import Think
from toolkit.runners.environment import Environment
from toolkit.runners.tools import ollama, ollama_prefix
from toolkit.stages import IMAGES
from toolkit.variants import is_apart, quantization


def target(recipe: Mapping[str, Any], inputs: Mapping[str, Path], api_key_file: Path | None = None) -> Target:
    """Return what a serve step serves: one variant of the base or the tuned model, to all or to those with the key."""
    serve, variant = recipe["serve"], quantization(recipe["variant"])
    model = (inputs["base"] if is_apart(recipe["variant"]) else inputs.get("checkpoint", inputs["model"])) / "model"
    return Target(
        served_name=serve["name"],
        context=serve["context"],
        parallel=serve["parallel"],
        family=recipe["family"],
        variant=variant,
        model=model,
        gguf=inputs["gguf"] / f"model-{variant}.gguf" if "gguf" in inputs else None,
        modelfile=inputs["modelfile"] / "Modelfile" if "modelfile" in inputs else None,
        think=Think.model_validate(recipe["think"]),
        vllm=Vllm.model_validate(serve["vllm"]),
        shape=shape(model),
        adapter=_adapter(inputs) if is_apart(recipe["variant"]) else None,
        adapters={name: _adapter(inputs, f"-{name}") for name in recipe.get("adapters", ())},
        base=recipe["base"],
        api_key_file=api_key_file,
    )


def _adapter(inputs: Mapping[str, Path], further: str = "") -> Path:
    """Return the recipe's own adapter, or with its name's ending one of serve.adapters, in the form that the engine is given."""
    if "lora" in inputs:
        return inputs[f"lora{further}"] / "adapter.gguf"
    return inputs[f"adapter{further}" if further else "train"] / "adapter"


def shape(model: Path) -> Shape | None:
    """Return a checkpoint's sizes, None for a kind of model whose memory is not known: it is served all the same."""
    try:
        found = of_folder(model)
    except InvalidError:
        return None
    return found.shape if found else None


def on_gpu(name: str, place: Place) -> bool:
    """Say whether a server is meant to lie on a GPU: one is there, and the build can use it.

    On this machine the lock's llama.cpp is a build for the CPU, and so is an Ollama that was built here; the images know their own.
    """
    for_cpu = name == "llamacpp" or (name == "ollama" and place.tools.ollama == ollama_prefix() / "bin" / "ollama")
    return place.tools.gpu and not (isinstance(place, Machine) and for_cpu)


def tools(name: str, scratch: Path) -> Tools:
    """Return an engine's tools, installing or building what is missing; errors as `Environment.install` and `ollama`."""
    environment = engine(name).environment
    python = {environment: Environment(environment).install()} if environment else {}
    programs = IMAGES / (environment or name)
    return Tools(python, programs, scratch.resolve(), ollama() if name == "ollama" else None, gpu=has_nvidia(), card=next(iter(present()), None))
