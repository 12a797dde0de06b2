"""Stage gguf with the real converter and the real llama.cpp, on a random model of two layers with the demo's tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from toolkit.stages import IMAGES

PROGRAM = IMAGES / "convert" / "to_gguf.py"
TYPES = ["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"]
LIMITS = {"q8_0": 0.01, "q4_k_m": 0.2}


def recipe(types: list[str], limits: dict[str, float], **others: Any) -> dict[str, Any]:
    return {
        "gguf": {
            "types": types,
            "max_kl": limits,
            "min_top1": {},
            "max_perplexity_growth": {},
            "rows": 8,
            "size_limit": None,
            "imatrix": None,
            "source": "merge",
            **others,
        }
    }


@pytest.fixture(scope="session")
def tiny(base, convert_python, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    script = Path(__file__).with_name("make_tiny.py")
    subprocess.run([str(convert_python), str(script), str(base / "model"), str(folder / "model")], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    prompt = "<|im_start|>user\nWhat is {} + {}?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    rows = [{"prompt": prompt.format(n, n), "completion": f"Twice {n} is {2 * n}.\n</think>\n\n{2 * n}<|im_end|>"} for n in (12, 34, 56)]
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    rows = [{"prompt": prompt.format(n, n), "completion": f"Twice {n} is {2 * n}.\n</think>\n\n{2 * n}<|im_end|>"} for n in range(10, 19)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def made(run_program, convert_python, tiny, dataset, tmp_path_factory):
    inputs = {"model": tiny, "dataset": dataset}
    done = run_program(convert_python, PROGRAM, inputs, recipe(TYPES, LIMITS), tmp_path_factory.mktemp("gguf"))
    assert done.code == 0, done.events[-1:] or done.log[-2000:]
    return done


@pytest.fixture
def broken(tiny, tmp_path) -> Path:
    """A copy of the tiny model to be damaged."""
    shutil.copytree(tiny, tmp_path / "broken")
    return tmp_path / "broken"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_it_leaves_one_file_a_type_and_their_figures_and_nothing_else(made):
    assert sorted(path.name for path in made.output.iterdir()) == sorted(["gguf.json", *(f"model-{kind}.gguf" for kind in TYPES)])
    report = json.loads((made.output / "gguf.json").read_text(encoding="utf-8"))
    assert (report["reference"], report["rows"], list(report["types"])) == ("f16", 3, TYPES)
    for figures in report["types"].values():
        assert figures["bytes"] == (made.output / figures["file"]).stat().st_size
        assert figures["perplexity"] > 1 and figures["tokens"] > 30


def test_fewer_bits_are_further_from_the_reference(made):
    types = json.loads((made.output / "gguf.json").read_text(encoding="utf-8"))["types"]
    assert types["f16"]["mean_kl"] == 0 and types["f16"]["top1"] == 1 and types["f16"]["perplexity_growth"] == 0
    for seen in types.values():
        assert 0 <= seen["p99_kl"] <= seen["max_kl"]
        assert seen["perplexity_growth"] == pytest.approx(seen["perplexity"] / types["f16"]["perplexity"] - 1)
    assert 0 < types["q8_0"]["mean_kl"] < types["q4_k_m"]["mean_kl"] < types["q4_0"]["mean_kl"] * 2
    assert 16 < types["f16"]["bits_per_weight"] < 16.1 and 8.5 < types["q8_0"]["bits_per_weight"] < 8.6


def test_it_says_which_types_the_tensors_really_got(made):
    # rows of 576 weights cannot be cut into K-quants' blocks of 256: Q4_K falls back to Q5_0 there, and only rows of 512 keep it
    given = json.loads((made.output / "gguf.json").read_text(encoding="utf-8"))["types"]["q4_k_m"]["tensors"]
    assert given["Q5_0"] > given.get("Q4_K", 0) and given["F32"] == 5


def test_scratch_is_left_empty_of_log_probabilities(made):
    assert [path.name for path in (made.output.parent / "scratch").iterdir()] == ["args.json"]


def beside_program() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROGRAM.parent)}


def test_every_limit_that_is_not_kept_is_told_and_breaks_the_contract(run_program, convert_python, tiny, dataset, tmp_path):
    limits = {"max_kl": 1e-9, "min_top1": 1.1, "max_perplexity_growth": -0.9}
    wanted = recipe(["f16", "q4_0"], {}, **{name: {"q4_0": limit} for name, limit in limits.items()})
    done = run_program(convert_python, PROGRAM, {"model": tiny, "dataset": dataset}, wanted, tmp_path)
    assert done.code == 6
    told = done.error["message"].split("; ")
    assert len(told) == 3 and told[0].startswith("model-q4_0.gguf: mean KL")
    for line, (name, limit) in zip(told, limits.items(), strict=True):
        assert line.startswith("model-q4_0.gguf: ") and line.endswith(f"gguf/{name}/q4_0 allows {limit}"), name


def test_a_vocabulary_that_llama_cpp_splits_otherwise_breaks_the_contract(run_program, convert_python, broken, dataset, tmp_path):
    # this decoder and byte_fallback make the converter take the vocabulary for a SentencePiece one: the file loads, then a space ends the process
    path = broken / "model" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    steps = [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}]
    edit(path, model=content["model"] | {"byte_fallback": True}, decoder={"type": "Sequence", "decoders": [*steps, content["decoder"]]})
    done = run_program(convert_python, PROGRAM, {"model": broken, "dataset": dataset}, recipe(["f16"], {}), tmp_path)
    assert (done.code, done.error["message"]) == (6, "llama.cpp ended the process while it read model-f16.gguf")


def test_a_weight_that_f16_cannot_hold_breaks_the_contract(run_program, convert_python, broken, dataset, tmp_path):
    blow_up = "import sys; from safetensors.torch import load_file, save_file; p = sys.argv[1]; w = load_file(p);"
    blow_up += "n = next(k for k in w if 'down_proj' in k); w[n][0, 0] = 1e6; save_file(w, p, metadata={'format': 'pt'})"
    subprocess.run([str(convert_python), "-c", blow_up, str(broken / "model" / "model.safetensors")], check=True, capture_output=True)
    done = run_program(convert_python, PROGRAM, {"model": broken, "dataset": dataset}, recipe(["f16"], {}), tmp_path)
    assert done.code == 6
    assert "ffn_down.weight has a weight that this type cannot hold" in done.error["message"] and "bf16" in done.error["remedy"]


def faults(python: Path, gguf: Path, model: Path, prompt: str = "<|im_start|>user\nHi<|im_end|>\n") -> list[str]:
    code = "import json, sys; from pathlib import Path; from check_gguf import faults;"
    code += "print(json.dumps(list(faults(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))))"
    argv = [str(python), "-c", code, str(gguf), str(model), prompt]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=beside_program())
    return json.loads(done.stdout)


@pytest.fixture
def f16(made) -> Path:
    return made.output / "model-f16.gguf"


def test_a_true_file_has_no_fault(f16, tiny, convert_python):
    assert faults(convert_python, f16, tiny / "model") == []


def test_another_template_is_a_fault(f16, broken, convert_python):
    path = broken / "model" / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    (fault,) = faults(convert_python, f16, broken / "model")
    assert fault.startswith("tokenizer.chat_template is")


def test_another_shape_is_a_fault(f16, broken, convert_python):
    edit(broken / "model" / "config.json", num_hidden_layers=3, model_type="qwen2")
    found = faults(convert_python, f16, broken / "model")
    assert [fault.partition(" is ")[0] for fault in found] == ["general.architecture", "llama.block_count"]


def test_an_end_that_llama_cpp_does_not_know_is_a_fault(f16, broken, convert_python):
    edit(broken / "model" / "generation_config.json", eos_token_id=[5])
    first, second = faults(convert_python, f16, broken / "model")
    assert first.endswith("generation_config.json ends at [5]") and "at token 5" in second


def test_other_token_ids_are_a_fault_for_each_text(f16, broken, convert_python):
    path = broken / "model" / "tokenizer.json"
    added = [token | {"content": "<thought>"} if token["content"] == "<think>" else token for token in json.loads(path.read_text())["added_tokens"]]
    edit(path, added_tokens=added)
    found = faults(convert_python, f16, broken / "model")
    assert found and all("<think>" in fault for fault in found)


@pytest.mark.long
def test_an_importance_matrix_of_training_rows_is_left_and_compared_with_none(run_program, convert_python, tiny, dataset, made, tmp_path):
    wanted = recipe(["f16", "q8_0", "q4_k_m"], {}, imatrix={"rows": 4, "path": None, "compare": True})
    done = run_program(convert_python, PROGRAM, {"model": tiny, "dataset": dataset}, wanted, tmp_path)
    assert done.code == 0, done.events[-1:] or done.log[-2000:]
    report = json.loads((done.output / "gguf.json").read_text(encoding="utf-8"))
    plain = json.loads((made.output / "gguf.json").read_text(encoding="utf-8"))["types"]["q4_k_m"]
    assert report["imatrix"]["texts"] == 4 and report["imatrix"]["from"] == "the training rows" and report["imatrix"]["tokens"] > 100
    assert report["types"]["q4_k_m"]["plain"] == {name: plain[name] for name in ("mean_kl", "p99_kl", "top1", "perplexity")}
    assert report["types"]["q4_k_m"]["mean_kl"] != plain["mean_kl"] and "plain" not in report["types"]["q8_0"]
    assert report["types"]["q8_0"]["sha256"] == json.loads((made.output / "gguf.json").read_text(encoding="utf-8"))["types"]["q8_0"]["sha256"]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["args.json"] and (done.output / "imatrix.gguf").is_file()
    # the same matrix, given as a file, makes the same file
    (tmp_path / "recipe").mkdir()
    shutil.copy(done.output / "imatrix.gguf", tmp_path / "recipe" / "mine.gguf")
    wanted = recipe(["f16", "q4_k_m"], {}, imatrix={"rows": None, "path": "mine.gguf", "compare": False})
    again = run_program(convert_python, PROGRAM, {"model": tiny, "dataset": dataset, "recipe_dir": tmp_path / "recipe"}, wanted, tmp_path / "again")
    assert again.code == 0, again.events[-1:] or again.log[-2000:]
    types = json.loads((again.output / "gguf.json").read_text(encoding="utf-8"))["types"]
    assert types["q4_k_m"]["mean_kl"] == report["types"]["q4_k_m"]["mean_kl"] and "plain" not in types["q4_k_m"]
    (tmp_path / "recipe" / "mine.gguf").write_bytes(b"GGUF")
    again = run_program(convert_python, PROGRAM, {"model": tiny, "dataset": dataset, "recipe_dir": tmp_path / "recipe"}, wanted, tmp_path / "bad")
    assert again.code == 3 and again.error["message"].startswith("mine.gguf is no importance matrix: ")
