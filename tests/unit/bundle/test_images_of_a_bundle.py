# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names
"""Images on their way through a bundle: out of one engine, shared layers once, into another with the same ids, or on to a registry."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from bundles import load, manifest, named, saved, store
from conftest import DEMO
from engine import Engine, listening, packed, sha256
from small_disk import mounted
from terminal import Done, thinkship

from toolkit import __version__
from toolkit.bundle import layout
from toolkit.export.served import image
from toolkit.runners import docker

pytestmark = pytest.mark.loopback
BASE = packed({"base": b"shared by all" * 1000})
TAGS = (image("llamacpp", ""), image("verify", ""))


def stocked(form: str) -> Engine:
    """An engine with the demo's images on one base; a layer that an image has twice among them."""
    engine = Engine(form)
    for number, tag in enumerate(TAGS):
        engine.add(tag, BASE, packed({f"own{number}": tag.encode()}), BASE)
    engine.add("caddy:2.11.7", packed({"caddy": b"x"}))
    return engine


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Engine], Engine]]:
    """serving(engine) makes it the machine's; a later one takes its place."""
    open_ones = []

    def serve(engine: Engine) -> Engine:
        running = listening(engine, tmp_path / f"{len(open_ones)}.sock")
        monkeypatch.setenv("DOCKER_HOST", running.__enter__())
        docker.client.cache_clear()
        open_ones.append(running)
        return engine

    yield serve
    if open_ones:
        docker.client().close()
    docker.client.cache_clear()
    for running in open_ones:
        running.__exit__(None, None, None)


def save(finished: Path, path: Path, *words: object) -> Done:
    done = thinkship("bundle", "save", DEMO, "--engine", "llamacpp", "--store", finished, "--output", path, *words)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("form", ["blobs", "folders", "gzip"])
def test_images_arrive_in_another_engine_with_their_ids_and_tags(finished, tmp_path, store, serving, form):
    source = serving(stocked(form))
    save(finished, tmp_path / "x.tar", "--image", "caddy:2.11.7")
    target = serving(Engine())
    done = load(tmp_path / "x.tar", store, "--docker")
    assert done.returncode == 0, done.stderr
    versions = {tag: f"{tag.partition(':')[0]}:{__version__}" for tag in TAGS}
    assert target.tags == {tag: source.tags[tag] for tag in (*TAGS, "caddy:2.11.7")} | {versions[tag]: source.tags[tag] for tag in TAGS}
    assert target.images == source.images
    assert "the images stay in the bundle" not in done.stdout and not list(tmp_path.glob("x.tar.*"))


def test_a_layer_of_several_images_is_there_once_and_two_saves_are_the_same_bytes(finished, tmp_path, serving):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    save(finished, tmp_path / "y.tar")
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    paths = [member["path"] for member in manifest(tmp_path / "x.tar")["members"]]
    assert paths.count(f"{layout.BLOBS}/{sha256(BASE)}") == 1
    blobs = [path for path in paths if path.startswith(layout.BLOBS)]
    assert len(blobs) == 1 + 2 * 3, "the base, and of each image a layer, a configuration and a manifest: nothing that no image names"


def test_the_folder_of_images_is_what_docker_load_takes(finished, tmp_path, serving):
    """`tar -xf BUNDLE images && tar -C images -c . | docker load`, on a machine that has nothing else."""
    source = serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as plain:
        files = {one.name.removeprefix("images/"): plain.extractfile(one).read() for one in plain if one.name.startswith("images/")}
    bare = Engine()
    bare.loaded(packed(files))
    assert {tag: bare.tags[tag] for tag in TAGS} == {tag: source.tags[tag] for tag in TAGS}


def test_images_that_are_on_the_shelf_are_not_saved_again(finished, tmp_path, serving):
    """As a kill leaves them: FILE.images whole, FILE not there yet."""
    engine = serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    shelf, whole = tmp_path / "x.tar.images", (tmp_path / "x.tar").read_bytes()
    assert engine.saves == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.bundle.saving._write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_inside(finished, tmp_path / "x.tar")
    assert engine.saves == 4 and len(list(shelf.glob("*.json"))) == 2
    (shelf / sha256(BASE)).unlink()
    assert "run" in save(finished, tmp_path / "x.tar").stdout and engine.saves in (5, 6), "the first of them brings it back"
    assert (tmp_path / "x.tar").read_bytes() == whole and not shelf.exists()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def save_inside(finished: Path, path: Path) -> None:
    from toolkit.bundle import contents, saving
    from toolkit.store import Store

    saving.save(contents.Wish(DEMO, ("llamacpp",), Store(finished)), saving.Images(), path)


