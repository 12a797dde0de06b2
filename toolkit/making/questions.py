"""The questions of a JSONL or CSV file: columns `question` and `expected`, without regard to case; a text that stands twice is asked once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import InvalidError, UsageError
from toolkit.making import Item


def read(path: Path) -> tuple[Item, ...]:
    """Return a file's questions in their order; UsageError where there is no such file, InvalidError with the line that is wrong."""
    if path.suffix not in READERS:
        raise UsageError(f"{path}: no file of questions is known by this ending", f"use one of {', '.join(READERS)}")
    items: dict[str, Item] = {}
    for line, values in READERS[path.suffix](path, _text(path)):
        item = _item(f"{path}:{line}", values)
        known = items.setdefault(item.text, item)
        if known.expected != item.expected:
            raise InvalidError(f"{path}:{line}: {item.text!r} stands there twice, with other expected answers", "remove one of the two lines")
    if not items:
        raise InvalidError(f"{path}: no question in it", "one JSON object a line, with the key `question`")
    return tuple(items.values())


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file with questions") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # not splitlines(): a JSON string may hold U+2028, which that takes for a line's end
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidError(f"{path}:{number}: broken JSON: {error.msg} at column {error.colno}", "correct or remove that line") from error


def _csv(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for values in reader:
            if None in values:
                raise csv.Error("more cells than the header has columns")
            yield reader.line_num, values
    except csv.Error as error:
        raise InvalidError(f"{path}:{reader.line_num}: broken CSV: {error}", "correct that line") from error


READERS = {".jsonl": _json_lines, ".csv": _csv}


def _item(place: str, values: Any) -> Item:
    if not isinstance(values, Mapping):
        raise InvalidError(f"{place}: {type(values).__name__} where an object with named columns belongs", "correct that line")
    named = {str(name).strip().casefold(): value for name, value in values.items()}
    text, expected = named.get("question"), named.get("expected")
    if not isinstance(text, str) or not text.strip():
        columns = ", ".join(map(repr, values)) or "none"
        raise InvalidError(f"{place}: no question (columns found: {columns})", "name the column `question`, and `expected` for its right answer")
    return Item(text.strip(), None if expected is None or not str(expected).strip() else str(expected).strip())
