"""The rows of a source: of this machine as they are, of a hub's dataset its locked files and of them the slice that the recipe's split names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hub import bring
from program import INVALID, Args, ProgramError
from rows import Row, read

SLICE = re.compile(r"\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\]$")


def read_source(args: Args, name: str) -> list[Row]:
    """Return the rows of dataset.<name>; ProgramError (3) where there are none, and as hub.bring."""
    source, key = args.recipe["dataset"][name], f"dataset.{name}"
    if "path" in source:
        return read(source, args.inputs["recipe_dir"], key)
    folder = bring(source, "datasets", args.recipe["files"][name], args, name)
    files = [folder / file["path"] for file in args.recipe["files"][name]]
    return cut([row for file in files for row in read({"path": file}, Path(), key)], source["split"], key)


def cut(rows: Sequence[Row], split: str, key: str) -> list[Row]:
    """Return the rows of `train[0:500]` or `train[90%:]`: bounds as Python's, per cent of all rows rounded; ProgramError (3) where none is left."""
    found = SLICE.search(split)
    bounds = [_bound(found[part], len(rows)) for part in ("first", "last")] if found else [None, None]
    kept = list(rows[slice(*bounds)])
    if not kept:
        remedy = "name a split and a slice that have rows"
        raise ProgramError(f"{key}: {split} has no rows; the split has {len(rows)}", remedy, INVALID)
    return kept


def _bound(text: str | None, count: int) -> int | None:
    if text is None:
        return None
    return round(count * int(text.removesuffix("%")) / 100) if text.endswith("%") else int(text)