def test_an_engine_that_has_an_image_is_not_sent_it_again(finished, tmp_path, store, serving):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    target = serving(Engine())
    assert load(tmp_path / "x.tar", store, "--docker").returncode == 0
    target.full = True  # it would refuse
    assert load(tmp_path / "x.tar", store, "--docker").returncode == 0


def test_images_go_to_a_registry_by_their_content_and_the_values_name_them_there(finished, tmp_path, store, serving):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    target = serving(Engine())
    done = load(tmp_path / "x.tar", store, "--registry", "registry.example.org:5000/team")
    assert done.returncode == 0, done.stderr
    assert {f"registry.example.org:5000/team/{tag}" for tag in TAGS} < set(target.pushed)
    (values,) = store.glob(".bundles/*/values.yaml")
    told = yaml.safe_load(values.read_text())
    assert {told["engines"]["llamacpp"]["image"], told["images"]["tools"]} == {f"registry.example.org:5000/team/{tag}" for tag in TAGS}
    assert "helm install smollm2-demo" in done.stdout and f"{values.parent}/charts/thinkship" in done.stdout
    assert load(tmp_path / "x.tar", store, "--registry", "registry.example.org:5000/team").returncode == 0
    assert yaml.safe_load(values.read_text()) == told, "a second go does not put the registry before it twice"


def test_without_being_asked_no_engine_is_spoken_to(finished, tmp_path, store, serving, monkeypatch):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    docker.client().close()
    docker.client.cache_clear()
    done = load(tmp_path / "x.tar", store)
    assert done.returncode == 0 and "the images stay in the bundle: load it again with --docker or --registry" in done.stdout
    docker.client.cache_clear()
    done = load(tmp_path / "x.tar", tmp_path / "other", "--docker")
    assert done.returncode == 4 and "no Docker Engine answers" in done.stderr and not named(tmp_path / "other")
    serving(Engine())


def test_an_engine_whose_disk_is_full_is_told_and_what_was_restored_stays(finished, tmp_path, store, serving):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    serving(Engine(full=True))
    done = load(tmp_path / "x.tar", store, "--docker")
    assert done.returncode == 4 and "no space left on device" in done.stderr and TAGS[0].partition(":")[0] in done.stderr
    assert named(store) == manifest(tmp_path / "x.tar")["directories"], "each whole: the same command goes on with the images"


def test_a_flipped_byte_in_an_image_is_found_before_the_engine_is_sent_anything(finished, tmp_path, store, serving):
    serving(stocked("blobs"))
    save(finished, tmp_path / "x.tar")
    data = (tmp_path / "x.tar").read_bytes()
    place = data.index(b"shared by all")
    (tmp_path / "x.tar").write_bytes(data[:place] + b"S" + data[place + 1 :])
    target = serving(Engine())
    done = load(tmp_path / "x.tar", store, "--docker")
    assert done.returncode == 6 and f"{layout.BLOBS}/{sha256(BASE)} is not what the manifest says" in done.stderr
    assert not target.images and not named(store)


def test_an_image_that_is_not_here_is_named(finished, tmp_path, serving):
    engine = serving(stocked("blobs"))
    del engine.tags[TAGS[0]]
    done = thinkship("bundle", "save", DEMO, "--engine", "llamacpp", "--store", finished, "--output", tmp_path / "x.tar")
    assert done.returncode == 4 and f"the image {TAGS[0]} is not here" in done.stderr and "thinkship images build" in done.stderr
    assert not list(tmp_path.glob("x.tar*"))


def test_what_no_engine_writes_is_refused(tmp_path):
    for content in (packed({"x": b"y"}), packed({"manifest.json": b"[]"}), b"no tar" * 2000):
        with pytest.raises(docker.FailedError, match="in a form that is not known"):
            layout.staged(iter([content]), ("a/b:1",), tmp_path)


@pytest.mark.parametrize(
    ("tag", "full"),
    [
        ("caddy:2", "docker.io/library/caddy:2"),
        ("thinkship/verify:1", "docker.io/thinkship/verify:1"),
        ("host.org/a:1", "host.org/a:1"),
        ("localhost/a:1", "localhost/a:1"),
        ("h:5/a:1", "h:5/a:1"),
    ],
)
def test_an_images_name_is_given_in_full_as_containerd_wants_it(tag, full):
    assert layout.full(tag) == full


def test_a_disk_too_small_for_the_images_is_told_before_they_are_saved(finished, tmp_path, serving):
    engine = serving(stocked("blobs"))
    engine.add(TAGS[0], os.urandom(1 << 20) * 3)
    with mounted(tmp_path / "disk", 2) as disk:
        done = thinkship("bundle", "save", DEMO, "--engine", "llamacpp", "--store", finished, "--output", disk / "x.tar")
        assert done.returncode == 4 and "up to 3 MiB are needed for the images" in done.stderr
        assert engine.saves == 0 and not list(disk.iterdir())
