"""An engine's image with a recipe's model inside, which serves without a volume."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from toolkit import console, images
from toolkit.artifact import digest
from toolkit.engines import Target, Tools, engine
from toolkit.errors import InvalidError, UsageError
from toolkit.process import Command
from toolkit.stages import IMAGES

ENGINES = ("vllm", "llamacpp", "ollama")
"""Those that have an image; it serves at the engine's usual port."""
NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*$")
"""What a registry takes as the last part of a repository's name."""


def build(name: str, target: Target) -> str:
    """Build the image of one engine and one model and return its tag; errors as `images.build`."""
    if name not in ENGINES:
        raise UsageError(f"no image is made of a model for {name}", f"one of {', '.join(ENGINES)}")
    if target.adapter:
        raise UsageError("no image is made of a base with its adapter beside it", "name a merged one with --variant")
    if not NAME.match(target.served_name):
        raise InvalidError(f"serve/name: {target.served_name!r} cannot name an image", "use lower-case letters, digits, '.', '_' and '-'")
    base = images.ensure(images.image(name))
    text = dockerfile(name, base.tag, target)
    contexts = {key: folder for key, folder in folders(target).items() if f"from={key}" in text}
    content = digest([text, {key: _identity(folder) for key, folder in contexts.items()}])
    tag = f"thinkship/{target.served_name}-{name}:{content[:12]}"
    words = [word for key, folder in contexts.items() for word in ("--build-context", f"{key}={folder}")]
    images.buildx(tag, (*words, "--tag", tag), text)
    console.say(tag)
    return tag


def dockerfile(name: str, base: str, target: Target) -> str:
    """Return the Dockerfile: images/<engine>/model.Dockerfile.j2 with the flags that the local runner would give the engine."""
    source = (IMAGES / name / "model.Dockerfile.j2").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(source)
    given = {key: folder for key, folder in folders(target).items() if key != "gguf"}
    values = {"engine": base, "name": target.served_name, "parallel": target.parallel, "context": target.context, "gguf": target.gguf}
    return template.render(**values, **given, flags=[] if name == "ollama" else flags(name, target))


def folders(target: Target) -> dict[str, Path]:
    """Return the folders that a model comes from, by the names the Dockerfiles know them by."""
    found = {"model": target.model, "gguf": target.gguf and target.gguf.parent, "modelfile": target.modelfile and target.modelfile.parent}
    return {key: folder.resolve() for key, folder in found.items() if folder}


def flags(name: str, target: Target) -> list[str]:
    """Return what follows the engine's own program: its flags with the model at its place in the image."""
    inside = {"model": Path("/models/model"), "gguf": target.gguf and Path("/models") / target.gguf.name}
    moved = Target(**{**vars(target), **inside})
    tools: Any = Tools({name: Path("python")}, Path("/opt/thinkship"), Path("/tmp"), bind="0.0.0.0", gpu=images.variant() == "cuda")
    command: Command = engine(name).launch(moved, engine(name).port, tools)
    return list(command.argv[command.argv.index("--model") :])


def _identity(folder: Path) -> str:
    """Name a folder's content: the step that sealed it, which stands in its name."""
    return folder.name if folder.name != "model" else folder.parent.name
