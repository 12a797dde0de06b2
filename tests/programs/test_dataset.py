"""The dataset stage: what it keeps, what it counts, what it refuses and where it points."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from training import MODELFILES, PROGRAMS, RECIPES, piece

GOOD = {"Question": "What is 1 + 1?", "Complex_CoT": "One and one make two.", "Response": "2", "Expected": "2"}


@pytest.fixture(scope="module")
def rows() -> Any:
    """The reader alone: it needs nothing but the standard library."""
    sys.path.insert(0, str(PROGRAMS))
    yield importlib.import_module("rows")
    sys.path.remove(str(PROGRAMS))


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_prompt_and_completion_make_up_the_conversation(dataset: Path) -> None:
    row = lines(dataset / "train.jsonl")[0]
    assert row["prompt"].startswith("<|im_start|>user\n")
    assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")
    reasoning, answer = row["completion"].split("\n</think>\n\n")
    assert reasoning.startswith("Tens: ")
    assert answer.endswith("<|im_end|>")


def test_every_held_out_row_is_there_with_its_expected_answer(dataset: Path) -> None:
    held_out = lines(RECIPES / "data" / "sums-holdout.jsonl")
    assert [(row["question"], row["expected"]) for row in lines(dataset / "eval.jsonl")] == [(row["Question"], row["Expected"]) for row in held_out]


def test_the_audit_counts_tokens(dataset: Path) -> None:
    stats = json.loads((dataset / "stats.json").read_text())
    train = stats["train"]
    assert train["read"] == train["kept"] == len(lines(dataset / "train.jsonl")) >= 2000
    assert 0.5 < train["thinking_share"] < 1
    tokens = train["tokens"]
    assert tokens["p50"] <= tokens["p90"] <= tokens["p99"] <= tokens["max"] <= tokens["max_length"]
    assert stats["longest_row"] == max(tokens["max"], stats["eval"]["tokens"]["max"])


BAD = [
    ({"Complex_CoT": None}, "missing value"),
    ({"Complex_CoT": "  \n"}, "empty reasoning"),
    ({"Response": ""}, "empty answer"),
    ({"Complex_CoT": "<think>and so on"}, "unclosed tag"),
    ({"Response": "2</think>"}, "unclosed tag"),
    ({"Complex_CoT": "<think>a</think><think>b</think>"}, "doubled tag"),
    ({"Complex_CoT": "<think>a</think>"}, "tag inside a text"),
    ({"Response": "2<|im_end|>"}, "control token inside a text"),
    ({"Question": "what is  1 + 1?"}, "duplicate question"),
    ({"Complex_CoT": "word " * 200}, "too long"),
]


def test_bad_rows_are_dropped_and_counted_and_long_ones_never_cut(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    bad = [{**GOOD, "Question": f"Question {number}?", **change} for number, (change, _) in enumerate(BAD)]
    write(tmp_path / "train.jsonl", {"QUESTION": "x"} | GOOD, *bad)
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 2 + 2?"})
    done = run(run_program, train_python, base, tmp_path)
    assert done.code == 0, done.log[-2000:]
    train = json.loads((done.output / "stats.json").read_text())["train"]
    assert train["read"] == len(BAD) + 1
    assert train["kept"] == 1
    reasons = [reason for _, reason in BAD]
    assert train["dropped"] == {reason: reasons.count(reason) for reason in reasons}
    assert train["first_dropped"]["empty answer"] == "train.jsonl:4"
    assert "2 unclosed tag" in next(event["text"] for event in done.events if event["event"] == "note")


def run(run_program: Any, python: Path, base: Path, folder: Path, **changes: Any) -> Any:
    data = {"source": {"path": "train.jsonl"}, "holdout": {"path": "holdout.jsonl"}, **changes}
    inputs = {"base": base, "recipe_dir": folder}
    return run_program(python, PROGRAMS / "prepare_dataset.py", inputs, piece("dataset", dataset=data), folder / "run")


TO_PARQUET = """
import json, sys
import pyarrow, pyarrow.parquet
rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sys.argv[2])
"""


def test_takes_parquet_and_only_the_first_rows_up_to_the_limit(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {**GOOD, "Response": ""}, *({**GOOD, "Question": f"Question {number}?"} for number in range(5)))
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 2 + 2?"})
    subprocess.run((train_python, "-c", TO_PARQUET, tmp_path / "train.jsonl", tmp_path / "train.parquet"), check=True)
    done = run(run_program, train_python, base, tmp_path, source={"path": "train.parquet"}, limit=3)
    assert done.code == 0, done.log[-2000:] + str(done.events)
    assert [row["prompt"].partition("user\n")[2].partition("<|im_end|>")[0] for row in lines(done.output / "train.jsonl")] == [
        "Question 0?",
        "Question 1?",
        "Question 2?",
    ]
    stats = json.loads((done.output / "stats.json").read_text())["train"]
    assert (stats["read"], stats["kept"], stats["first_dropped"]["empty answer"]) == (6, 3, "train.parquet:1")


def test_refuses_a_held_out_question_that_is_trained_on(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "WHAT is 1 + 1?"})
    done = run(run_program, train_python, base, tmp_path)
    assert done.code == 3
    assert "1 of 1 held-out questions are trained on" in done.error["message"]
    assert not list(done.output.iterdir())


def test_refuses_data_of_which_nothing_is_left(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {**GOOD, "Response": ""})
    write(tmp_path / "holdout.jsonl", GOOD)
    done = run(run_program, train_python, base, tmp_path)
    assert done.code == 3
    assert "none of 1 rows is left (1 empty answer, first train.jsonl:1)" in done.error["message"]


def other_template(base: Path, folder: Path, template: str) -> Path:
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def test_writes_the_opening_tag_where_the_template_does_not(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 2 + 2?"})
    plain = other_template(base, tmp_path / "base", (MODELFILES / "qwen3.chat.jinja").read_text(encoding="utf-8"))
    done = run(run_program, train_python, plain, tmp_path)
    assert done.code == 0, done.log[-2000:] + str(done.events)
    row = lines(done.output / "train.jsonl")[0]
    assert row["prompt"].endswith("<|im_start|>assistant\n")
    assert row["completion"] == "<think>\nOne and one make two.\n</think>\n\n2<|im_end|>"


def test_refuses_a_template_whose_turn_end_does_not_stop_the_model(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 2 + 2?"})
    odd = "{% for message in messages %}[{{ message.role }}]{{ message.content }}[end]{% endfor %}"
    done = run(run_program, train_python, other_template(base, tmp_path / "base", odd), tmp_path)
    assert done.code == 6, done.log[-2000:]
    assert "ends a turn with '[end]'" in done.error["message"]


def test_reads_every_format_alike(rows: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD]))
    write(tmp_path / "a.jsonl", GOOD)
    (tmp_path / "a.csv").write_text(",".join(GOOD) + "\n" + ",".join(GOOD.values()) + "\n")
    for name in ("a.json", "a.jsonl", "a.csv"):
        assert [row.values for row in rows.read({"path": name}, tmp_path, "dataset.source")] == [GOOD]
    assert len(rows.read({"path": "."}, tmp_path, "dataset.source")) == 3


def test_a_line_separator_inside_a_string_ends_no_line(rows: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", json.dumps({**GOOD, "Response": "a\u2028b"}, ensure_ascii=False))
    assert rows.read({"path": "a.jsonl"}, tmp_path, "dataset.source")[0].values["Response"] == "a\u2028b"


REFUSED = {
    "broken JSON": (b'{"Question": "x"}\n{"Question": \n', "a.jsonl:2: broken JSON"),
    "no object": (b'{"Question": "x"}\n[1]\n', "a.jsonl:2: list where an object"),
    "no UTF-8": (b'{"Question": "x"}\n{"Question": "caf' + b'\xe9"}\n', "not UTF-8: byte 0xe9 at offset 35, line 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_points_at_the_place_of_a_broken_file(case: str, rows: ModuleType, tmp_path: Path) -> None:
    content, words = REFUSED[case]
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(Exception, match=words) as caught:
        rows.read({"path": "a.jsonl"}, tmp_path, "dataset.source")
    assert caught.value.code == 3  # type: ignore[attr-defined]
    assert caught.value.remedy  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["none.jsonl", "a.docx"])
def test_refuses_what_is_no_data_file(name: str, rows: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.docx").touch()
    with pytest.raises(Exception, match=name):
        rows.read({"path": name}, tmp_path, "dataset.source")


def test_names_every_missing_column_and_what_may_have_been_meant(rows: ModuleType) -> None:
    found = [rows.Row("a.jsonl:1", {"question": "x", "Complex_Cot": "y", "Answer": "z"})]
    wanted = {"question": "Question", "reasoning": "Complex_CoT", "answer": "Answers", "expected": "Sum"}
    with pytest.raises(Exception, match="no column 'Answers'; did you mean 'Answer'") as caught:
        rows.match_columns(wanted, found, "dataset.source")
    assert "dataset.columns.expected: no column 'Sum'" in str(caught.value)
    assert "'question', 'Complex_Cot', 'Answer'" in str(caught.value)


def test_columns_match_without_regard_to_case(rows: ModuleType) -> None:
    found = [rows.Row("a.jsonl:1", {"question": "x", "Complex_Cot": "y"})]
    assert rows.match_columns({"question": "Question", "reasoning": "Complex_CoT", "expected": None}, found, "dataset.source") == {
        "question": "question",
        "reasoning": "Complex_Cot",
    }


def test_rows_of_a_known_shape_need_no_columns(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *GOLDEN_TURNS)
    write(tmp_path / "holdout.jsonl", {"Problem": "What is 2 + 2?", "generated_solution": "<think>\nTwo and two.\n</think>\n\n4", "Sum": 4})
    done = run(run_program, train_python, base, tmp_path, columns={**NO_COLUMNS, "expected": "sum"})
    assert done.code == 0, done.log[-2000:] + str(done.events)
    stats = json.loads((done.output / "stats.json").read_text())
    assert (stats["train"]["shape"], stats["eval"]["shape"]) == ("messages", "openmath")
    assert stats["train"]["dropped"] == {"no reasoning": 1} and stats["train"]["reasoning_in"] == {"thinking": 1, "<think>": 1}
    first, second = lines(done.output / "train.jsonl")
    assert first["prompt"] == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nUp?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert first["completion"] == "Other way.\n</think>\n\nDown.<|im_end|>"
    earlier = "<|im_start|>user\nIn?<|im_end|>\n<|im_start|>assistant\nOut.<|im_end|>\n"
    assert second["prompt"] == f"{earlier}<|im_start|>user\nLeft?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert second["completion"] == "Other hand.\n</think>\n\nRight.<|im_end|>"
    assert lines(done.output / "eval.jsonl")[0]["expected"] == "4"


NO_COLUMNS = {"question": None, "reasoning": None, "answer": None, "expected": None}
GOLDEN_TURNS = (
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Up?"},
            {"role": "assistant", "content": "Down.", "thinking": "Other way."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "In?"},
            {"role": "assistant", "content": "<think>I must not be seen again.</think>Out."},
            {"role": "user", "content": "Left?"},
            {"role": "assistant", "content": "<think>\nOther hand.\n</think>\n\nRight."},
        ]
    },
    {"messages": [{"role": "user", "content": "East?"}, {"role": "assistant", "content": "West."}]},
)


def test_rows_without_reasoning_are_kept_where_the_recipe_allows_it(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOLDEN_TURNS[2])
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": "What is 2 + 2?"})
    refused = run(run_program, train_python, base, tmp_path, columns={**NO_COLUMNS, "expected": "Expected"})
    assert refused.code == 3 and "none of 1 rows is left (1 no reasoning" in refused.error["message"]
    assert "dataset.columns" in refused.error["remedy"] and "allow_no_reasoning" in refused.error["remedy"]
    done = run(run_program, train_python, base, tmp_path, columns={**NO_COLUMNS, "expected": "Expected"}, allow_no_reasoning=True)
    assert done.code == 0, done.log[-2000:] + str(done.events)
    assert lines(done.output / "train.jsonl")[0]["completion"] == "\n</think>\n\nWest.<|im_end|>"


def test_a_held_out_row_of_several_turns_is_dropped(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "holdout.jsonl", *GOLDEN_TURNS[:2])
    done = run(run_program, train_python, base, tmp_path, columns=NO_COLUMNS)
    assert done.code == 3 and "(2 held-out row of more than one question" in done.error["message"]


LONG = "Why does the sea taste of salt when the rivers that feed it do not?"


def test_near_duplicates_and_near_overlap_are_told(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {**GOOD, "Question": LONG}, {**GOOD, "Question": LONG[:-1]}, GOOD)
    write(tmp_path / "holdout.jsonl", {**GOOD, "Question": f"So {LONG}"})
    done = run(run_program, train_python, base, tmp_path)
    assert done.code == 0, done.log[-2000:] + str(done.events)
    stats = json.loads((done.output / "stats.json").read_text())
    assert stats["near_duplicates"] == {"rows": 1, "first": ["train.jsonl:2 ~ train.jsonl:1"]}
    assert stats["near_overlap"] == {"rows": 1, "first": ["holdout.jsonl:1 ~ train.jsonl:1"]}
    assert any(event["text"].startswith("1 held-out questions are nearly trained on") for event in done.events if event["event"] == "note")


def test_an_unknown_shape_is_refused(base: Path, train_python: Path, run_program: Any, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"Frage": "1 + 1?", "Antwort": "2"})
    write(tmp_path / "holdout.jsonl", GOOD)
    done = run(run_program, train_python, base, tmp_path, columns=NO_COLUMNS)
    assert done.code == 3 and "columns found: 'Frage', 'Antwort'" in done.error["message"]
    assert not list(done.output.iterdir())
