"""Two processes on the CPU train what one does with batches twice as large, and one of them writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from training import PROGRAMS, losses, tiny_recipe

ALONE = {"batch_size": 4, "gradient_accumulation": 2, "eval_steps": 3}
TOGETHER = {**ALONE, "batch_size": 2, "processes": 2}


@pytest.fixture(scope="module")
def alone(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(**ALONE), tmp_path_factory.mktemp("alone"))
    assert done.code == 0, done.log[-3000:]
    return done


def figures(folder: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("packing", [pytest.param("none", marks=pytest.mark.long), "padding_free"])
def test_two_processes_are_one_with_twice_the_batch(
    packing: str, alone: Any, train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(**TOGETHER, packing=packing), tmp_path)
    assert done.code == 0, done.log[-3000:]
    assert losses(done.output) == pytest.approx(losses(alone.output), abs=1e-4)
    for name in ("tokens", "eval_loss", "grad_norm"):
        assert figures(done.output, name) == pytest.approx(figures(alone.output, name), rel=1e-3)
    facts = json.loads((done.output / "train.json").read_text())
    assert facts["processes"] == 2
    progress = [event["done"] for event in done.events if event["event"] == "progress"]
    assert progress == sorted(set(progress)), "more than one process speaks"


@pytest.mark.long
def test_a_launcher_that_has_started_the_processes_is_left_in_charge(
    alone: Any, train_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    arguments = told(tiny_inputs, tmp_path, tiny_recipe(**TOGETHER))
    launcher = (str(train_python), "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0")
    done = subprocess.run((*launcher, str(PROGRAMS / "train.py"), str(arguments)), env=program_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "output") == pytest.approx(losses(alone.output), abs=1e-4)


def told(inputs: dict[str, Path], folder: Path, recipe: dict[str, Any]) -> Path:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    places = {"inputs": {name: str(path) for name, path in inputs.items()}, "output": str(folder / "output"), "scratch": str(folder / "scratch")}
    (folder / "args.json").write_text(json.dumps({**places, "recipe": recipe}))
    return folder / "args.json"


def test_a_number_of_processes_that_the_launcher_does_not_mean_is_refused(train_python: Path, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    command = (str(train_python), str(PROGRAMS / "train.py"), str(told(tiny_inputs, tmp_path, tiny_recipe(**TOGETHER))))
    done = subprocess.run(command, env={**program_environment(), "WORLD_SIZE": "4", "RANK": "0"}, capture_output=True, text=True)
    assert done.returncode == 3 and "the launcher started 4" in done.stdout


@pytest.mark.long
def test_a_failure_in_the_processes_is_this_programs_failure(
    train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(**TOGETHER, learning_rate=1e30), tmp_path)
    assert done.code == 6, done.log[-3000:]
    assert "in step" in done.error["message"] and "row" in done.error["message"]
    assert not list(done.output.iterdir())


@pytest.mark.long
def test_a_kill_leaves_no_process_behind_and_the_checkpoint_is_gone_on_from(
    alone: Any, train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny_recipe(**TOGETHER, checkpoint_steps=2)
    command = (str(train_python), str(PROGRAMS / "train.py"), str(told(tiny_inputs, tmp_path, recipe)))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=program_environment(), start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "scratch" / "checkpoint-2" / "complete").is_file():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, recipe, tmp_path)
    assert done.code == 0, done.log[-3000:]
    assert any("goes on from checkpoint-" in event.get("text", "") for event in done.events)
    assert losses(done.output) == pytest.approx(losses(alone.output), abs=1e-4)


@pytest.mark.long
def test_a_model_cut_into_parts_learns_the_same(
    alone: Any, train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path
) -> None:
    found = {}
    for name, more in (("whole", {}), ("parts", {"distributed": "fsdp"})):
        recipe = {**tiny_recipe(**TOGETHER, **more), "think": {"open": "<think>", "close": "</think>", "add_tokens": False}}
        done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, recipe, tmp_path / name)
        assert done.code == 0, done.log[-5000:]
        found[name] = losses(done.output)
        assert (done.output / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000
    assert found["parts"] == pytest.approx(found["whole"], abs=1e-3)


@pytest.mark.long
def test_deepspeed_that_is_not_installed_is_said(train_python: Path, run_program: Any, tiny_inputs: dict[str, Path], tmp_path: Path) -> None:
    done = run_program(train_python, PROGRAMS / "train.py", tiny_inputs, tiny_recipe(**TOGETHER, distributed="deepspeed"), tmp_path)
    assert done.code == 4, done.log[-3000:]
    assert "deepspeed is not installed" in done.error["message"] and "fsdp" in done.error["remedy"]
