"""Which files of a hub repository a recipe needs: a checkpoint without duplicates, pickles and code, or one split of a dataset's configuration."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from toolkit.adapter import PICKLE, SAFETENSORS, require_files
from toolkit.errors import InvalidError
from toolkit.hubs import RemoteFile

CHECKPOINT = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files beside the weights that are taken, at the top of the repository."""
WEIGHTS = re.compile(r"^model(-\d{5}-of-\d{5})?\.safetensors$")
"""The weights that transformers loads; others beside them are the same in another layout or type."""
ROW_FILES = (".jsonl", ".json", ".csv", ".parquet")
SPLIT_WORDS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev", "eval"), "test": ("test", "testing")}
"""What a file's name says of its split where the README does not (the convention of the `datasets` library)."""


def checkpoint(files: Iterable[RemoteFile], subject: str) -> tuple[RemoteFile, ...]:
    """Return the files of a checkpoint; InvalidError where the repository holds none that can be loaded without running its code."""
    top = [file for file in files if "/" not in file.path]
    weights = [file for file in top if file.path.endswith(".safetensors")]
    usual = [file for file in weights if WEIGHTS.match(file.path)]
    if not any(file.path == "config.json" for file in top) or not weights:
        lacking = "no *.safetensors" if any(file.path == "config.json" for file in top) else "no config.json"
        raise InvalidError(f"{subject} is no checkpoint: {lacking} among its {len(top)} files", "name a repository with config.json and safetensors")
    rest = [file for file in top if any(fnmatch.fnmatch(file.path, pattern) for pattern in CHECKPOINT)]
    return tuple(sorted((*(usual or weights), *rest), key=lambda file: file.path))


def adapter(files: Iterable[RemoteFile], subject: str, allow_pickle: bool) -> tuple[RemoteFile, ...]:
    """Return the files of an adapter, its model card too, which tells the trainer; errors as `adapter.require_files`."""
    top = [file for file in files if "/" not in file.path]
    names = {file.path for file in top}
    require_files(names, subject, "name a repository that PEFT wrote", allow_pickle)
    patterns = (SAFETENSORS if SAFETENSORS in names else PICKLE, "README.md", *CHECKPOINT)
    return tuple(sorted((file for file in top if any(fnmatch.fnmatch(file.path, pattern) for pattern in patterns)), key=lambda file: file.path))


def rows(files: Iterable[RemoteFile], readme: str, config: str | None, split: str) -> tuple[RemoteFile, ...]:
    """Return the files of a split (`train`, `train[0:500]`); InvalidError says which configurations and files there are."""
    name = split.partition("[")[0]
    data = sorted((file for file in files if PurePosixPath(file.path).suffix in ROW_FILES), key=lambda file: file.path)
    stated = _configs(readme)
    if stated and (config is None or config in stated):
        patterns = _patterns(_chosen(stated, config), name)
        found = [file for file in data if any(_matches(file.path, pattern) for pattern in patterns)]
    else:
        found = _by_name([file for file in data if config is None or file.path.startswith(f"{config}/")], name)
    if not found:
        where = f"configuration {config!r}, " if config else ""
        there = ", ".join(file.path for file in data[:8]) or f"no {', '.join(ROW_FILES)}"
        known = f"; configurations: {', '.join(stated)}" if stated else ""
        raise InvalidError(f"no rows for {where}split {name!r} (files: {there}{known})", "correct config and split")
    return tuple(found)


def _configs(readme: str) -> dict[str, Mapping[str, Any]]:
    """Return the configurations that a README states in its YAML head, by name."""
    head = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    try:
        stated = yaml.safe_load(head.group(1)) if head else None
    except yaml.YAMLError as error:
        message = f"the head of the dataset's README.md, which names its files, is no YAML: {' '.join(str(error).split())}"
        raise InvalidError(message, "name another revision, or use source: {path: …} with a copy of the file you mean") from error
    configs = stated.get("configs") if isinstance(stated, dict) else None
    return {str(entry["config_name"]): entry for entry in configs or () if isinstance(entry, dict) and "config_name" in entry}


def _chosen(stated: Mapping[str, Mapping[str, Any]], config: str | None) -> Mapping[str, Any]:
    if config is not None:
        return stated[config]
    usual = [entry for name, entry in stated.items() if entry.get("default") or name == "default"]
    if len(stated) > 1 and not usual:
        raise InvalidError(f"the dataset has the configurations {', '.join(stated)}", "state which one is meant: config: …")
    return usual[0] if usual else next(iter(stated.values()))


def _patterns(entry: Mapping[str, Any], split: str) -> list[str]:
    """Return the patterns of a split's files; a configuration without splits has `train` alone."""
    folder, files = entry.get("data_dir"), entry.get("data_files") or "**"
    if isinstance(files, dict):
        files = [{"split": name, "path": path} for name, path in files.items()]
    by_split = [item for item in _listed(files) if isinstance(item, dict)]
    chosen = [item["path"] for item in by_split if item.get("split") == split] if by_split else files if split == "train" else []
    return [f"{folder.strip('/')}/{pattern}" if folder else pattern for paths in _listed(chosen) for pattern in _listed(paths)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _matches(path: str, pattern: str) -> bool:
    """Match as file systems do: `*` within one folder, `**` across folders."""
    parts = re.split(r"(\*\*/?|\*|\?)", pattern.removeprefix("./"))
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.fullmatch("".join(wild.get(part) or re.escape(part) for part in parts), path) is not None


def _by_name(data: list[RemoteFile], split: str) -> list[RemoteFile]:
    """Sort files by the words in their names; files of which none tells its split are all `train`."""
    words = {file.path: set(re.split(r"[/._-]", file.path)) for file in data}
    found = [file for file in data if words[file.path] & set(SPLIT_WORDS.get(split, (split,)))]
    told = any(group & set(names) for group in words.values() for names in SPLIT_WORDS.values())
    return data if split == "train" and not told else found
