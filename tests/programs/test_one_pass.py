"""Base and adapter straight to GGUF, against merging and then converting with llama.cpp's converter as it is; and what may be wrong with either."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from small_disk import mounted
from test_gguf import PROGRAM, recipe
from test_quantize import inside
from training import piece, tiny_recipe


@pytest.fixture(scope="session")
def inputs(tiny_inputs: dict[str, Path], stage: Callable[..., Path]) -> dict[str, Path]:
    """Base, dataset, an adapter trained for a few steps, and what merge and reference leave of them, for two random layers."""
    made = dict(tiny_inputs)
    made["train"] = stage("tiny-train", "train.py", tiny_inputs, tiny_recipe())
    made["merge"] = stage("tiny-merge", "merge.py", made, piece("merge", merge={"max_logit_difference": 10.0}))
    shared = {name: made[name] for name in ("base", "dataset", "train")}
    made["reference"] = stage("tiny-reference", "reference.py", shared, piece("reference", dtype="bfloat16"))
    return made


def converted(python: Path, *words: Any) -> None:
    script = Path(__file__).with_name("convert_files.py")
    done = subprocess.run([str(python), str(script), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_pass_leaves_the_bytes_of_merging_and_then_converting(inputs, convert_python, tmp_path):
    converted(convert_python, "stock", inputs["merge"] / "model", tmp_path)
    converted(convert_python, "ours", inputs["base"] / "model", tmp_path, inputs["train"] / "adapter", "bfloat16")
    paths = [tmp_path / f"{way}-{kind}.gguf" for way in ("stock", "ours") for kind in ("f16", "bf16", "q8_0")]
    found = inside(convert_python, *paths)
    for stock, ours in zip(found[:3], found[3:], strict=True):
        assert {name for name in stock.keys() | ours.keys() if stock.get(name) != ours.get(name)} == set()
    converted(convert_python, "stock", inputs["base"] / "model", tmp_path)
    (base,) = inside(convert_python, tmp_path / "stock-q8_0.gguf")
    assert sum(base[name] != found[2][name] for name in base) >= 14  # 7 matrices of both layers: the adapter is in them


@pytest.mark.long
def test_a_checkpoint_without_an_adapter_is_converted_as_ever(inputs, convert_python, tmp_path):
    for way in ("stock", "ours"):
        converted(convert_python, way, inputs["merge"] / "model", tmp_path)
    found = inside(convert_python, *(tmp_path / f"{way}-{kind}.gguf" for way in ("stock", "ours") for kind in ("f16", "bf16", "q8_0")))
    assert found[:3] == found[3:]


def one_pass(inputs: dict[str, Path], **others: Path) -> dict[str, Path]:
    given = {"base": inputs["base"], "train": inputs["train"], "model": inputs["reference"], "dataset": inputs["dataset"]}
    return given | others


WANTED = {**recipe(["f16", "q8_0", "q4_k_m"], {}, source="one_pass"), "dtype": "bfloat16"}


def test_the_stage_makes_the_same_files_either_way(inputs, convert_python, run_program, tmp_path):
    one = run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, tmp_path / "one")
    assert one.code == 0, one.events[-1:] or one.log[-3000:]
    two = run_program(
        convert_python, PROGRAM, {"model": inputs["merge"], "dataset": inputs["dataset"]}, recipe(["f16", "q8_0", "q4_k_m"], {}), tmp_path / "two"
    )
    assert two.code == 0, two.events[-1:] or two.log[-3000:]
    reports = [json.loads((done.output / "gguf.json").read_text(encoding="utf-8"))["types"] for done in (one, two)]
    assert [file["sha256"] for file in reports[0].values()] == [file["sha256"] for file in reports[1].values()]


def test_the_reference_is_what_the_trained_model_says(inputs):
    lines = [[json.loads(line) for line in (inputs[name] / "probes.jsonl").read_text().splitlines()] for name in ("reference", "merge")]
    assert [line["question"] for line in lines[0]] == [line["question"] for line in lines[1]]
    for one, other in zip(*lines, strict=True):
        assert one["base_tokens"] == other["base_tokens"]
        assert one["logprobs"][:1] == pytest.approx(other["logprobs"][:1], abs=0.05)
    assert not list((inputs["reference"] / "model").glob("*.safetensors"))
    assert (inputs["reference"] / "tokens.jsonl").read_bytes() == (inputs["merge"] / "tokens.jsonl").read_bytes()


@pytest.fixture
def damaged(inputs, tmp_path) -> dict[str, Path]:
    """Copies of base and adapter to be damaged."""
    for name in ("base", "train"):
        shutil.copytree(inputs[name], tmp_path / name)
    return {name: tmp_path / name for name in ("base", "train")}


def refused(run_program: Any, python: Path, given: dict[str, Path], folder: Path) -> tuple[int, str]:
    done = run_program(python, PROGRAM, given, WANTED, folder)
    assert not list(done.output.glob("*.gguf")), "a half-made file was left"
    return done.code, done.error["message"]


def test_a_shard_that_is_cut_off_or_missing_is_named(inputs, damaged, convert_python, run_program, tmp_path):
    path = damaged["base"] / "model" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    code, said = refused(run_program, convert_python, one_pass(inputs, base=damaged["base"]), tmp_path / "cut")
    assert code == 6 and said.startswith("model.safetensors has ")
    path.unlink()
    code, said = refused(run_program, convert_python, one_pass(inputs, base=damaged["base"]), tmp_path / "gone")
    assert code == 6 and "lacks model.safetensors" in said


def test_an_adapter_of_another_base_is_refused(inputs, damaged, convert_python, run_program, tmp_path):
    code = "import sys; from safetensors.torch import load_file, save_file; p = sys.argv[1]; w = load_file(p);"
    code += "n = next(k for k in w if 'q_proj.lora_A' in k); w[n] = w[n][:, :-8].contiguous(); save_file(w, p, metadata={'format': 'pt'})"
    subprocess.run([str(convert_python), "-c", code, str(damaged["train"] / "adapter" / "adapter_model.safetensors")], check=True)
    status, said = refused(run_program, convert_python, one_pass(inputs, train=damaged["train"]), tmp_path / "other")
    assert status == 3 and "q_proj: the adapter was trained on" in said


def test_a_checkpoint_that_llama_cpp_does_not_know_is_told_with_its_words(inputs, damaged, convert_python, run_program, tmp_path):
    path = damaged["base"] / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["UnheardOfForCausalLM"]}))
    status, said = refused(run_program, convert_python, one_pass(inputs, base=damaged["base"]), tmp_path / "unknown")
    assert status == 5 and "llama.cpp's converter" in said


def fill(folder: Path, leave: int) -> None:
    """Leave about so many bytes free on a disk, that a program is writing to meanwhile."""
    with (folder / "filler").open("wb", buffering=0) as sink, contextlib.suppress(OSError):  # the disk is full before its turn
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > leave:
            sink.write(bytes(4096))


@pytest.mark.parametrize("after", [pytest.param("model-f16.gguf", marks=pytest.mark.long), "model-q4_k_m.gguf"])
def test_a_disk_that_fills_up_in_the_middle_is_told_as_such_and_mended_by_running_again(inputs, convert_python, run_program, tmp_path, after):
    with mounted(tmp_path / "small", 40) as small:
        output = small / "output"
        taken = threading.Event()

        def take() -> None:
            while not taken.is_set():
                if (output / after).exists():
                    fill(small, 4096)
                    return
                time.sleep(0.001)

        other = threading.Thread(target=take)
        other.start()
        done = run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, small)
        taken.set()
        other.join()
        assert done.code == 4 and "disk" in done.error["message"], done.log[-2000:]
        (small / "filler").unlink()
        shutil.rmtree(output)
        assert run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, small).code == 0


def test_a_kill_in_the_middle_leaves_nothing_that_hinders_the_next_run(inputs, convert_python, run_program, tmp_path):
    output, scratch = tmp_path / "output", tmp_path / "scratch"
    for folder in (output, scratch):
        folder.mkdir()
    arguments = {"inputs": {name: str(path) for name, path in one_pass(inputs).items()}, "output": str(output), "scratch": str(scratch)}
    (scratch / "args.json").write_text(json.dumps({**arguments, "recipe": WANTED}), encoding="utf-8")
    argv = (str(convert_python), str(PROGRAM), str(scratch / "args.json"))
    with subprocess.Popen(argv, env=program_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as running:
        while not list(output.glob("*.gguf")) and running.poll() is None:
            time.sleep(0.01)
        os.killpg(running.pid, signal.SIGKILL)
    shutil.rmtree(output)  # a step begins in a fresh folder, and keeps its scratch
    done = run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, tmp_path)
    assert done.code == 0, done.events[-1:] or done.log[-2000:]
    assert [path.name for path in scratch.iterdir()] == ["args.json"]


def test_what_does_not_fit_is_refused_before_the_first_byte(inputs, convert_python, run_program, tmp_path):
    with mounted(tmp_path / "small", 1) as small:
        done = run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, small)
        assert done.code == 4 and not list(done.output.iterdir())
        assert done.error["message"].startswith("the GGUF files need about 0.0") and done.error["remedy"].startswith("free 0.0")


def test_what_it_takes_is_said_first(inputs, convert_python, run_program, tmp_path):
    done = run_program(convert_python, PROGRAM, one_pass(inputs), WANTED, tmp_path)
    assert done.code == 0 and done.events[0]["event"] == "note"
    assert done.events[0]["text"].startswith("the GGUF files take 0.0") and "packing alone takes about" in done.events[0]["text"]


def test_memory_that_is_not_there_is_refused(inputs, convert_python):
    code = """if True:
        import sys
        from pathlib import Path
        import room
        from program import ProgramError
        room.available_memory = lambda: 1 << 28
        try:
            room.require(Path(sys.argv[1]), {"types": ["f16"], "imatrix": None}, Path(sys.argv[1]))
        except ProgramError as error:
            print(error.code, error.message)"""
    env = {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}
    argv = [str(convert_python), "-c", code, str(inputs["base"] / "model")]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=env)
    assert done.stdout.startswith("4 converting takes about ") and "256 MiB are available" in done.stdout


def test_a_type_that_does_not_exist_is_refused_with_the_nearest(inputs, convert_python, run_program, tmp_path):
    wanted = {**recipe(["f16", "q4_km"], {}, source="one_pass"), "dtype": "bfloat16"}
    done = run_program(convert_python, PROGRAM, one_pass(inputs), wanted, tmp_path)
    assert done.code == 3 and done.error["remedy"] == "did you mean q4_k_m?" and not list(done.output.iterdir())
