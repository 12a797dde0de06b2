"""From a command line to a file of YAML: what is exported, with a head that says what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit import __version__, console, recipe_file
from toolkit.errors import NotReadyError, UsageError
from toolkit.export import kserve, kuberay, lws, production_stack, trainer
from toolkit.export.fleet import Fleet
from toolkit.export.place import parse
from toolkit.export.served import ENGINES, Served, Wish, served
from toolkit.export.values import values

TARGETS: Mapping[str, Callable[[Fleet], Sequence[dict[str, Any]]]] = {
    "kserve": kserve.objects,
    "production-stack": production_stack.objects,
    "kuberay": kuberay.objects,
    "lws": lws.objects,
}


def chart_values(
    path: Path, *, engines: tuple[Any, ...], place: str, registry: str, secret: str, output: Path | None, store: Path, **how: Any
) -> None:
    """Write the chart's values for a recipe's engines; UsageError where none of them has an image."""
    where = parse(place)
    wanted = engines or tuple(name for name in recipe_file.load(path).serve.engines if name in ENGINES)
    if not wanted:
        raise UsageError("the recipe serves with none of the engines that have an image", f"--engine {'|'.join(ENGINES)}")
    if how["variant"] and len(wanted) > 1:
        raise UsageError("--variant is for one engine", "name it with --engine")
    found = [served(path, Wish(name, registry=registry, **how), store) for name in dict.fromkeys(wanted)]
    write([values(found, where, registry, secret)], path, found, output)


def objects(kind: str, path: Path, *, place: str, registry: str, output: Path | None, store: Path, **how: Any) -> None:
    """Write the objects of an engine that exists."""
    where = parse(place)
    wish = Wish("vllm", how.pop("variant"), how.pop("gpu"), registry, how.pop("adapter"))
    one = served(path, wish, store)
    gpus = how.pop("gpus") or max(1, one.gpus)
    write(TARGETS[kind](Fleet(one, where, gpus=gpus if one.gpus else 0, **how)), path, [one], output)


def training(path: Path, *, claim: str, nodes: int, registry: str, output: Path | None, store: Path) -> None:
    """Write what Kubeflow Trainer is given."""
    write(trainer.objects(path, trainer.Where(claim, nodes, registry, store)), path, [], output)


def write(documents: Sequence[dict[str, Any]], path: Path, several: Sequence[Served], output: Path | None) -> None:
    """Write documents to a file or to standard output; NotReadyError where the file cannot be written."""
    text = "".join(_head(path, several)) + as_yaml(documents)
    if output is None:
        console.emit(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NotReadyError(f"{output} cannot be written: {error.strerror}", "name another file with --output") from error
    console.remark(f"wrote {output}")


def _head(path: Path, several: Sequence[Served]) -> list[str]:
    made = [f"# {one.engine} {one.variant}: {one.checkpoint}, verdict: {one.verdict or 'not verified'}\n" for one in several]
    return [f"# thinkship {__version__} export of {path.name}\n", *made]


class _Plain(yaml.SafeDumper):
    """Writes what a person reads: nothing by reference, texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        """Repeat what stands in two places."""
        return True


def _text(dumper: _Plain, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Plain.add_representer(str, _text)


def as_yaml(documents: Sequence[dict[str, Any]]) -> str:
    """Return documents as one text."""
    return "---\n".join(yaml.dump(one, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120) for one in documents)
