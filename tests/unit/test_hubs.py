"""What the host learns from a real hub on loopback, how it is pinned, and what every refusal is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hub_server import TOKEN, Hub, Repo, Trouble, blob, running, sha256

from toolkit import hubs, lock_file, recipe_file
from toolkit.cli import cli
from toolkit.errors import InvalidError, NotReadyError
from toolkit.plan import plan
from toolkit.recipe import Recipe
from toolkit.resolve import lock, resolve
from toolkit.runners import containers

WEIGHTS = b"weights" * 100
README = "---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n---\n# Sums\n"
CHECKPOINT = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "consolidated.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "tokenizer.json": b"{}",
    "original/params.json": b"{}",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(hubs, "WAITS", (0.01, 0.01))
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "MODELSCOPE_API_TOKEN", *hubs.OFFLINE_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        server.repos = {
            ("models", "owner/tiny"): Repo(dict(CHECKPOINT)),
            ("models", "owner/gated"): Repo(dict(CHECKPOINT), gated=True),
            ("models", "owner/pickled"): Repo({"config.json": b"{}", "pytorch_model.bin": b"x"}),
            ("datasets", "owner/sums"): Repo({"README.md": README.encode(), "en.jsonl": b'{"a": 1}\n', "zh.jsonl": b'{"a": 2}\n'}),
        }
        yield server


def of_hub(demo: Recipe, base: dict | None = None, **rows: str) -> Recipe:
    data = demo.model_dump(mode="json")
    data["base"]["source"] = base or {"hub": "owner/tiny"}
    if rows:
        data["dataset"]["source"] = rows
    return Recipe.model_validate(data)


def with_data(folder: Path, demo_folder: Path) -> Path:
    (folder / "data").symlink_to(demo_folder / "data")
    return folder


def test_a_branch_becomes_a_commit_and_every_needed_file_a_checksum(hub: Hub, demo, demo_folder, tmp_path):
    hub.links = "https://huggingface.co"
    found = resolve(of_hub(demo), with_data(tmp_path, demo_folder))
    assert found.recipe.base.source.revision == "c0ffee" + "0" * 34
    assert found.files("base") == {
        "files": {
            "source": [
                {"path": "config.json", "size": 2, "checksum": f"git-sha1:{blob(b'{}')}"},
                {"path": "model.safetensors", "size": len(WEIGHTS), "checksum": f"sha256:{sha256(WEIGHTS)}"},
                {"path": "tokenizer.json", "size": 2, "checksum": f"git-sha1:{blob(b'{}')}"},
            ]
        }
    }
    assert found.files("dataset") == {}


def test_a_locked_recipe_is_planned_without_a_hub_and_with_the_same_ids(hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    recipe = of_hub(demo, hub="owner/sums", config="en", split="train[0:1]")
    first = plan(resolve(recipe, with_data(tmp_path, demo_folder)))
    asked = len(hub.seen)
    monkeypatch.setenv("THINKSHIP_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = plan(resolve(of_hub(demo, hub="owner/sums", config="en", split="train[1:]"), tmp_path))
    assert len(hub.seen) == asked
    assert [step.id for step in plan(resolve(recipe, tmp_path))] == [step.id for step in first]
    assert first[1].recipe["files"]["source"][0]["path"] == "en.jsonl"
    assert (first[0].id, first[1].id == again[1].id) == (again[0].id, False)


def test_a_changed_source_is_asked_anew_and_a_moved_branch_only_by_lock(hub: Hub, demo, demo_folder, tmp_path):
    recipe, folder = of_hub(demo), with_data(tmp_path, demo_folder)
    before = resolve(recipe, folder)
    hub.repos["models", "owner/tiny"] = Repo({**CHECKPOINT, "model.safetensors": b"new"}, commit="b" * 40)
    assert resolve(recipe, folder).base == before.base
    assert lock(recipe, folder)["base/source"].commit == "b" * 40
    assert resolve(recipe, folder).base != before.base
    hub.repos["models", "owner/other"] = Repo(dict(CHECKPOINT), commit="d" * 40)
    assert resolve(of_hub(demo, {"hub": "owner/other"}), folder).recipe.base.source.revision == "d" * 40


def test_modelscope_is_pinned_by_checksums(hub: Hub, demo, demo_folder, tmp_path):
    recipe = of_hub(demo, {"modelscope": "owner/tiny"}, modelscope="owner/sums", config="zh", split="train")
    with pytest.raises(InvalidError, match=r"dataset/source: no rows for configuration 'zh'.*configurations: en"):
        resolve(recipe, with_data(tmp_path, demo_folder))
    found = resolve(of_hub(demo, {"modelscope": "owner/tiny"}, modelscope="owner/sums"), tmp_path)
    assert [file.path for file in found.pins["dataset/source"].files] == ["en.jsonl"]
    assert {file.checksum.partition(":")[0] for pin in found.pins.values() for file in pin.files} == {"sha256"}


REFUSED = {
    "a repository that is not there": ({"hub": "owner/nowhere"}, "", InvalidError, "no such repository, or it is private", "correct its name"),
    "a revision that is not there": (
        {"hub": "owner/tiny", "revision": "v9"},
        "",
        InvalidError,
        "owner/tiny@v9: the repository has no such revision",
        "branch",
    ),
    "terms that were not accepted": ({"hub": "owner/gated"}, "", NotReadyError, "asks for its terms", "HF_TOKEN"),
    "a wrong token": ({"hub": "owner/tiny"}, "hf_bad", NotReadyError, "refuses the token (401)", "make a new one"),
    "pickled weights alone": ({"hub": "owner/pickled"}, "", InvalidError, "is no checkpoint: no *.safetensors", "safetensors"),
    "a missing repository of ModelScope": ({"modelscope": "owner/nowhere"}, "", InvalidError, "a token in MODELSCOPE_API_TOKEN", "correct its name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    source, token, kind, words, remedy = REFUSED[case]
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(kind) as caught:
        resolve(of_hub(demo, source), with_data(tmp_path, demo_folder))
    assert caught.value.message.startswith("base/source: ") and words in caught.value.message
    assert remedy in caught.value.remedy
    assert not list(tmp_path.glob("*.lock.json"))


def test_a_token_opens_a_gated_repository_and_stays_with_the_hub(hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    (tmp_path / "token").write_text(TOKEN + "\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.repos["models", "owner/gated"].large = (".safetensors", "config.json")  # its config.json lies on another host
    resolve(of_hub(demo, {"hub": "owner/gated"}), with_data(tmp_path, demo_folder))
    elsewhere = [headers for _, path, headers in hub.seen if path.startswith("/cdn/")]
    assert elsewhere and not any("Authorization" in headers for headers in elsewhere)
    assert TOKEN not in (tmp_path / "smollm2-demo.lock.json").read_text()


@pytest.mark.parametrize(("status", "words"), [(429, "limits how often"), (503, "answered 503")])
def test_a_busy_hub_is_asked_again_but_not_for_ever(hub: Hub, demo, demo_folder, tmp_path, status, words):
    folder = with_data(tmp_path, demo_folder)
    hub.troubles["config.json"] = [Trouble(status=status, headers={"Retry-After": "0"})] * 2
    resolve(of_hub(demo), folder)
    hub.always["config.json"] = Trouble(status=status)
    with pytest.raises(NotReadyError, match=words):
        lock(of_hub(demo), folder)


def test_no_hub_at_all_is_told_with_what_to_do(hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(NotReadyError, match=r"owner/tiny@main: the hub at 127\.0\.0\.1:9 cannot be reached") as caught:
        resolve(of_hub(demo), with_data(tmp_path, demo_folder))
    assert "mirror" in caught.value.remedy


def test_offline_without_a_lock_is_told_and_nobody_is_asked(hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotReadyError, match="is not locked") as caught:
        resolve(of_hub(demo), with_data(tmp_path, demo_folder))
    assert "thinkship lock" in caught.value.remedy and not hub.seen


def test_a_page_that_is_no_hub_is_told(hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hubs, "_answer", lambda question: ("<html>", ""))
    with pytest.raises(NotReadyError, match="no JSON"):
        resolve(of_hub(demo), with_data(tmp_path, demo_folder))
    monkeypatch.setattr(hubs, "_answer", lambda question: ("{}", ""))
    with pytest.raises(NotReadyError, match="lacks 'sha'"):
        resolve(of_hub(demo), tmp_path)


def test_a_container_with_network_is_given_mirror_and_token_and_no_other_secret(tmp_path, monkeypatch):
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {"HF_TOKEN_PATH": str(tmp_path / "token"), "MODELSCOPE_ENDPOINT": "http://m", "OPENAI_API_KEY": "sk"}.items():
        monkeypatch.setenv(name, value)
    given = containers._online()
    assert (given["HF_TOKEN"], given["MODELSCOPE_ENDPOINT"], given["HF_HUB_OFFLINE"]) == (TOKEN, "http://m", "0")
    assert "OPENAI_API_KEY" not in given


def test_a_damaged_lock_file_is_refused(hub: Hub, demo, demo_folder, tmp_path):
    lock_file.path_of(tmp_path, demo.name).write_text("{}")
    with pytest.raises(InvalidError, match="no lock file of this version"):
        resolve(of_hub(demo), with_data(tmp_path, demo_folder))


def test_the_command_writes_the_file_and_says_what_it_pins(hub: Hub, demo, demo_folder, tmp_path):
    path = with_data(tmp_path, demo_folder) / "recipe.yml"
    path.write_text(yaml.safe_dump(of_hub(demo).model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(cli, ["lock", str(path)], catch_exceptions=False)
    assert recipe_file.load(path) and "base/source: owner/tiny@c0ffee" in done.output and "3 files" in done.output
    pins = json.loads((tmp_path / "smollm2-demo.lock.json").read_text())["pins"]
    assert set(pins) == {"base/source"} and str(tmp_path) not in json.dumps(pins)


ADAPTER = {"adapter_config.json": b'{"peft_type": "LORA"}', "adapter_model.safetensors": WEIGHTS, "README.md": b"# sums", "optimizer.pt": b"x"}


def of_adapter(demo: Recipe, source: dict) -> Recipe:
    data = demo.model_dump(mode="json", exclude={"train"})
    return Recipe.model_validate({**data, "adapter": {"source": source}})


@pytest.mark.parametrize("site", ["hub", "modelscope"])
def test_an_adapter_is_pinned_like_a_base(site: str, hub: Hub, demo, demo_folder, tmp_path, monkeypatch):
    hub.repos["models", "owner/lora"] = Repo(dict(ADAPTER))
    recipe = of_adapter(demo, {site: "owner/lora"})
    first = resolve(recipe, with_data(tmp_path, demo_folder))
    assert [file.path for file in first.pins["adapter/source"].files] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    step = next(step for step in plan(first) if step.name == "train")
    assert [file["path"] for file in step.recipe["files"]["source"]] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    monkeypatch.setenv("THINKSHIP_OFFLINE", "1")
    assert resolve(recipe, tmp_path) == first


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**ADAPTER, "adapter_config.json": b'{"peft_type": "LOHA"}'}, "adapter/source: owner/lora@main: peft_type is 'LOHA'"),
        (CHECKPOINT, "adapter/source: owner/lora@main is no PEFT adapter: it holds no adapter_config.json"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "adapter_model.bin alone, a pickle"),
    ],
)
def test_a_repository_that_is_no_adapter_is_refused_before_anything_is_fetched(files, words, hub: Hub, demo, demo_folder, tmp_path):
    hub.repos["models", "owner/lora"] = Repo(dict(files))
    with pytest.raises(InvalidError) as caught:
        resolve(of_adapter(demo, {"hub": "owner/lora"}), with_data(tmp_path, demo_folder))
    assert words in caught.value.message
