"""Slices of a split as the `datasets` library writes them: `train[0:500]`, `train[90%:]`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from program import INVALID, ProgramError

SLICE = re.compile(r"\[(?P<first>-?\d+%?)?:(?P<last>-?\d+%?)?\]$")
T = TypeVar("T")


def cut(rows: Sequence[T], split: str, key: str) -> list[T]:
    """Return the rows that a split's slice names, bounds as Python's, per cent of all rows rounded; ProgramError (3) where none is left."""
    found = SLICE.search(split)
    first, last = (_bound(found[part], len(rows)) for part in ("first", "last")) if found else (None, None)
    kept = list(rows[first:last])
    if not kept:
        raise ProgramError(f"{key}: {split} has no rows; the split has {len(rows)}", "name a split and a slice that have rows", INVALID)
    return kept


def _bound(text: str | None, count: int) -> int | None:
    if text is None:
        return None
    return round(count * int(text.removesuffix("%")) / 100) if text.endswith("%") else int(text)
