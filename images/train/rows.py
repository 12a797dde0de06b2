"""Data files become rows with a place to point at: JSON lines, JSON, CSV or Parquet, one file or a folder of them."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from program import INVALID, ProgramError
from splits import cut


@dataclass(frozen=True)
class Row:
    """One row and where it stands, `file:line`."""

    place: str
    values: dict[str, Any]


def read(source: dict[str, Any], recipe_dir: Path, key: str) -> list[Row]:
    """Return a source's rows; `key` is the recipe's, for messages. ProgramError (3) names the file, the line or the byte."""
    if "files" in source:  # brought from a hub
        return cut([row for file in source["files"] for row in _read_file(Path(file))], source["split"], key)
    path = recipe_dir / source["path"]
    files = sorted(file for file in path.iterdir() if file.suffix in READERS) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        message = f"{key}.path: {path} does not exist or holds no data files"
        raise ProgramError(message, "correct the path; it is taken from the recipe's folder", INVALID)
    return [row for file in files for row in _read_file(file)]


def _read_file(path: Path) -> Iterator[Row]:
    if path.suffix not in READERS:
        raise ProgramError(f"{path.name}: no data file known by this ending", f"use one of {', '.join(READERS)}", INVALID)
    for line, values in READERS[path.suffix](path):
        if not isinstance(values, dict):
            raise ProgramError(f"{path.name}:{line}: {type(values).__name__} where an object with named columns belongs", "correct that row", INVALID)
        yield Row(f"{path.name}:{line}", values)


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"{path.name}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}, line {line}"
        raise ProgramError(message, f"convert it: iconv -f LATIN1 -t UTF-8 {path.name}, with the encoding it really has", INVALID) from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    # not splitlines(): a JSON string may hold U+2028, which that takes for a line's end
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            yield number, _parsed(path, line, number)


def _parsed(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ProgramError(f"{path.name}:{line}: broken JSON: {error.msg} at column {error.colno}", "correct or remove that line", INVALID) from error


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    rows = _parsed(path, _text(path), 1)
    if not isinstance(rows, list):
        raise ProgramError(f"{path.name}: {type(rows).__name__} where a list of rows belongs", "wrap the rows in [ ], or use JSON lines", INVALID)
    yield from enumerate(rows, 1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for values in reader:
            if None in values:
                raise csv.Error("more cells than the header has columns")
            yield reader.line_num, values
    except csv.Error as error:
        raise ProgramError(f"{path.name}:{reader.line_num}: broken CSV: {error}", "correct that line", INVALID) from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
    except ArrowException as error:
        raise ProgramError(f"{path.name}: no readable Parquet file: {error}", "write it again", INVALID) from error


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv, ".parquet": _parquet}


def match_columns(wanted: dict[str, str | None], rows: Sequence[Row], key: str) -> dict[str, str]:
    """Return role -> name of the column in the data, without regard to case; ProgramError (3) lists every missing one."""
    if not rows:
        raise ProgramError(f"{key}: no rows", "give it data", INVALID)
    found = columns_of(rows)
    matched, problems = {}, []
    for role, name in ((role, name) for role, name in wanted.items() if name):
        hits = [column for column in found if column == name] or [column for column in found if column.casefold() == name.casefold()]
        if hits:
            matched[role] = hits[0]
            continue
        near = difflib.get_close_matches(name.casefold(), [column.casefold() for column in found], 1, 0.6)
        guess = next((column for column in found if near and column.casefold() == near[0]), None)
        problems.append(f"dataset.columns.{role}: no column {name!r}" + (f"; did you mean {guess!r}?" if guess else ""))
    if problems:
        message = f"{key}: {'; '.join(problems)} (columns found: {', '.join(map(repr, found))})"
        raise ProgramError(message, "name the columns in dataset.columns as they are in the data", INVALID)
    return matched


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns in the order in which the first hundred rows have them."""
    return list(dict.fromkeys(name for row in rows[:100] for name in row.values))
