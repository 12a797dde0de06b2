"""Writes docs/reference.md and the schemas of what is published from the code, so that what is documented cannot differ from it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from toolkit import console
from toolkit.errors import BY_CODE, BrokenError
from toolkit.metrics import METRICS
from toolkit.recipe import Recipe
from toolkit.release import document as released
from toolkit.report import document
from toolkit.stages import IMPORTED, ROOT, STAGES

PAGE = ROOT / "docs" / "reference.md"
SCHEMA = ROOT / "docs" / "report.schema.json"
RELEASE = ROOT / "docs" / "release.schema.json"


def write(check: bool, root: click.Group) -> None:
    """Write the page and the schemas; with `check` write nothing and raise BrokenError where one is not what the code says."""
    for path, text in ((PAGE, "\n".join(lines(root)) + "\n"), (SCHEMA, document.schema()), (RELEASE, released.schema())):
        if not check:
            path.write_text(text, encoding="utf-8")
            console.say(f"wrote docs/{path.name}")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise BrokenError(f"docs/{path.name} is not what the code says", "thinkship docs")


def lines(root: click.Group) -> Iterator[str]:
    """Yield the page's lines; `root` is the command line."""
    yield "# Reference"
    yield ""
    yield "Written by `thinkship docs` from the code; do not edit."
    yield from _commands(root)
    yield from _exit_codes()
    yield from _metrics()
    yield from _stages()
    yield from _recipe()


def _commands(root: click.Group) -> Iterator[str]:
    yield from ("", "## Commands", "")
    for name, command in _spelt_out(root, ""):
        arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
        shown = "".join(f" {p.human_readable_name}" if p.required else f" [{p.human_readable_name}]" for p in arguments)
        yield from (f"### `thinkship {name}{shown}`", "")
        yield from (inspect.cleandoc(command.help or ""), "")
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        yield from (f"* `{_spelling(option)}`: {option.help or ''}".rstrip(": ") for option in options)
        yield ""


def _spelt_out(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands by their full names, those of a group after it."""
    for name, command in sorted(group.commands.items()):
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from _spelt_out(command, f"{prefix}{name} ")


def _spelling(option: click.Option) -> str:
    kind = "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else option.type.name.upper()
    return option.opts[0] if option.is_flag else " ".join((option.opts[0], *[kind] * option.nargs))


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "| code | error | meaning |", "| --- | --- | --- |")
    yield from ("| 0 | | done |", "| 1 | | a bug of ours, with a traceback |")
    for code, kind in BY_CODE.items():
        meaning = inspect.cleandoc(kind.__doc__ or "").partition(" (exit code")[0]
        yield f"| {code} | `{kind.__name__}` | {meaning[0].lower() + meaning[1:]} |"
    yield from ("| 130 | | interrupted by the user |", "")


def _metrics() -> Iterator[str]:
    yield from ("## Metrics of `thinkship watch`", "", "| metric | type | meaning |", "| --- | --- | --- |")
    yield from (f"| `{metric.name}` | {metric.kind} | {metric.help} |" for metric in METRICS)
    yield ""


def _stages() -> Iterator[str]:
    yield from ("## Stages", "", "| stage | program | runs in | network |", "| --- | --- | --- | --- |")
    for name, stage in (*STAGES.items(), ("train, with `adapter`", IMPORTED)):
        yield f"| {name} | `{stage.program}` | {stage.environment or 'host'} | {'yes' if stage.network else 'no'} |"
    yield ""


def _recipe() -> Iterator[str]:
    yield from ("## Recipe", "", "| key | type | default | meaning |", "| --- | --- | --- | --- |")
    yield from _keys(Recipe, "")


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    meanings = _meanings(model)
    for name, field in model.model_fields.items():
        sections = [kind for kind in _members(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        key = f"{prefix}{name}"
        kind = "section" if sections else _type_name(field)
        yield f"| `{key}` | {kind} | {_default(field, bool(sections))} | {meanings.get(name, '').replace('|', chr(92) + '|')} |"
        for section in sections:
            yield from _keys(section, f"{key}.")


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field, by the field's name; pydantic would read the sources for them at every start of the command line."""
    found: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if part is not BaseModel and issubclass(part, BaseModel):
            (node,) = ast.parse(inspect.getsource(part)).body
            assert isinstance(node, ast.ClassDef)
            for field, below in pairwise(node.body):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                    found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    return tuple(kind for kind in get_args(annotation) or (annotation,) if kind is not type(None))


def _type_name(field: FieldInfo) -> str:
    return f"`{_plain(field.annotation)}`".replace("|", "\\|")


def _plain(annotation: Any) -> str:
    """Spell a type as YAML's reader would: choices as their words, tuples as lists."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain(parts[0])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is tuple:
        return f"list of {_plain(parts[0])}"
    if origin is dict:
        return f"mapping of {_plain(parts[0])} to {_plain(parts[1])}"
    if parts:
        return " | ".join(_plain(part) for part in parts if part is not type(None))
    return str({"str": "text", "int": "integer", "float": "number", "bool": "yes or no"}.get(annotation.__name__, annotation.__name__)).lower()


def _default(field: FieldInfo, section: bool) -> str:
    if field.is_required():
        return "required"
    return "" if section else f"`{field.get_default(call_default_factory=True)!r}`".replace("|", "\\|")
