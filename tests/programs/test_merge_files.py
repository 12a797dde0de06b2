"""The merged files: equal to PEFT's sums for whatever adapter, exact in NF4, refused with one sentence where they cannot be, whole after a kill."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from small_disk import mounted

HERE = Path(__file__).parent
REFUSED = {
    "other shape": (3, "trained on [161, 64], the base has [160, 64]"),
    "other width": (3, "trained on [160, 32], the base has [160, 64]"),
    "no such layer": (3, "changes model.layers.7.mlp.up_proj, and the base has no such weight"),
    "half a pair": (3, "holds A and no B"),
    "other vocabulary": (3, "the vocabularies of adapter and base differ"),
    "unknown weight": (3, "brings model.extra.weight, and the base has no such weight"),
    "nan": (3, "lora_A.weight holds numbers that are not finite"),
    "infinite": (3, "lora_B.weight holds numbers that are not finite"),
    "nan in a saved module": (3, "model.norm.weight: merged weights are not finite"),
    "rank zero": (3, "says rank 0"),
    "other rank": (3, "says rank 4, and the adapter's tensors have 2"),
    "bias": (3, "bias: 'all'"),
    "bias of a layer": (3, "lora_B.bias"),
    "pissa": (3, "init_lora_weights: 'pissa'"),
    "loha": (3, "peft_type: 'LOHA'"),
    "setting of tomorrow": (3, "use_tomorrow: True"),
    "magnitudes missing": (3, "use_dora"),
    "token beyond the table": (3, "tokens up to 96 do not fit [96, 64]"),
    "too large for float16": (3, "float16 cannot hold"),
    "too small for bfloat16": (3, "rounding to bfloat16 keeps"),
    "missing shard": (6, "its index names it"),
    "absent file in the index": (6, "lacks model-00009-of-00009.safetensors"),
    "truncated shard": (6, "bytes, and its header tells of"),
    "truncated header": (6, "the header is cut off"),
    "base in fp8": (3, "quantised in a way that is not read here"),
    "base in mxfp4": (3, "config.json says that the base is quantised (mxfp4)"),
    "tied": (3, "trained lm_head apart from what the base ties"),
}


def told(python: Path, program: str, *given: str) -> list[dict[str, Any]]:
    """Run a program of this folder and return the JSON lines that it printed."""
    done = subprocess.run((str(python), str(HERE / program), *given), env=program_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2", "phi3", "moe", "resized", "resized-tied"])
def test_random_adapters_are_merged_as_peft_merges_them(kind: str, train_python: Path, tmp_path: Path) -> None:
    rows = told(train_python, "merge_configurations.py", str(tmp_path), kind, "0")
    assert len(rows) == 6
    for row in rows:
        assert row["apart"] < 2e-7 and row["moved"] > 1e-3 and not row["odd"], row


def test_a_weight_gets_the_same_sum_in_blocks_of_any_size(train_python: Path, tmp_path: Path) -> None:
    rows = told(train_python, "merge_blocks.py", str(tmp_path))
    assert len(rows) == 4 and all(row["blocks"][2] > 5 for row in rows), "several blocks"
    assert [row for row in rows if row["other"]] == []


def test_nf4_is_dequantised_as_bitsandbytes_does(train_python: Path, tmp_path: Path) -> None:
    rows = told(train_python, "merge_nf4.py", str(tmp_path))
    assert len(rows) == 8 and all(row["weights"] == 13 and row["other"] == 0 for row in rows), rows


@pytest.fixture(scope="module")
def endings(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    rows = told(train_python, "merge_faults.py", str(tmp_path_factory.mktemp("faults")))
    return {row["case"]: row for row in rows if row["event"] == "case"}


def test_every_case_is_tried_and_the_one_that_fits_is_merged(endings: dict[str, dict[str, Any]]) -> None:
    assert endings.keys() == {"fits", *REFUSED} and endings["fits"]["code"] == 0
    assert all(ending["untouched"] for ending in endings.values())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_is_refused_by_name(name: str, endings: dict[str, dict[str, Any]]) -> None:
    code, words = REFUSED[name]
    assert endings[name]["code"] == code and words in endings[name]["message"] and endings[name]["remedy"], endings[name]


@pytest.fixture(scope="module")
def made(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base of 22 MB in six files, an adapter, and what an undisturbed merge leaves."""
    folder = tmp_path_factory.mktemp("interrupted")
    told(train_python, "merge_interrupted_inputs.py", str(folder))
    (folder / "plain").mkdir()
    assert interrupted(train_python, folder, folder / "plain", "no").returncode == 0
    return folder


def interrupted(python: Path, folder: Path, scratch: Path, how: str, room: int = 0) -> subprocess.CompletedProcess[str]:
    given = (str(folder / "base"), str(folder / "adapter"), str(scratch), how, str(room))
    command = (str(python), str(HERE / "merge_interrupted.py"), *given)
    return subprocess.run(command, env=program_environment(), capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_killed_merge_goes_on_with_the_next_file_and_leaves_the_same_bytes(made: Path, train_python: Path, tmp_path: Path) -> None:
    assert interrupted(train_python, made, tmp_path, "kill").returncode == -9
    half = sorted(path.name for path in (tmp_path / "merged").iterdir())
    assert any(name.endswith(".partial") for name in half) and "model.safetensors.index.json" not in half
    done = interrupted(train_python, made, tmp_path, "no")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("resumed ")[1].split()[0]) > 0
    assert contents(tmp_path / "merged") == contents(made / "plain" / "merged")


def test_a_disk_that_is_too_small_is_said_before_the_first_byte(made: Path, train_python: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 60) as scratch:
        done = interrupted(train_python, made, scratch, "no")
        assert done.returncode == 4 and "GB on the disk of" in done.stdout and "free 0.0" in done.stdout, done.stdout
        assert not list(scratch.glob("merged/*"))


def test_a_disk_that_fills_meanwhile_is_one_clear_error(made: Path, train_python: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 128) as scratch:
        done = interrupted(train_python, made, scratch, "fill", 1 << 20)
        assert done.returncode == 4 and "no space left on the disk" in done.stdout, done.stdout + done.stderr
        (scratch / "other").unlink()
        done = interrupted(train_python, made, scratch, "no")
        assert done.returncode == 0 and contents(scratch / "merged") == contents(made / "plain" / "merged")
