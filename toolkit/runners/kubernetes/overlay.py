"""What an operator lays over the Jobs' pods: where they may run, whose pull secrets they use, what their containers ask for beyond our own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from toolkit.errors import InvalidError, UsageError
from toolkit.runners.kubernetes.needs import GPU

KINDS: Mapping[str, Any] = {
    "nodeSelector": dict,
    "affinity": dict,
    "tolerations": list,
    "topologySpreadConstraints": list,
    "imagePullSecrets": list,
    "priorityClassName": str,
    "runtimeClassName": str,
    "schedulerName": str,
    "resources": dict,
}
"""Keys of a pod's spec that may be laid over it, and `resources` of each container. Not among them is what hardens a pod, or what it runs."""


def read(path: Path | None) -> dict[str, Any]:
    """Return what a file lays over pods; UsageError where it cannot be read, InvalidError for a key or a type that it may not have."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name another file with --pod") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidError(f"{path}: not valid YAML: {error}", "correct it") from error
    if not isinstance(found, dict):
        message = f"{path}: a mapping of keys of a pod's spec is wanted, not {type(found).__name__}"
        raise InvalidError(message, "for example `nodeSelector: {pool: gpu}`")
    wrong = [problem for key, value in found.items() if (problem := _problem(str(key), value))]
    if wrong:
        raise InvalidError("\n       ".join(f"{path}: {problem}" for problem in wrong), f"known here: {', '.join(KINDS)}")
    return found


def _problem(key: str, value: Any) -> str:
    """Say what is wrong with one key, nothing where it may be laid over a pod."""
    if key not in KINDS:
        near = difflib.get_close_matches(key, KINDS, 1)
        return f"{key}: cannot be laid over a pod" + (f"; did you mean {near[0]}?" if near else "")
    if type(value) is not KINDS[key]:
        return f"{key}: {KINDS[key].__name__} is wanted, not {type(value).__name__}"
    return _wrong_amounts(value) if key == "resources" else ""


def _wrong_amounts(asked: Mapping[str, Any]) -> str:
    if alien := [part for part, amounts in asked.items() if part not in ("requests", "limits") or not isinstance(amounts, dict)]:
        return f"resources: requests and limits are wanted, each a mapping, not {', '.join(map(str, alien))}"
    return f"resources: how many {GPU} is each step's own" if any(GPU in amounts for amounts in asked.values()) else ""


def laid(spec: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod's spec with it: tolerations are added to ours, all else takes the place; what a step needs of GPUs and memory stays."""
    found = {**spec, **{key: value for key, value in over.items() if key != "resources"}}
    if "tolerations" in over:
        found["tolerations"] = [*spec.get("tolerations", ()), *over["tolerations"]]
    for kind in ("initContainers", "containers"):
        if kind in spec:
            found[kind] = [_asking(container, over.get("resources", {})) for container in spec[kind]]
    return found


def _asking(container: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    own = container.get("resources", {})
    merged = {part: {**over.get(part, {}), **own.get(part, {})} for part in ("requests", "limits") if part in over or part in own}
    return {**container, "resources": merged} if merged else dict(container)
