# ruff: noqa: F401, F811 - pytest finds the imported fixtures by their names
"""A bundle made of a real sealed store: the same bytes each time, everything in it checked, and back again in another store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from bundles import ENGINES, load, manifest, named, save, saved, sealed, store
from conftest import DEMO
from terminal import thinkship

from toolkit.artifact import read_record, verify_files, write_record
from toolkit.bundle import archive, contents
from toolkit.errors import InvalidError
from toolkit.runners import docker
from toolkit.stages import ROOT
from toolkit.store import Store

pytestmark = pytest.mark.loopback


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_two_saves_are_the_same_bytes(saved, finished, tmp_path):
    os.utime(ROOT / "compose" / "init.sh")  # times of what no record tells of are nobody's concern
    assert save(finished, tmp_path / "again.tar").returncode == 0
    assert (tmp_path / "again.tar").read_bytes() == saved.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.tar"]


def test_it_is_a_plain_tar_whose_manifest_comes_first_and_is_true(saved):
    told = {member["path"]: member for member in manifest(saved)["members"]}
    with tarfile.open(saved) as plain:
        members = plain.getmembers()
        found = {one.name: hashlib.sha256(plain.extractfile(one).read()).hexdigest() for one in members}
        line = plain.extractfile(archive.SUM).read().decode()
    assert [one.name for one in members] == [archive.HEAD, archive.SUM, *sorted(told)]
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime, one.type) for one in members} == {(0, 0, "", "", 0, tarfile.REGTYPE)}
    assert {one.name: one.size for one in members[2:]} == {path: member["size"] for path, member in told.items()}
    assert {path: found[path] for path in told} == {path: member["sha256"] for path, member in told.items()}
    assert line == f"{found[archive.HEAD]}  {archive.HEAD}\n"
    assert [one.name for one in members if one.mode == 0o755] == ["compose/init.sh"]


def test_what_serving_needs_is_in_it_and_what_the_model_was_made_from_is_not(saved):
    assert {name.rpartition("-")[0] for name in manifest(saved)["directories"]} == {"merge", "gguf", "modelfile"}
    paths = {member["path"] for member in manifest(saved)["members"]}
    assert {"recipe/smollm2-demo.yml", "values.yaml", "charts/thinkship/Chart.yaml", "compose/compose.yaml"} <= paths
    assert not [path for path in paths if "train" in path.rpartition("/")[2]]


def test_training_inputs_come_along_when_asked_for(finished, tmp_path, store):
    done = save(finished, tmp_path / "all.tar", "--with-training")
    assert done.returncode == 4 and "gguf-base-" in done.stderr, "what is not made yet is named"
    whole = shutil.copytree(finished, tmp_path / "whole")
    plan = json.loads(thinkship("plan", DEMO, *ENGINES, "--json").stdout)
    for step in plan:
        if step["step"] in ("gguf-base", "modelfile-base"):
            sealed(whole / f"{step['step']}-{step['id'][:12]}", {"file": b"x"}, step["stage"], step["id"])
    done = save(whole, tmp_path / "all.tar", "--with-training")
    assert done.returncode == 0, done.stderr
    assert {"base", "dataset", "train"} <= {name.rpartition("-")[0] for name in manifest(tmp_path / "all.tar")["directories"]}
    assert load(tmp_path / "all.tar", store).returncode == 0
    (recipe,) = store.glob(".bundles/*/recipe/smollm2-demo.yml")
    assert [step["id"] for step in json.loads(thinkship("plan", recipe, *ENGINES, "--json").stdout)] == [step["id"] for step in plan]


def test_what_a_recipe_names_outside_its_folder_cannot_come_along(tmp_path, store, demo_text):
    recipe = tmp_path / "smollm2-demo.yml"
    recipe.write_text(demo_text.replace("path: data/", f"path: {DEMO.parent}/data/"), encoding="utf-8")
    wish = contents.Wish(recipe, (), Store(store), training=True)
    with pytest.raises(InvalidError, match=r"dataset/source: .* lies outside the recipe's folder"):
        list(contents.recipe(wish))


def test_nothing_of_a_host_is_in_it_and_nothing_of_composes_is_missing():
    listed = {path.relative_to(ROOT / "compose").as_posix() for path in (ROOT / "compose").rglob("*") if path.is_file()}
    secret = {name for name in listed if name in (".env", "api_key") or name.startswith("tls/")}
    taken = {item.member.path.removeprefix("compose/") for item in contents.around() if item.member.path.startswith("compose/")}
    assert taken == listed - secret, "a new file of compose/ is named in contents.COMPOSE"


def test_a_key_beside_compose_is_left_out(tmp_path):
    for folder in ("charts", "compose"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "compose" / "api_key").write_text("secret")
    (tmp_path / "compose" / ".env").write_text("MODEL_DIR=/srv")
    paths = [item.member.path for item in contents.around(tmp_path)]
    assert "compose/compose.yaml" in paths and not {"compose/api_key", "compose/.env"} & set(paths)


def test_what_is_loaded_is_what_was_saved(saved, finished, store):
    done = load(saved, store)
    assert done.returncode == 0, done.stderr
    names = manifest(saved)["directories"]
    assert named(store) == names
    for name in names:
        record = read_record(store / name)
        verify_files(store / name, record, deep=True)
        assert digests(store / name) == digests(finished / name)
        assert [(store / name / file.path).stat().st_mtime_ns for file in record.files] == [file.mtime_ns for file in record.files]
    assert not list(store.glob(".incoming/*"))


def settings(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines())


def test_it_ends_with_the_next_command_and_its_settings(saved, store):
    done = load(saved, store)
    (folder,) = store.glob(".bundles/smollm2-demo-*")
    assert f"cd {folder}/compose && ./init.sh && docker compose --env-file " in done.stdout
    llamacpp, ollama, vllm = (settings(folder / "compose" / f"{engine}.env") for engine in ("llamacpp", "ollama", "vllm"))
    assert llamacpp["MODEL_DIR"] == str(store.resolve()) and (store / llamacpp["GGUF"]).is_file()
    assert (store / ollama["MODELFILE"]).is_file()
    assert (store / vllm["VLLM_MODEL"] / "config.json").is_file() and "--reasoning-parser qwen3" in vllm["VLLM_ARGS"]
    assert "--served-model-name" not in vllm["VLLM_ARGS"] and "--model " not in vllm["VLLM_ARGS"]
    services = yaml.safe_load((folder / "compose" / "compose.yaml").read_text())["services"]
    assert {one["UPSTREAM"].partition(":")[0] for one in (llamacpp, ollama, vllm)} <= set(services)
    described = (ROOT / "compose" / ".env.example").read_text(encoding="utf-8")
    assert not [name for one in (llamacpp, ollama, vllm) for name in one if f"{name}=" not in described]
    assert set(yaml.safe_load((folder / "values.yaml").read_text())["engines"]) == {"vllm", "ollama", "llamacpp"}
    assert os.access(folder / "compose" / "init.sh", os.X_OK)


def test_a_second_load_finds_all_there_and_leaves_an_operators_key_alone(saved, store):
    assert load(saved, store).returncode == 0
    (folder,) = store.glob(".bundles/*")
    (folder / "compose" / "api_key").write_text("mine")
    done = load(saved, store)
    assert done.returncode == 0 and done.stdout.count("skip") == len(manifest(saved)["directories"])
    assert (folder / "compose" / "api_key").read_text() == "mine"


def test_the_list_names_directories_sizes_and_the_bundles_own_checksum(saved):
    done = thinkship("bundle", "ls", saved)
    with tarfile.open(saved) as plain:
        head = plain.extractfile(archive.HEAD).read()
    assert done.returncode == 0 and hashlib.sha256(head).hexdigest() in done.stdout
    assert all(name in done.stdout for name in manifest(saved)["directories"]) and "smollm2-demo" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("save", "nowhere.yml", "--output", "x"), 2, "there is no such recipe"),
        (("save", DEMO, "--output", "."), 2, "is a folder"),
        (("load", "nowhere.tar"), 2, "there is no such file"),
        (("ls", DEMO), 3, "is no bundle"),
        (("load", DEMO), 3, "is no bundle"),
    ],
)
def test_what_cannot_be_meant_is_told(store, words, code, said):
    done = thinkship("bundle", *words, *(() if words[0] == "ls" else ("--store", store)))
    assert done.returncode == code and said in done.stderr and "fix:" in done.stderr, done.stderr


def test_a_store_without_the_model_is_told_before_anything_is_written(tmp_path, store):
    done = save(store, tmp_path / "x.tar")
    assert done.returncode == 4 and "is not there or not finished" in done.stderr and "thinkship run" in done.stderr
    assert not list(tmp_path.glob("x.tar*"))


def test_a_touched_directory_is_not_packed(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (file,) = copy.glob("merge-*/model/config.json")
    file.write_text(file.read_text().replace("576", "577"))
    done = save(copy, tmp_path / "x.tar")
    assert done.returncode == 6 and "model/config.json: its content was changed" in done.stderr


def test_a_reclaimed_directory_comes_along_without_what_was_freed_where_nobody_is_served_it(finished, tmp_path, store):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (folder,) = copy.glob("merge-*")
    record = read_record(folder)
    assert record
    weights = [entry.path for entry in record.files if entry.path.endswith(".safetensors")]
    for path in weights:
        (folder / path).unlink()
    write_record(folder, record.model_copy(update={"reclaimed": True, "freed": tuple(weights)}))
    done = save(copy, tmp_path / "vllm.tar")
    assert weights and done.returncode == 4 and "was reclaimed" in done.stderr and not list(tmp_path.glob("vllm.tar*"))
    words = ("--engine", "llamacpp", "--store", copy, "--no-images", "--output", tmp_path / "x.tar")
    assert (done := thinkship("bundle", "save", DEMO, *words)).returncode == 0, done.stderr
    assert (done := load(tmp_path / "x.tar", store)).returncode == 0, done.stderr
    there = read_record(store / folder.name)
    assert there and there.freed == tuple(weights) and not list((store / folder.name).rglob("*.safetensors"))


def test_a_change_that_hides_its_time_is_found_while_packing(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (file,) = copy.glob("merge-*/model/config.json")
    times = file.stat()
    file.write_text(file.read_text().replace("576", "577"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = save(copy, tmp_path / "x.tar")
    assert done.returncode == 6 and f"{file} was changed" in done.stderr and not (tmp_path / "x.tar").exists()


def test_without_a_docker_engine_images_are_not_left_out_in_silence(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    docker.client.cache_clear()
    done = thinkship("bundle", "save", DEMO, "--store", finished, "--output", tmp_path / "x.tar")
    assert done.returncode == 4 and "no Docker Engine answers" in done.stderr and "--no-images" in done.stderr
    assert not (tmp_path / "x.tar").exists()


def test_docker_and_registry_want_images(saved, store):
    done = load(saved, store, "--docker")
    assert done.returncode == 2 and "holds no images" in done.stderr and not named(store)
