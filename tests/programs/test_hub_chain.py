"""Base and dataset from a hub through the command line: locked, downloaded, sealed, planned again offline, and killed without a loss."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import program_environment
from hub_server import Hub, Repo, Trouble, running
from training import DEMO, PROGRAMS, RECIPES

from toolkit.stages import ROOT

README = "---\nconfigs:\n- config_name: sums\n  data_files:\n  - {split: train, path: data/train-*}\n  - {split: test, path: data/test.jsonl}\n---\n"
TO_PARQUET = """
import json, sys
import pyarrow, pyarrow.parquet
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
for number, part in enumerate((rows[:150], rows[150:400])):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), f"{sys.argv[2]}/train-{number}.parquet")
"""
LORA = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = get_peft_model(AutoModelForCausalLM.from_pretrained(sys.argv[1]), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
for name, weight in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.02)
model.peft_config["default"].base_model_name_or_path = "owner/tiny"
model.save_pretrained(sys.argv[2])
"""
Thinkship = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def tiny(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    code = "import sys; from pathlib import Path; import tiny; tiny.write_checkpoint(Path(sys.argv[1]))"
    env = {**program_environment(), "PYTHONPATH": str(PROGRAMS)}
    subprocess.run((train_python, "-c", code, folder), check=True, capture_output=True, env=env)
    return folder


@pytest.fixture(scope="module")
def sums(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("rows")
    subprocess.run((train_python, "-c", TO_PARQUET, RECIPES / "data" / "sums-train.jsonl", folder), check=True)
    rows = {f"data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return {**rows, "README.md": README.encode(), "data/test.jsonl": (RECIPES / "data" / "sums-holdout.jsonl").read_bytes()}


@pytest.fixture
def hub(tiny: Path, sums: dict[str, bytes]) -> Iterator[Hub]:
    with running() as server:
        model = {path.name: path.read_bytes() for path in tiny.iterdir()}
        server.repos["models", "owner/tiny"] = Repo({**model, "pytorch_model.bin": b"pickle", "model.gguf": b"other"})
        server.repos["datasets", "owner/sums"] = Repo(sums, commit="da7a" + "0" * 36)
        yield server


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODELSCOPE", "THINKSHIP"))}
    return {**kept, "HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}


@pytest.fixture
def thinkship(environment: dict[str, str], tmp_path: Path) -> Thinkship:
    def run(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
        argv = (sys.executable, "-m", "toolkit.cli", *map(str, words))
        return subprocess.run(argv, cwd=ROOT, env={**environment, **env}, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)

    return run


def recipe(folder: Path, site: str = "hub") -> Path:
    data: dict[str, Any] = DEMO.model_dump(mode="json", exclude_none=True)
    data["base"]["source"] = {site: "owner/tiny"}
    data["dataset"]["max_length"] = 512  # the tiny model's tokens are bytes
    data["dataset"]["source"] = {site: "owner/sums", "config": "sums", "split": "train[100:300]"}
    data["dataset"]["holdout"] = {site: "owner/sums", "config": "sums", "split": "test"}
    path = folder / "smollm2-demo.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def record(store: Path, step: str) -> tuple[Path, dict[str, Any]]:
    (path,) = store.glob(f"{step}-*/record.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("site", ["hub", pytest.param("modelscope", marks=pytest.mark.long)])
def test_a_model_and_rows_from_a_hub_are_sealed_with_their_checksums(site: str, hub: Hub, thinkship: Thinkship, tiny: Path, tmp_path: Path) -> None:
    path, store = recipe(tmp_path, site), tmp_path / "store"
    done = thinkship("run", path, "--until", "dataset", "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pinned base/source, dataset/source, dataset/holdout in " in done.stderr
    base, sealed = record(store, "base")
    commit = hub.repos["models", "owner/tiny"].commit if site == "hub" else "master"
    assert sealed["recipe"]["base"]["source"] == {site: "owner/tiny", "revision": commit}
    assert sorted(file["path"] for file in sealed["recipe"]["files"]["source"]) == sorted(file.name for file in tiny.iterdir())
    assert (base / "model" / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    facts = json.loads((base / "base.json").read_text())
    assert (facts["source"], facts["revision"]) == (f"{site}:owner/tiny", commit)
    assert not hub.sent["pytorch_model.bin"] and not hub.sent["model.gguf"]
    stats = json.loads((record(store, "dataset")[0] / "stats.json").read_text())
    assert (stats["train"]["read"], stats["eval"]["read"]) == (200, 237)
    kept = next((store / ".downloads").glob("sha256-*"))
    assert kept.stat().st_nlink in (1, 2), "the weights are on the disk once, under two names"
    assert sum(file.stat().st_nlink == 2 for file in (store / ".downloads").iterdir()) >= 1


@pytest.mark.long
def test_what_was_run_is_planned_and_made_again_offline_without_a_socket(hub: Hub, thinkship: Thinkship, tmp_path: Path) -> None:
    path, store = recipe(tmp_path), tmp_path / "store"
    assert thinkship("run", path, "--until", "dataset", "--store", store).returncode == 0
    asked, sealed = len(hub.seen), record(store, "base")[1]
    nothing = thinkship("run", path, "--until", "dataset", "--store", store, THINKSHIP_OFFLINE="1")
    assert nothing.returncode == 0 and "nothing to do" in nothing.stdout, nothing.stdout + nothing.stderr
    for step in ("base", "dataset"):
        (record(store, step)[0] / "record.json").unlink()
    again = thinkship("run", path, "--until", "dataset", "--store", store, THINKSHIP_OFFLINE="1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (record(store, "base")[1]["id"], len(hub.seen)) == (sealed["id"], asked)
    cold = thinkship("run", path, "--until", "base", "--store", tmp_path / "other", THINKSHIP_OFFLINE="1")
    assert cold.returncode == 4 and "are not on this machine" in cold.stderr
    assert not list((tmp_path / "other").glob("base-*/record.json"))


@pytest.mark.long
def test_an_adapter_from_a_hub_is_locked_downloaded_and_imported(
    hub: Hub, thinkship: Thinkship, tiny: Path, train_python: Path, tmp_path: Path
) -> None:
    folder, store = tmp_path / "lora", tmp_path / "store"
    subprocess.run((train_python, "-c", LORA, tiny, folder), check=True, capture_output=True)
    hub.repos["models", "owner/lora"] = Repo({**{file.name: file.read_bytes() for file in folder.iterdir()}, "optimizer.pt": b"pickle"})
    path = recipe(tmp_path)
    data = yaml.safe_load(path.read_text())
    del data["train"]
    path.write_text(yaml.safe_dump({**data, "adapter": {"source": {"hub": "owner/lora"}}}))
    done = thinkship("run", path, "--until", "train", "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    made, sealed = record(store, "train")
    told = json.loads((made / "train.json").read_text())["trained_elsewhere"]
    assert (told["source"], told["revision"]) == ("hub:owner/lora", hub.repos["models", "owner/lora"].commit)
    assert sealed["recipe"]["adapter"]["source"]["revision"] == told["revision"]
    assert not hub.sent["optimizer.pt"] and not any("names the base" in remark for remark in told["remarks"])
    assert (made / "adapter" / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    (made / "record.json").unlink()
    assert thinkship("run", path, "--until", "train", "--store", store, THINKSHIP_OFFLINE="1").returncode == 0


def test_a_run_that_is_killed_while_it_downloads_goes_on_there(hub: Hub, environment: dict[str, str], thinkship: Thinkship, tmp_path: Path) -> None:
    path, store = recipe(tmp_path), tmp_path / "store"
    weights = hub.repos["models", "owner/tiny"].files["model.safetensors"]
    hub.always["model.safetensors"] = Trouble(slow=0.01)
    command = (sys.executable, "-m", "toolkit.cli", "run", str(path), "--until", "base", "--store", str(store))
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while hub.sent["model.safetensors"] < 1 << 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # the stage program dies with its parent
    hub.always.clear()
    done = thinkship("run", path, "--until", "base", "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "from an earlier try" in done.stdout
    assert hub.sent["model.safetensors"] <= len(weights) + (1 << 16)


def test_a_split_that_is_empty_is_told(hub: Hub, thinkship: Thinkship, tmp_path: Path) -> None:
    path = recipe(tmp_path)
    path.write_text(path.read_text().replace("train[100:300]", "train[400:500]"))
    done = thinkship("run", path, "--until", "dataset", "--store", tmp_path / "store")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "dataset: dataset.source: train[400:500] has no rows; the split has 400" in done.stderr
    assert not list((tmp_path / "store").glob("dataset-*/record.json"))
