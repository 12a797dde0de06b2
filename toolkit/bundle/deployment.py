"""How a bundle's model is served where it is loaded: compose's settings and the chart's values, taken from the recipe as the exports take them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit import __version__
from toolkit.bundle.manifest import Manifest, Serving
from toolkit.export.fleet import without
from toolkit.export.place import parse
from toolkit.export.served import MODELS, Served
from toolkit.export.values import values

COMPOSES = ("--model", "--served-model-name", "--max-model-len", "--max-num-seqs", "--shutdown-timeout", "--enforce-eager", "--host", "--port")
"""Flags that compose.yaml gives vLLM itself."""
GPU_PROFILES = {"vllm": "gpu", "ollama": "ollama-gpu"}
SERVICES = {"vllm": "vllm:8000", "gpu": "vllm-gpu:8000", "ollama": "ollama:11434", "ollama-gpu": "ollama-gpu:11434", "llamacpp": "llamacpp:8080"}
"""Where the engine of each of compose's profiles answers."""
CLAIM = "pvc://thinkship-models"


def serving(one: Served) -> Serving:
    """Return compose's profile and settings for an engine."""
    shared = {"MODEL_NAME": one.name, "CONTEXT": str(one.target.context), "PARALLEL": str(one.target.parallel), "TAG": __version__}
    match one.engine:
        case "vllm":
            flags = without(list(one.args), *COMPOSES)
            own = {"VLLM_MODEL": one.checkpoint, "VLLM_ARGS": shlex.join(flags)}
        case "ollama":
            own = {"MODELFILE": Path(one.env["MODELFILE"]).relative_to(MODELS).as_posix()}
        case _:
            own = {"GGUF": one.checkpoint}
    profile = GPU_PROFILES[one.engine] if one.gpus else one.engine
    where = {"UPSTREAM": SERVICES[profile], "WATCHED": f"http://{SERVICES[profile]}/v1"}
    return Serving(profile=profile, settings={**shared, **own, **where})


def chart_values(several: Sequence[Served], secret: str = "thinkship") -> bytes:
    """Return the chart's values, the model in a claim to which its directories are copied."""
    return encoded(values(several, parse(CLAIM), "", secret))


def encoded(given: Mapping[str, Any]) -> bytes:
    """Return values as YAML."""
    return yaml.safe_dump(dict(given), sort_keys=False, allow_unicode=True, width=120).encode()


def from_registry(data: bytes, registry: str) -> bytes:
    """Return the chart's values with the images of a registry."""
    given = yaml.safe_load(data)
    for place in (*given["engines"].values(), given["images"]):
        key = "tools" if "tools" in place else "image"
        place[key] = f"{registry.rstrip('/')}/{place[key]}"
    return encoded(given)


def environment(one: Serving, store: Path) -> bytes:
    """Return the file that `docker compose --env-file` reads."""
    settings = {"MODEL_DIR": str(store), **one.settings}
    return "".join(f"{name}={_quoted(value)}\n" for name, value in sorted(settings.items())).encode()


def _quoted(value: str) -> str:
    """Quote what compose would take apart or fill in (https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/)."""
    return value if value and not set(value) & set(" '\"$#\\") else "'" + value.replace("'", "\\'") + "'"


def next_steps(manifest: Manifest, folder: Path, registry: str, loaded: bool) -> str:
    """Return in words what is to be typed next."""
    if registry:
        return f"""serve it on the cluster, its directories in the claim thinkship-models:
  kubectl create secret generic thinkship --from-literal=api-key=$(openssl rand -hex 32)
  helm install {manifest.recipe} {folder}/charts/thinkship --values {folder}/values.yaml --wait --timeout 30m"""
    if not manifest.serving:
        return f"thinkship report {folder.parent.parent}"
    engine, one = next(iter(manifest.serving.items()))
    first = "" if loaded else "the images stay in the bundle: load it again with --docker or --registry, then\n"
    return f"""{first}serve it on this machine:
  cd {folder}/compose && ./init.sh && docker compose --env-file {engine}.env --profile {one.profile} up --detach --wait --no-build --pull never"""
