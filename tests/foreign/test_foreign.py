"""Adapters that other trainers made, for real: merged, converted, served by llama.cpp and held against the gate like our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import environment, recipe_of, run_trainer

STEPS, BATCH, RATE = 24, 4, 2e-3
"""Enough to think, to stop and to add up most of the time: 21 to 25 of 30 sums are right."""
CARD = {"sums": {"file_name": "sums.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}}}
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def llamafactory(base: Path, rows: Path, folder: Path) -> Path:
    """Train as LLaMA-Factory's examples do (examples/train_lora), on the CPU; its folder holds tokenizer and template."""
    settings: dict[str, Any] = {
        **{"model_name_or_path": str(in_32_bits(base, folder)), "stage": "sft", "do_train": True, "finetuning_type": "lora", "template": "chatml"},
        **{"lora_rank": 16, "lora_alpha": 32, "lora_target": "all", "dataset": "sums", "dataset_dir": str(folder), "cutoff_len": 128},
        **{
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "disable_gradient_checkpointing": True,
            "max_steps": STEPS,
            "learning_rate": RATE,
            "warmup_steps": 3,
        },
        **{"output_dir": str(folder / "adapter"), "save_only_model": True, "report_to": "none", "logging_steps": 1, "use_cpu": True, "seed": 3407},
    }
    (folder / "sums.jsonl").write_bytes(rows.read_bytes())
    (folder / "dataset_info.json").write_text(json.dumps({"sums": {**CARD["sums"], "tags": TAGS}}))
    (folder / "train.yml").write_text(yaml.safe_dump(settings))
    run_trainer((environment("llamafactory") / "bin" / "llamafactory-cli", "train", "train.yml"), folder)
    return folder / "adapter"


def in_32_bits(base: Path, folder: Path) -> Path:
    """Return the base as a folder that says of itself that it is loaded in 32 bits: LLaMA-Factory takes the file's word, and a CPU's bfloat16 is
    seven times slower.
    """
    copy = folder / "base"
    copy.mkdir()
    for path in base.iterdir():
        (copy / path.name).symlink_to(path.resolve())
    (copy / "config.json").unlink()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "dtype": "float32"}), encoding="utf-8")
    return copy


def swift(base: Path, rows: Path, folder: Path) -> Path:
    """Train as ms-swift's examples do, on the CPU; its checkpoint holds neither tokenizer nor template."""
    wanted = {
        **{"model": base, "model_type": "llama", "template": "chatml", "tuner_type": "lora", "dataset": rows, "torch_dtype": "float32"},
        **{
            "lora_rank": 16,
            "lora_alpha": 32,
            "target_modules": "all-linear",
            "max_length": 128,
            "per_device_train_batch_size": BATCH,
            "gradient_checkpointing": "false",
        },
        **{"gradient_accumulation_steps": 1, "max_steps": STEPS, "learning_rate": RATE, "warmup_steps": 3, "logging_steps": 1, "save_steps": STEPS},
        **{"output_dir": folder / "out", "add_version": "false", "save_only_model": "true", "report_to": "none", "use_cpu": "true", "use_hf": "true"},
    }
    flags = (word for name, value in wanted.items() for word in (f"--{name}", value))
    run_trainer((environment("swift") / "bin" / "swift", "sft", *flags), folder)
    return folder / "out" / f"checkpoint-{STEPS}"


TRAINERS: dict[str, tuple[Callable[[Path, Path, Path], Path], str, tuple[str, ...]]] = {
    "llamafactory": (llamafactory, "LLaMA-Factory", ("its config names the base",)),
    "swift": (swift, "ms-swift 4.6.0", ("holds no tokenizer.json", "holds no chat template", "its config names the base")),
}
"""How it trains, how it is called in reports, and what cannot be said of what it leaves."""


@pytest.mark.parametrize("name", TRAINERS)
def test_what_another_trainer_made_passes_the_gate(name: str, speaking: Path, rows: Path, thinkship, tmp_path: Path):
    train, called, remarks = TRAINERS[name]
    adapter = train(speaking, rows, tmp_path)
    recipe = recipe_of(adapter, f"foreign-{name}", tmp_path, speaking)
    done = thinkship("run", recipe)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"trained elsewhere, by {called} (" in done.stdout
    report = tmp_path / "report.json"
    assert thinkship("verify", recipe, "--json", report).returncode == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    tuned = [seen for seen in found["observed"]["endpoints"] if not seen["base"]]
    assert found["verdict"] == "pass" and {seen["variant"] for seen in tuned} == {"f16", "q8_0", "f16-adapter"}
    assert all(seen["thinking"] >= 27 and seen["asked"] == 30 for seen in tuned), tuned
    told = found["observed"]["adapter"]
    assert len(told["remarks"]) == len(remarks) and all(word in remark for word, remark in zip(remarks, told["remarks"], strict=True)), told[
        "remarks"
    ]
    assert told["losses_told"] == STEPS
    gains = [check["message"] for check in found["checks"] if check["name"] == "gain"]
    assert len(gains) == 3 and all(message.startswith("improved") for message in gains), gains
    mute = thinkship("run", recipe_of(adapter, f"mute-{name}", tmp_path), "--until", "train")
    assert mute.returncode == 3 and "does not train the row of </think>, which was added to this base" in mute.stderr, mute.stderr
