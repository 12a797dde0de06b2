"""The values of charts/thinkship for a recipe's engines and the place of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from toolkit.errors import InvalidError, UsageError
from toolkit.export.place import Place
from toolkit.export.served import File, Served, image
from toolkit.fit import GIB

FIXED = {"vllm": 120, "ollama": 20, "llamacpp": 15}
"""Seconds of a start that do not depend on the model: libraries, kernels that are compiled (59 s for QwQ-32B), CUDA graphs."""
PASSES = {"ollama": 3, "bnb-nf4": 2}
"""How often the bytes go by: Ollama copies and hashes before it loads, bitsandbytes quantises what was read."""
BYTES_A_SECOND = 250e6
"""A volume on a network. QwQ-32B took 200 s from a disk of its own."""
SPARE, SHORTEST = 2, 60
"""How many times the expected seconds a start may take, and the least; a start that is cut off begins anew and never ends."""
MOST_FILES = 1000
"""The list is an annotation of the pod, and Kubernetes takes 256 KiB of those."""
DRAIN = 60
"""Seconds for begun answers: vLLM's --shutdown-timeout (engines/vllm.py)."""


def values(several: Sequence[Served], place: Place, registry: str, secret: str) -> dict[str, Any]:
    """Return the values; UsageError where the place does not fit the engines, InvalidError where the name cannot be served."""
    first = several[0]
    if place.kind == "hf" and len(several) > 1:
        raise UsageError("a hub's repository holds the model of one engine", "export each engine alone, or take pvc:// or s3://")
    if place.kind == "image":
        files: tuple[File, ...] = ()
    else:
        files = tuple({file.path: file for one in several for file in one.files}.values())
    if len(files) > MOST_FILES:
        raise InvalidError(f"{len(files)} files are more than a pod can be told of", "take an image of the model: `thinkship images model`")
    load = {"from": place.text.rstrip("/")} if place.remote else {}
    return {
        "name": first.name,
        "model": {
            "volume": place.volume(),
            **({"subPath": place.folder} if place.kind == "pvc" and place.folder else {}),
            "files": [file.described(place.kind == "hf") for file in files],
            **({"load": load} if load else {}),
        },
        "apiKey": {"secret": secret} if secret else {"none": True},
        "images": {"tools": image("verify", registry)},
        "engines": {one.engine: _engine(one, place) for one in several},
    }


def _engine(one: Served, place: Place) -> dict[str, Any]:
    inside = place.kind == "image"
    return {
        "image": _with_model(one) if inside else one.image,
        **({} if inside or not one.args else {"args": list(one.args)}),
        **({} if inside or not one.env else {"env": dict(sorted(one.env.items()))}),
        "gpus": one.gpus,
        "startupSeconds": startup_seconds(one),
        "drainSeconds": DRAIN,
        "resources": resources(one),
    }


def _with_model(one: Served) -> str:
    """Return the name that `thinkship images model` gives; its tag is printed there."""
    registry = one.image.rpartition("thinkship/")[0]
    return f"{registry}thinkship/{one.name}-{one.engine}:TAG"


def startup_seconds(one: Served) -> int:
    """Return the longest time from the start to the first answered token, in seconds, from the bytes and the format."""
    passes = PASSES.get(one.variant, PASSES.get(one.engine, 1))
    return max(SHORTEST, math.ceil(SPARE * (FIXED[one.engine] + passes * one.bytes / BYTES_A_SECOND)))


def resources(one: Served) -> dict[str, Any]:
    """Return what a replica asks of its node; on a CPU the weights, the whole load's key-value cache and a GiB, at most half as much again."""
    if one.gpus:
        return {"requests": {"cpu": "4", "memory": "16Gi"}}
    shape, load = one.target.shape, one.target.parallel * one.target.context
    cache = shape.kv_bytes(2) * load if shape else 0
    needed = one.bytes + cache + (5 if one.engine == "vllm" else 1) * GIB
    return {"requests": {"cpu": "1", "memory": _mebibytes(needed)}, "limits": {"memory": _mebibytes(1.5 * needed)}}


def _mebibytes(count: float) -> str:
    return f"{math.ceil(count / (1 << 20))}Mi"
