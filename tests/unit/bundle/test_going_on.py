# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names
"""Bundles that are cut off: real processes killed in the middle go on where they were, and a load needs no network at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import ENGINES, load, manifest, named, save, saved, sealed, store
from conftest import DEMO
from skips import skip_or_fail
from small_disk import mounted

from toolkit.artifact import read_record, verify_files
from toolkit.bundle import archive, loading, saving
from toolkit.stages import ROOT

pytestmark = pytest.mark.loopback  # processes of their own, and files of megabytes
LARGE = 24 << 20
"""Bytes of a file that takes long enough to be killed in its middle."""


@pytest.fixture(scope="module")
def large(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished store with weights that take a while."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("large") / "store")
    (merge,) = copy.glob("merge-*")
    record = read_record(merge)
    files = {file.path: (merge / file.path).read_bytes() for file in record.files}
    shutil.rmtree(merge)
    sealed(merge, {**files, "model/model.safetensors": os.urandom(1 << 20) * (LARGE >> 20)}, "merge", record.id)
    return copy


@pytest.fixture(scope="module")
def whole(large: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, saved in one go."""
    path = tmp_path_factory.mktemp("whole") / "demo.tar"
    assert save(large, path).returncode == 0
    return path


def killed(*words: object, when: Callable[[], bool]) -> None:
    """Start the command line as a process of its own and kill it as soon as something is so."""
    argv = (sys.executable, "-m", "toolkit.cli", "bundle", *map(str, words))
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while process.poll() is None and not when():
                assert time.monotonic() < deadline
        finally:
            process.kill()
    assert process.returncode == -9, "it ended before it was killed"


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def test_a_save_that_is_killed_goes_on_and_leaves_the_same_bytes(large, whole, tmp_path):
    path, part = tmp_path / "demo.tar", tmp_path / "demo.tar.part"
    words = ("save", DEMO, *ENGINES, "--store", large, "--no-images", "--output", path)
    killed(*words, when=lambda: size(part) > 4 << 20)
    assert 0 < size(part) < size(whole) and not path.exists()
    inode = part.stat().st_ino
    done = save(large, path)
    assert done.returncode == 0 and "goes on with" in done.stdout, done.stderr
    assert path.stat().st_ino == inode and path.read_bytes() == whole.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == ["demo.tar"]


def test_what_a_power_failure_left_of_a_part_is_mended(large, whole, tmp_path):
    """Bytes that never reached the disk, in the middle of a member and in a header; more than there should be behind the end."""
    part = tmp_path / "demo.tar.part"
    data = bytearray(whole.read_bytes())
    with archive.opened(whole) as bundle:
        slots = bundle.slots
    weights = max(slots, key=lambda slot: slot.size)
    data[weights.data + 4096 : weights.data + 8192] = bytes(4096)
    data[slots[5].start : slots[5].data] = bytes(len(slots[5].header))
    part.write_bytes(data + b"more")
    assert save(large, tmp_path / "demo.tar").returncode == 0
    assert (tmp_path / "demo.tar").read_bytes() == whole.read_bytes()


def test_what_another_recipes_save_left_is_not_taken_for_ours(large, whole, tmp_path):
    (tmp_path / "demo.tar.part").write_bytes(os.urandom(1 << 20) * 40)
    assert save(large, tmp_path / "demo.tar").returncode == 0
    assert (tmp_path / "demo.tar").read_bytes() == whole.read_bytes()


def drafts(store: Path) -> list[Path]:
    return [path for path in store.glob(".incoming/*/store/*/model/*.part") if size(path) > 4 << 20]


def test_a_load_that_is_killed_has_named_nothing_and_goes_on(whole, store):
    killed("load", whole, "--store", store, when=lambda: bool(drafts(store)))
    assert not named(store)
    before = {path: path.stat().st_ino for path in store.glob(".incoming/*/store/**/*") if path.is_file()}
    assert len(before) > 1, "what was checked has its name, beside the draft"
    done = load(whole, store)
    assert done.returncode == 0 and "goes on with" in done.stdout, done.stderr
    after = {path.stat().st_ino for path in store.rglob("*") if path.is_file()}
    assert set(before.values()) <= after, "nothing was written twice"
    assert named(store) == manifest(whole)["directories"] and not list(store.glob(".incoming/*"))
    for name in named(store):
        verify_files(store / name, read_record(store / name), deep=True)


def test_a_draft_with_other_bytes_is_written_anew(whole, store):
    killed("load", whole, "--store", store, when=lambda: bool(drafts(store)))
    (draft,) = drafts(store)
    with draft.open("r+b") as stream:
        stream.write(b"never reached the disk")
    assert load(whole, store).returncode == 0
    for name in named(store):
        verify_files(store / name, read_record(store / name), deep=True)


def test_what_another_bundles_load_left_is_cleared_away(whole, saved, store):
    killed("load", whole, "--store", store, when=lambda: bool(drafts(store)))
    assert load(saved, store).returncode == 0 and not list(store.glob(".incoming/*"))


def test_a_load_needs_no_network_at_all(saved, store):
    """In a network namespace of its own, which has not even a loopback that is up."""
    apart = ("unshare", "--net", "--")
    probe = "import socket; s = socket.socket(); s.connect(('127.0.0.1', 9))"
    tried = subprocess.run((*apart, sys.executable, "-c", probe), capture_output=True, text=True)
    if "Network is unreachable" not in tried.stderr:
        skip_or_fail(f"no network namespace can be made here: {tried.stderr.strip()[-200:]}")
    words = ("bundle", "load", saved, "--store", store)
    done = subprocess.run((*apart, sys.executable, "-m", "toolkit.cli", *words), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "docker compose" in done.stdout, done.stderr
    assert named(store) == manifest(saved)["directories"]


def test_a_disk_that_fills_up_in_the_middle_ends_it_and_with_more_room_it_goes_on(whole, tmp_path, monkeypatch):
    """As when something else takes the room after it was checked."""
    with mounted(tmp_path / "disk", 12) as disk:
        monkeypatch.setattr(loading, "SPARE", -(1 << 30))
        done = load(whole, disk / "store")
        assert done.returncode == 4 and "the disk is full" in done.stderr and "the same command goes on" in done.stderr
        assert not named(disk / "store") and list(disk.glob("store/.incoming/*"))
        subprocess.run(("mount", "-o", "remount,size=128m", str(disk)), check=True)
        monkeypatch.undo()
        done = load(whole, disk / "store")
        assert done.returncode == 0 and "goes on with" in done.stdout and named(disk / "store") == manifest(whole)["directories"]


def test_a_part_on_a_disk_that_fills_up_is_kept(large, whole, tmp_path, monkeypatch):
    with mounted(tmp_path / "disk", 12) as disk:
        monkeypatch.setattr(saving, "_require_space", lambda *_: None)
        done = save(large, disk / "demo.tar")
        assert done.returncode == 4 and "the disk is full" in done.stderr
        assert [path.name for path in disk.iterdir()] == ["demo.tar.part"] and size(disk / "demo.tar.part") > 8 << 20
        subprocess.run(("mount", "-o", "remount,size=64m", str(disk)), check=True)
        monkeypatch.undo()
        assert save(large, disk / "demo.tar").returncode == 0 and (disk / "demo.tar").read_bytes() == whole.read_bytes()
