"""The compress stage: each format lies in fewer bits, loads strictly, answers as the model does, and carries its tokenizer and template unchanged."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from training import PROGRAMS

from toolkit.compression import STORED
from toolkit.contracts import check
from toolkit.errors import BrokenError
from toolkit.recipe import Think
from toolkit.runners.environment import Environment

pytestmark = pytest.mark.long  # an environment of its own, gigabytes

TINY = "import sys, pathlib, tiny; tiny.write_checkpoint(pathlib.Path(sys.argv[1])); tiny.write_rows(pathlib.Path(sys.argv[2]), 24)"
SETTINGS = {"rows": 24, "eval_rows": 6, "ignore": [], "max_kl": {}, "min_top1": {}, "max_perplexity_growth": {}}
KINDS = {"bnb-nf4-stored": "bitsandbytes", "w4a16": "compressed-tensors", "int8": "compressed-tensors", "fp8-dynamic": "compressed-tensors"}
SHARE = {"bnb-nf4-stored": 0.45, "w4a16": 0.45, "int8": 0.7, "fp8-dynamic": 0.7}
"""Largest size over the 16-bit model's; a fifth of this one is its embedding, which stays."""


@pytest.fixture(scope="module")
def compress_python() -> Path:
    return Environment("train", "compress.lock").install()


@pytest.fixture(scope="module")
def inputs(compress_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("merged")
    done = subprocess.run(
        (str(compress_python), "-c", TINY, "model", "train.jsonl"), cwd=folder, env={"PYTHONPATH": str(PROGRAMS)}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    shutil.copy(folder / "train.jsonl", folder / "eval.jsonl")
    return {"model": folder, "dataset": folder}


@pytest.fixture
def compress(run_program: Any, compress_python: Path, tmp_path: Path) -> Any:
    def run(kind: str, inputs: dict[str, Path], **settings: Any) -> Any:
        return run_program(compress_python, PROGRAMS / "compress.py", inputs, recipe(kind, **settings), tmp_path)

    return run


def recipe(kind: str, **settings: Any) -> dict[str, Any]:
    return {"format": kind, "compress": {**SETTINGS, **settings}, "think": Think().model_dump()}


def types_of(folder: Path) -> set[str]:
    """Return how the weights of the linear layers lie in a checkpoint's files."""
    (path,) = folder.glob("*.safetensors")
    with path.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return {entry["dtype"] for name, entry in header.items() if "down_proj.weight" in name and not name.endswith("scale")}


def test_every_format_of_a_recipe_is_made_and_tested():
    assert set(KINDS) == set(STORED)


@pytest.mark.parametrize("kind", STORED)
def test_a_format_is_the_model_in_fewer_bits(kind: str, compress: Any, inputs: dict[str, Path]) -> None:
    before = {path: path.read_bytes() for path in (inputs["model"] / "model").iterdir()}
    done = compress(kind, inputs)
    assert done.code == 0, done.log[-3000:] + str(done.events[-1:])
    check("compress", done.output, recipe(kind))
    model, (seen,) = done.output / "model", json.loads((done.output / "compress.json").read_text())["types"].values()
    config = json.loads((model / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == KINDS[kind]
    assert seen["bytes"] < SHARE[kind] * seen["reference_bytes"] and seen["mean_kl"] < 0.02 and seen["tokens"] > 50
    assert "BF16" not in types_of(model), types_of(model)
    source = inputs["model"] / "model"
    kept = {path.name for path in source.iterdir() if path.suffix != ".safetensors"} - {"config.json"}
    assert {path.name for path in model.iterdir() if path.suffix != ".safetensors"} - {"config.json"} == kept
    assert all((model / name).read_bytes() == (source / name).read_bytes() for name in kept)
    assert {path: path.read_bytes() for path in source.iterdir()} == before, "the model itself is left alone"


def test_a_layer_that_is_left_out_stays_in_16_bits(compress: Any, inputs: dict[str, Path]) -> None:
    done = compress("w4a16", inputs, ignore=["down_proj"])
    assert done.code == 0, done.log[-3000:]
    assert types_of(done.output / "model") == {"BF16"}


def test_a_format_further_from_the_model_than_allowed_is_an_error(compress: Any, inputs: dict[str, Path]) -> None:
    done = compress("bnb-nf4-stored", inputs, max_kl={"bnb-nf4-stored": 1e-9})
    assert done.code == 6, done.log[-3000:]
    assert "compress/max_kl/bnb-nf4-stored allows 1e-09" in done.error["message"] and "compress.rows" in done.error["remedy"]
    with pytest.raises(BrokenError, match=r"mean KL divergence .*, compress/max_kl/bnb-nf4-stored allows 1e-09"):
        check("compress", done.output, recipe("bnb-nf4-stored"))


def test_no_rows_to_measure_on_is_said(compress: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "eval.jsonl").touch()
    shutil.copy(inputs["dataset"] / "train.jsonl", tmp_path / "dataset")
    done = compress("int8", {**inputs, "dataset": tmp_path / "dataset"})
    assert done.code == 3 and done.error["message"] == "eval.jsonl has no rows"


def test_a_checkpoint_with_weights_missing_is_refused(compress: Any, inputs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(inputs["model"] / "model", tmp_path / "cut" / "model")
    path = tmp_path / "cut" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4096])
    done = compress("fp8-dynamic", {**inputs, "model": tmp_path / "cut"})
    assert done.code == 6 and "cannot be read" in done.error["message"], done.log[-2000:]
