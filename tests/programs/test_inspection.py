"""`data inspect` with the real tokenizer: what it counts, the tokens it shows, and that it refuses nothing that can be read."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_dataset import GOLDEN_TURNS, GOOD, LONG, TO_PARQUET, lines, write
from training import DEMO, MODELFILES, PROGRAMS, RECIPES, piece

from toolkit.inspection import page, survey
from toolkit.stages import ROOT

GOLDEN = ROOT / "tests" / "golden" / "datasets"


def look(run_program: Any, python: Path, folder: Path, model: dict[str, Path], **changes: Any) -> dict[str, Any]:
    data = {"source": {"path": "train.jsonl"}, "holdout": {"path": "holdout.jsonl"}, **changes}
    recipe = {**piece("dataset", dataset=data), "family": DEMO.base.family, "samples": 3}
    done = run_program(python, PROGRAMS / "inspect_dataset.py", {"recipe_dir": folder, **model}, recipe, folder / "run")
    assert done.code == 0, done.log[-2000:] + str(done.events)
    found: dict[str, Any] = json.loads((done.output / "inspection.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    bad = [
        {**GOOD, "Question": "Cut?", "Response": ""},
        {**GOOD, "Question": "WHAT is 1 + 1?"},
        {**GOOD, "Question": LONG, "Complex_CoT": "word " * 200},
    ]
    write(tmp_path / "train.jsonl", GOOD, *bad, {**GOOD, "Question": LONG + " 気?"}, {**GOOD, "Question": LONG + " Say"})
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 1 +  1?"}, {**GOOD, "Question": f"{LONG} So"})
    return tmp_path


def test_it_shows_what_the_dataset_stage_would_refuse(base: Path, train_python: Path, run_program: Any, rows: Path) -> None:
    found = look(run_program, train_python, rows, {"base": base})
    train = found["parts"]["source"]
    assert (train["read"], train["kept"], train["shape"]) == (6, 3, "columns")
    assert {drop["reason"]: drop["count"] for drop in train["dropped"]} == {"empty answer": 1, "duplicate question": 1, "too long": 1}
    assert train["duplicates"] == {"rows": 1, "examples": [{"place": "train.jsonl:3", "first": "train.jsonl:1"}]}
    assert train["dropped"][0]["examples"][0]["row"]["Question"] == "Cut?"
    assert (found["overlap"]["rows"], found["overlap"]["examples"][0]["place"]) == (1, "holdout.jsonl:1")
    assert found["overlap"]["near"]["rows"] == 1
    (twin,) = train["near_duplicates"]["examples"]
    assert (twin["place"], twin["other_place"]) == ("train.jsonl:6", "train.jsonl:5") and 0.8 <= twin["share"] < 1
    counted = sum(count for _, _, count in train["histogram"])
    assert counted == 4 and sum(count for low, _, count in train["histogram"] if low >= 128) == 1


def test_the_shown_tokens_are_those_that_are_trained_on(base: Path, train_python: Path, run_program: Any, rows: Path) -> None:
    found = look(run_program, train_python, rows, {"base": base})
    write(rows / "holdout.jsonl", {**GOOD, "Question": "Another?"})
    recipe = piece("dataset", dataset={"source": {"path": "train.jsonl"}, "holdout": {"path": "holdout.jsonl"}})
    stage = run_program(train_python, PROGRAMS / "prepare_dataset.py", {"base": base, "recipe_dir": rows}, recipe, rows / "stage")
    shown = [sample for sample in found["samples"] if sample["part"] == "source"]
    trained = lines(stage.output / "train.jsonl")
    assert len(shown) == len(trained) == 3
    code = "import json, sys; from transformers import AutoTokenizer; t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
    code += "print(json.dumps([[t.encode(r[k], add_special_tokens=False) for k in ('prompt', 'completion')] for r in json.load(sys.stdin)]))"
    done = subprocess.run((train_python, "-c", code, base / "model"), input=json.dumps(trained), capture_output=True, text=True, check=True)
    for sample, row, (prompt, completion) in zip(shown, trained, json.loads(done.stdout), strict=True):
        assert "".join(text for text, _ in sample["prompt"]) == row["prompt"]
        assert "".join(text for text, _ in sample["thinking"] + sample["answer"]) == row["completion"]
        assert [token for _, token in sample["prompt"]] == prompt
        assert [token for _, token in sample["thinking"] + sample["answer"]] == completion
        assert sample["thinking"][-1][0] == "</think>" and sample["answer"][-1][0] == "<|im_end|>"


def test_a_folder_with_a_tokenizer_does_in_place_of_the_base(base: Path, train_python: Path, run_program: Any, rows: Path, tmp_path: Path) -> None:
    model = tmp_path / "tokenizer"
    model.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (model / name).write_bytes((base / "model" / name).read_bytes())
    assert look(run_program, train_python, rows, {"model": model, "modelfiles": MODELFILES}) == look(run_program, train_python, rows, {"base": base})


def test_a_file_alone_is_measured_in_characters(train_python: Path, tmp_path: Path) -> None:
    write(tmp_path / "turns.jsonl", *GOLDEN_TURNS)
    found = survey.inspect(tmp_path / "turns.jsonl", survey.Ways("local", tmp_path / "store"))
    part = found["parts"]["source"]
    assert (found["name"], found["unit"], part["shape"], part["kept"]) == ("turns.jsonl", "characters", "messages", 3)
    assert part["reasoning_in"] == {"thinking": 1, "<think>": 1, "nowhere": 1} and part["turns"] == {"1": 2, "2": 1}
    assert "Other hand." in page.html(found) and "I must not be seen again" not in page.html(found)
    assert [path.name for path in (tmp_path / "store" / ".scratch").iterdir()] == []


@pytest.mark.parametrize("name", ["messages-reasoning-content", "openthoughts3", "openr1"])
def test_nested_columns_are_read_from_parquet_as_from_json(name: str, train_python: Path, tmp_path: Path) -> None:
    rows = GOLDEN / f"{name}.jsonl"
    subprocess.run((train_python, "-c", TO_PARQUET, rows, tmp_path / f"{name}.parquet"), check=True)
    ways = survey.Ways("local", tmp_path / "store")
    one, other = survey.inspect(rows, ways), survey.inspect(tmp_path / f"{name}.parquet", ways)
    kept = [{key: sample[key] for key in ("prompt", "thinking", "answer")} for sample in one["samples"]]
    assert kept and [{key: sample[key] for key in ("prompt", "thinking", "answer")} for sample in other["samples"]] == kept
    assert other["parts"]["source"]["first_dropped"].keys() == one["parts"]["source"]["first_dropped"].keys()


def test_the_demo_is_clean(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    recipe = {**piece("dataset"), "family": DEMO.base.family, "samples": 5}
    done = run_program(train_python, PROGRAMS / "inspect_dataset.py", {"recipe_dir": RECIPES, "base": base}, recipe, tmp_path)
    assert done.code == 0, done.log[-2000:] + str(done.events)
    text = page.html({"name": "demo", **json.loads((done.output / "inspection.json").read_text(encoding="utf-8"))})
    assert "Nothing stands out" in text and len(re.findall(r'<pre class="tokens">', text)) == 10
