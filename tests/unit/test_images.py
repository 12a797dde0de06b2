from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import DEMO
from terminal import thinkship

from toolkit import images
from toolkit.errors import NotReadyError, UsageError
from toolkit.images import Image
from toolkit.runners import docker
from toolkit.runners.containers import check_readable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An images/ of one image, to be edited."""
    monkeypatch.setattr(images, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(images, "ROOT", tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "base.env").write_text("BASE_IMAGE=a\n")
    (tmp_path / "images" / "train" / "train.py").write_text("x = 1\n")
    return tmp_path / "images"


def test_a_tag_moves_with_what_the_image_is_built_from_and_with_nothing_else(folder):
    before = Image("train").tag
    (folder / "train" / "__pycache__").mkdir()
    (folder / "train" / "__pycache__" / "train.pyc").write_bytes(b"x")
    assert Image("train").tag == before
    (folder / "base.env").write_text("BASE_IMAGE=b\n")
    other_base = Image("train").tag
    (folder / "train" / "train.py").rename(folder / "train" / "other.py")
    assert len({before, other_base, Image("train").tag}) == 3


@pytest.mark.parametrize(
    ("lock", "variant", "repository"),
    [
        ("requirements.lock", "", "thinkship/train"),
        ("tracking.lock", "tracking", "thinkship/train-tracking"),
        ("unsloth.lock", "unsloth", "thinkship/train-unsloth"),
    ],
)
def test_a_stages_lock_names_the_variant_that_is_built_with_it(lock, variant, repository):
    found = images.image("train", lock)
    assert (found.variant, found.repository, found.lock) == (variant, repository, images.IMAGES / "train" / lock)
    assert found.lock.is_file() and f"FROM scratch AS lock-{variant or 'trl'}\nCOPY {lock} " in (images.IMAGES / "train" / "Dockerfile").read_text()


def test_the_variant_is_told_apart_in_the_name_and_the_content():
    cpu, cuda = Image("vllm", "cpu"), Image("vllm", "cuda")
    assert (cpu.repository, cuda.repository) == ("thinkship/vllm-cpu", "thinkship/vllm") and cpu.content != cuda.content


@pytest.mark.parametrize(("wanted", "gpu"), [("cpu", False), ("cuda", True)])
def test_the_machine_or_the_user_chooses_the_variant(monkeypatch, wanted, gpu):
    monkeypatch.setenv("THINKSHIP_VARIANT", wanted)
    assert images.image("vllm").variant == wanted and images.image("train").gpu is gpu and not images.image("verify").gpu


def test_an_unknown_image_or_variant_is_named(monkeypatch):
    with pytest.raises(UsageError, match="no image is called 'vlm'"):
        images.image("vlm")
    monkeypatch.setenv("THINKSHIP_VARIANT", "gpu")
    with pytest.raises(UsageError, match="THINKSHIP_VARIANT is 'gpu'"):
        images.variant()


@pytest.mark.skipif(os.getuid() != 0, reason="only root's containers run as another user than the caller")
def test_a_folder_that_roots_containers_cannot_read_is_named_before_anything_starts(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "private").mkdir(mode=0o700)
    check_readable((tmp_path / "open",))
    with pytest.raises(NotReadyError, match="private is closed to user 10001") as told:
        check_readable((tmp_path / "open", tmp_path / "private"))
    assert "chmod -R o+rX" in told.value.remedy


RUN = ("run", DEMO, "--runner", "docker")
SERVE = ("serve", DEMO, "--engine", "vllm", "--runner", "docker")


@pytest.mark.parametrize("words", [RUN, SERVE, ("images", "build")], ids=["run", "serve", "images"])
def test_without_an_engine_nothing_is_begun(tmp_path, monkeypatch, words):
    store = () if words[0] == "images" else ("--store", tmp_path / "store")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    docker.client.cache_clear()
    done = thinkship(*words, *store)
    assert done.returncode == 4 and "no Docker Engine answers" in done.stderr and "--runner local" in done.stderr, done.stderr
    assert not (tmp_path / "store").exists()
