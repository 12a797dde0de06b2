"""The demo's data is what its generator writes, and nothing held out can be known from training."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DATA = Path(__file__).resolve().parents[2] / "recipes" / "data"
NUMBERS = re.compile(r"\d+")


@pytest.fixture(scope="module")
def make_sums() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sums", DATA / "make_sums.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def pair(row: dict[str, Any]) -> frozenset[str]:
    return frozenset(NUMBERS.findall(row["Question"]))


def test_regenerating_gives_the_same_bytes(make_sums: ModuleType, tmp_path: Path) -> None:
    make_sums.main(tmp_path)
    for name in ("sums-train.jsonl", "sums-holdout.jsonl"):
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()


def test_another_seed_gives_other_rows(make_sums: ModuleType) -> None:
    assert make_sums.split(1) != make_sums.split(2)


def test_there_are_enough_rows() -> None:
    assert len(rows("sums-train.jsonl")) >= 2000
    assert len(rows("sums-holdout.jsonl")) >= 200


def test_no_held_out_pair_is_trained_on_in_any_order_or_wording() -> None:
    trained, held_out = ({pair(row) for row in rows(f"sums-{name}.jsonl")} for name in ("train", "holdout"))
    assert not trained & held_out


def test_no_question_comes_twice() -> None:
    questions = [row["Question"] for name in ("train", "holdout") for row in rows(f"sums-{name}.jsonl")]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", ["sums-train.jsonl", "sums-holdout.jsonl"])
def test_every_row_is_right(name: str) -> None:
    for row in rows(name):
        a, b = map(int, NUMBERS.findall(row["Question"]))
        assert row["Expected"] == str(a + b)
        assert row["Response"] == str(a + b)
        steps = re.findall(r"(\d+) \+ (\d+) = (\d+)", row["Complex_CoT"])
        assert len(steps) == 3
        assert all(int(left) + int(right) == int(total) for left, right, total in steps)
        assert steps[-1][2] == row["Expected"]
