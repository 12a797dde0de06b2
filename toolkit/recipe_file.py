"""Reads a recipe's YAML and says everything that is wrong with it at once, with the place and the nearest known key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from toolkit.errors import InvalidError, UsageError
from toolkit.recipe import Recipe

REMEDY = "correct the lines above; every key is described in docs/reference.md"


class _UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Refuses a key given twice, which YAML otherwise overwrites in silence."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=node.start_mark)
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load(path: Path) -> Recipe:
    """Read a recipe; UsageError where the file is missing, InvalidError with every fault otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such recipe", _recipes_nearby(path)) from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder", _recipes_nearby(path / "x.yml")) from error
    except UnicodeDecodeError as error:
        raise InvalidError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Recipe:
    """Read a recipe from YAML text; `name` stands in the messages."""
    try:
        data = yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise InvalidError(f"{place}: not valid YAML: {getattr(error, 'problem', error)}", "correct the line") from error
    if not isinstance(data, dict):
        raise InvalidError(f"{name}: a recipe is a mapping of keys, not {type(data).__name__}", "start from recipes/smollm2-demo.yml")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InvalidError("\n       ".join(dict.fromkeys(_messages(error, name))), REMEDY) from error


def _recipes_nearby(path: Path) -> str:
    found = sorted(path.parent.glob("*.yml")) or sorted(Path("recipes").glob("*.yml"))
    return "recipes here: " + ", ".join(map(str, found)) if found else "name the path of a recipe"


def _messages(error: ValidationError, name: str) -> Iterator[str]:
    for item in error.errors():
        location = _fields(item["loc"])
        text = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            text = f"unknown key{_did_you_mean(location)}"
        elif item["type"] == "literal_error" and (near := _near(item["input"], item.get("ctx", {}).get("expected", ""))):
            text += f"; did you mean {near}?"
        elif item["type"] == "missing":
            text = "is required"
        yield f"{name}: {'/'.join(map(str, location)) or 'recipe'}: {text[0].lower() + text[1:]}"


def _fields(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Drop the names of a union's members, which pydantic puts between the fields."""
    return tuple(part for part in location if not (isinstance(part, str) and part.endswith("Source")))


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    keys = _keys_at(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), keys, 1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(keys)}"


def _near(given: object, expected: str) -> str:
    """Return the nearest of pydantic's listed values ('a', 'b' or 'c'), nothing where none is near."""
    return next(iter(difflib.get_close_matches(str(given).lower(), re.findall(r"'([^']+)'", expected), 1)), "")


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    models: list[type[BaseModel]] = [Recipe]
    for part in location:
        fields = [model.model_fields[str(part)].annotation for model in models if str(part) in model.model_fields]
        models = [kind for field in fields for kind in get_args(field) or (field,) if _is_section(kind)]
    return [key for model in models for key in model.model_fields]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
