"""The values of charts/thinkship for a release: those of the deployment itself, and those of the few pods that try a new one beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import InvalidError, UsageError
from toolkit.export.place import Place
from toolkit.release.document import Release, ReleasedEngine

MARK = "thinkship/release"
"""Annotation of the pods: the release they serve."""
ALONE = {"ingress": {"enabled": False}, "httpRoute": {"enabled": False}, "podDisruptionBudget": {"enabled": False}}
UNWATCHED = {"monitoring": {"serviceMonitor": False, "rules": False, "watch": False}}
"""What the deployment has once, and its canary not."""


@dataclass(frozen=True)
class Wish:
    """What a command line says of a cluster."""

    place: Place
    secret: str
    registry: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Values of one's own, laid over ours."""


def values(name: str, release: Release, one: ReleasedEngine, wish: Wish) -> dict[str, Any]:
    """Return the values of a deployment; UsageError where the engine's image is to hold the model and none is named."""
    place, inside = wish.place, wish.place.kind == "image"
    files = () if inside else one.files
    described = [{"path": f.path, **({"from": f.source} if place.kind == "hf" else {}), "size": f.size, "sha256": f.sha256} for f in files]
    ours = {
        "serves": name,
        "name": release.model,
        "model": {
            "volume": place.volume(),
            **({"subPath": place.folder} if place.kind == "pvc" and place.folder else {}),
            "files": described,
            **({"load": {"from": place.text.rstrip("/")}} if place.remote else {}),
        },
        "apiKey": {"secret": wish.secret} if wish.secret and one.engine != "ollama" else {"none": True},
        "images": {"tools": within(wish.registry, release.tools)},
        "pod": {"annotations": {MARK: release.id}},
        "engines": {one.engine: _engine(one, within(wish.registry, one.image), inside)},
    }
    if inside and "image" not in wish.more.get("engines", {}).get(one.engine, {}):
        remedy = f"build one with `thinkship images model`, push it, and state it in a file for --values: engines: {{{one.engine}: {{image: …}}}}"
        raise UsageError("--model image: no image that holds the model is named", remedy)
    return laid_over(ours, wish.more)


def _engine(one: ReleasedEngine, image: str, inside: bool) -> dict[str, Any]:
    told = {} if inside else {"args": list(one.args), "env": dict(one.env)}
    seconds = {"startupSeconds": one.startup_seconds, "drainSeconds": one.drain_seconds}
    return {"image": image, **told, "gpus": one.gpus, **seconds, "resources": dict(one.resources)}


def canary(main: Mapping[str, Any], engine: str, replicas: int, asked: bool) -> dict[str, Any]:
    """Return the values of the pods that try a release: few, and among those whom the deployment's Service asks, or not."""
    few = {"replicas": replicas, "service": {}, "host": "", "autoscaling": {}}
    found = laid_over(main, {**ALONE, **UNWATCHED})
    found["engines"] = {engine: {**found["engines"][engine], **few}}
    return found if asked else {**found, "serves": ""}


def replicas_for(percent: int, serving: int) -> int:
    """Return how many pods beside `serving` old ones come nearest to a share of the requests; one at least."""
    return max(1, round(serving * percent / (100 - percent)))


def within(registry: str, image: str) -> str:
    """Return an image's name in a registry."""
    return f"{registry.rstrip('/')}/{image}" if registry else image


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others laid over them, key by key as Helm does."""
    found = deepcopy(dict(below))
    for key, value in above.items():
        old = found.get(key)
        found[key] = laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else deepcopy(value)
    return found


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the values of several files, the last one's above; UsageError where one cannot be read, InvalidError where it holds no values."""
    found: dict[str, Any] = {}
    for path in paths:
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}", "name a YAML file with values of charts/thinkship") from error
        except yaml.YAMLError as error:
            raise InvalidError(f"{path}: not valid YAML: {getattr(error, 'problem', error)}", "correct the file") from error
        if not isinstance(given or {}, dict):
            raise InvalidError(f"{path}: values are a mapping of keys, not {type(given).__name__}", "charts/thinkship/values.yaml shows them")
        found = laid_over(found, given or {})
    return found
