"""A bundle with images of a real Docker engine: out, away, back by their ids, on to a real registry, and by `docker load` alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import NAMES, docker
from finished_store import finish
from skips import skip_or_fail

from toolkit import __version__
from toolkit.images import image
from toolkit.stages import ROOT

REGISTRY = "THINKSHIP_TEST_REGISTRY"
RECIPE = ROOT / "recipes" / "smollm2-demo.yml"
WANTED = ("verify", "llamacpp")

pytestmark = pytest.mark.skipif(not set(WANTED) <= set(NAMES), reason="not among THINKSHIP_TEST_IMAGES")


def thinkship(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-m", "toolkit.cli", *map(str, words)), cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(RECIPE, tmp_path_factory.mktemp("finished"), ("llamacpp",))


@pytest.fixture(scope="module")
def tags(engine: None) -> tuple[str, ...]:
    """The images by their contents' tags."""
    done = thinkship("images", "build", *WANTED)
    assert done.returncode == 0, done.stderr
    return tuple(image(name).tag for name in WANTED)


@pytest.fixture(scope="module")
def bundle(tags: tuple[str, ...], store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "demo.tar"
    done = thinkship("bundle", "save", RECIPE, "--engine", "llamacpp", "--store", store, "--output", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def without(tags: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The engine without the images: their ids by tag. What a test loses on the way is built again by the next."""
    ids = {tag: docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip() for tag in tags}
    for tag in tags:
        docker("rmi", "--force", tag, f"{tag.partition(':')[0]}:{__version__}", check=False)
    yield ids
    thinkship("images", "build", *WANTED)


def found(tag: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", tag, check=False).stdout.strip()


def test_two_saves_are_the_same_bytes(bundle: Path, store: Path, tmp_path: Path):
    done = thinkship("bundle", "save", RECIPE, "--engine", "llamacpp", "--store", store, "--output", tmp_path / "again.tar")
    assert done.returncode == 0, done.stderr
    same = subprocess.run(("cmp", str(bundle), str(tmp_path / "again.tar")), capture_output=True, text=True)
    assert same.returncode == 0, same.stdout


def test_images_come_back_with_their_ids_and_work(bundle: Path, without: dict[str, str], tmp_path: Path):
    assert not any(map(found, without))
    done = thinkship("bundle", "load", bundle, "--store", tmp_path / "store", "--docker")
    assert done.returncode == 0, done.stderr
    assert {tag: found(tag) for tag in without} == without
    assert {tag: found(f"{tag.partition(':')[0]}:{__version__}") for tag in without} == without
    verify = next(tag for tag in without if "/verify:" in tag)
    assert "thinkship" in docker("run", "--rm", "--network", "none", verify, "--version").stdout


def test_the_folder_of_images_is_what_docker_load_takes(bundle: Path, without: dict[str, str], tmp_path: Path):
    subprocess.run(("tar", "-xf", str(bundle), "-C", str(tmp_path), "images"), check=True)
    sent = subprocess.Popen(("tar", "-C", str(tmp_path / "images"), "-c", "."), stdout=subprocess.PIPE)
    subprocess.run(("docker", "load"), stdin=sent.stdout, check=True, capture_output=True)
    sent.stdout.close()
    assert sent.wait() == 0 and {tag: found(tag) for tag in without} == without


def test_the_verify_image_loads_a_bundle_without_network(bundle: Path, tags: tuple[str, ...], tmp_path: Path):
    """As on a machine that has Docker alone."""
    folder = tmp_path / "here"
    folder.mkdir()
    os.link(bundle, folder / "demo.tar")
    words = ("--rm", "--network", "none", "--user", "0", "--volume", f"{folder}:{folder}", "--workdir", str(folder))
    done = docker("run", *words, next(tag for tag in tags if "/verify:" in tag), "bundle", "load", "demo.tar", "--store", "store")
    assert "docker compose" in done.stdout and list((folder / "store").glob("gguf-*/record.json"))


def test_images_go_on_to_a_registry(bundle: Path, tags: tuple[str, ...], tmp_path: Path):
    registry = os.environ.get(REGISTRY) or skip_or_fail(f"{REGISTRY} names no registry")
    done = thinkship("bundle", "load", bundle, "--store", tmp_path / "store", "--registry", registry)
    assert done.returncode == 0, done.stderr
    for tag in tags:
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"{registry}/{tag}@sha256:"))
        docker("pull", line.replace(f"{tag}@", f"{tag.partition(':')[0]}@"))


def test_what_the_last_line_says_serves(bundle: Path, tags: tuple[str, ...], tmp_path: Path):
    """`docker compose config` takes the loaded folder with the settings that were written for it."""
    assert thinkship("bundle", "load", bundle, "--store", tmp_path / "store").returncode == 0
    (folder,) = (tmp_path / "store").glob(".bundles/*/compose")
    subprocess.run(("sh", str(folder / "init.sh")), check=True, capture_output=True)
    words = ("--env-file", str(folder / "llamacpp.env"), "--project-directory", str(folder), "--profile", "llamacpp", "--profile", "monitoring")
    told = docker("compose", *words, "config").stdout
    assert str((tmp_path / "store").resolve()) in told and "http://llamacpp:8080/v1" in told
