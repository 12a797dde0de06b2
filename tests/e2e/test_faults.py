"""What goes wrong on real machines: one clear error, its remedy, the right exit code, and nothing half-made that counts as done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RECIPE
from small_disk import mounted

from toolkit.stages import ROOT

NOWHERE = "http://127.0.0.1:9/simple"


def thinkship(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "toolkit.cli", *map(str, arguments))
    return subprocess.run(argv, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def assert_one_clear_error(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr and "fix: " in done.stderr and "Traceback" not in done.stderr, done.stderr


def assert_nothing_sealed(store: Path) -> None:
    assert not list(store.glob("*/record.json"))


def test_an_unreachable_index_before_the_environment_is_there(tmp_path):
    caches = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "UV_CACHE_DIR": str(tmp_path / "uv"), "UV_DEFAULT_INDEX": NOWHERE, "UV_HTTP_RETRIES": "0"}
    done = thinkship("run", RECIPE, "--store", tmp_path / "store", "--until", "base", **caches)
    assert_one_clear_error(done, 4, "the package index cannot be reached")
    assert_nothing_sealed(tmp_path / "store")
    assert not list((tmp_path / "cache" / "thinkship" / "envs").glob("*"))


def test_an_unreachable_index_while_the_base_is_fetched(tmp_path):
    settings = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1", "PIP_CONFIG_FILE": os.devnull}
    done = thinkship("run", RECIPE, "--store", tmp_path / "store", "--until", "base", **settings)
    assert_one_clear_error(done, 4, "base: ")
    assert_nothing_sealed(tmp_path / "store")


def test_a_wrong_checksum_is_refused(tmp_path):
    shutil.copytree(RECIPE.parent / "data", tmp_path / "data")
    recipe = tmp_path / "x.yml"
    recipe.write_text(RECIPE.read_text(encoding="utf-8").replace("sha256: bcc8", "sha256: 0000"), encoding="utf-8")
    done = thinkship("run", recipe, "--store", tmp_path / "store", "--until", "base")
    assert_one_clear_error(done, 3, "sha256")
    assert_nothing_sealed(tmp_path / "store")


def test_a_missing_tool_is_said_before_any_work(tmp_path):
    done = thinkship(
        *("run", RECIPE, "--store", tmp_path / "store", "--engine", "ollama"), PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    assert_one_clear_error(done, 4, "go, cmake, ninja, g++ missing")
    assert not (tmp_path / "store").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 150 MB, too small for the base model."""
    with mounted(tmp_path / "disk", megabytes=150) as place:
        yield place


def test_a_disk_that_fills_up_in_the_middle(small_disk):
    done = thinkship("run", RECIPE, "--store", small_disk / "store", "--until", "base")
    assert_one_clear_error(done, 4, "no space left on the disk")
    assert_nothing_sealed(small_disk / "store")


def test_a_disk_that_is_too_full_from_the_start(small_disk):
    (small_disk / "ballast").write_bytes(b"\0" * (100 << 20))
    done = thinkship("run", RECIPE, "--store", small_disk / "store", "--until", "base")
    assert_one_clear_error(done, 4, "MiB are needed")
    assert_nothing_sealed(small_disk / "store")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace('"Complex_CoT"', '"Chain"'), "Complex_CoT"),
        (lambda text: text.replace('"}\n', '"\n', 1), "sums-train.jsonl:1: broken JSON"),
        (lambda text: "", "no rows"),
    ],
    ids=["missing column", "broken JSON", "empty"],
)
def test_a_dataset_that_is_wrong_is_named_before_training(tmp_path, store, demo, edit, words):
    folder = tmp_path / "data"
    shutil.copytree(RECIPE.parent / "data", folder)
    rows = folder / "sums-train.jsonl"
    rows.write_text(edit(rows.read_text(encoding="utf-8")), encoding="utf-8")
    recipe = tmp_path / "x.yml"
    recipe.write_text(RECIPE.read_text(encoding="utf-8"), encoding="utf-8")
    copy = tmp_path / "store"
    for base in store.glob("base-*"):
        shutil.copytree(base, copy / base.name)
    done = thinkship("run", recipe, "--store", copy, "--until", "dataset")
    assert_one_clear_error(done, 3, words)
    assert [path.parent.name.partition("-")[0] for path in copy.glob("*/record.json")] == ["base"]
