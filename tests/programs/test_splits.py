from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from training import PROGRAMS


@pytest.fixture(scope="module")
def splits() -> Any:
    sys.path.insert(0, str(PROGRAMS))
    yield importlib.import_module("splits")
    sys.path.remove(str(PROGRAMS))


SLICES = {
    "train": range(10),
    "train[0:3]": range(3),
    "train[:3]": range(3),
    "train[7:]": range(7, 10),
    "train[-2:]": range(8, 10),
    "train[8:99]": range(8, 10),
    "train[90%:]": range(9, 10),
    "train[:25%]": range(2),
    "train[10%:-10%]": range(1, 9),
}


@pytest.mark.parametrize("split", SLICES)
def test_a_slice_of_a_split(split: str, splits: Any) -> None:
    assert splits.cut(list(range(10)), split, "dataset.source") == list(SLICES[split])


@pytest.mark.parametrize(("split", "rows"), [("train[10:20]", 10), ("train[5:5]", 10), ("test", 0)])
def test_a_slice_without_rows_is_refused(split: str, rows: int, splits: Any) -> None:
    with pytest.raises(Exception, match="has no rows") as caught:
        splits.cut(list(range(rows)), split, "dataset.source")
    assert str(caught.value) == f"dataset.source: {split} has no rows; the split has {rows}"
    assert caught.value.code == 3  # type: ignore[attr-defined]
