"""The recipe's own files come to the volume whole, by content, or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

import pytest

from toolkit.errors import BrokenError, InvalidError
from toolkit.recipe_file import parse
from toolkit.runners.kubernetes import belongings

PATHS = {"dataset/source": Path("data/rows.jsonl"), "base/source": Path("model")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("data/rows.jsonl", "model/config.json", "model/deep/weights"):
        (tmp_path / "recipes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "recipes" / name).write_text(name)
    return tmp_path / "recipes"


def copied(folder: Path, root: Path, growing: str) -> None:
    """Do what `kubectl cp` does."""
    for path in PATHS.values():
        target = Path(belongings.remote(PurePosixPath(root), growing, path))
        (shutil.copytree if (folder / path).is_dir() else shutil.copy)(folder / path, target)


def test_they_are_named_by_what_they_hold(folder):
    before = belongings.name(folder, PATHS)
    assert before.startswith(".given/") and belongings.name(folder, {}) == ""
    (folder / "model/deep/weights").write_text("other")
    assert belongings.name(folder, PATHS) != before
    shutil.rmtree(folder / "model")
    with pytest.raises(InvalidError, match=r"base/source/path: .* does not exist"):
        belongings.name(folder, PATHS)


def test_they_count_when_all_their_bytes_are_there(folder, tmp_path):
    root, given, expected = tmp_path / "store", belongings.name(folder, PATHS), belongings.contents(folder, PATHS)
    one = belongings.draft(given, "one")
    belongings.begin(root, one, PATHS)
    with pytest.raises(BrokenError, match="did not come"):
        belongings.keep(root, one, given, PATHS, expected)
    belongings.begin(root, one, PATHS)
    copied(folder, root, one)
    (root / one / "data/rows.jsonl").write_text("data/row")
    with pytest.raises(BrokenError, match="other bytes came"):
        belongings.keep(root, one, given, PATHS, expected)
    assert not (root / given).exists()
    belongings.begin(root, one, PATHS)
    copied(folder, root, one)
    belongings.keep(root, one, given, PATHS, expected)
    assert (root / given / "model/deep/weights").read_text() == "model/deep/weights" and not (root / one).exists()


def test_two_copies_at_once_are_both_whole_and_a_killed_one_is_taken_away(folder, tmp_path):
    root, given, expected = tmp_path / "store", belongings.name(folder, PATHS), belongings.contents(folder, PATHS)
    one, other, killed = (belongings.draft(given, copy) for copy in ("one", "other", "killed"))
    belongings.begin(root, killed, PATHS)
    os.utime(root / killed, (1, 1))
    for growing in (one, other):
        belongings.begin(root, growing, PATHS)
        copied(folder, root, growing)
    for growing in (one, other):
        belongings.keep(root, growing, given, PATHS, expected)
    assert belongings.contents(root / given, PATHS) == expected
    assert [path.name for path in (root / given).parent.iterdir()] == [Path(given).name]


def test_a_recipes_paths_are_found_and_stay_below_it(demo_text):
    assert belongings.local(parse(demo_text, "x")) == {
        "dataset/source": Path("data/sums-train.jsonl"),
        "dataset/holdout": Path("data/sums-holdout.jsonl"),
    }
    for path in ("/srv/rows.jsonl", "../rows.jsonl"):
        with pytest.raises(InvalidError, match="does not lie below the recipe's folder"):
            belongings.local(parse(demo_text.replace("data/sums-train.jsonl", path), "x"))
