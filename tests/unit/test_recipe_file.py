from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import recipe_file
from toolkit.errors import InvalidError, UsageError
from toolkit.stages import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yml")), ids=lambda path: path.name)
def test_every_recipe_of_the_repository_is_valid(path):
    assert recipe_file.load(path).name == path.stem


def test_there_is_a_recipe():
    assert (ROOT / "recipes" / "smollm2-demo.yml").is_file()


def faults(text: str) -> list[str]:
    with pytest.raises(InvalidError) as caught:
        recipe_file.parse(text, "x.yml")
    assert caught.value.exit_code == 3 and caught.value.remedy
    return caught.value.message.split("\n       ")


def test_all_faults_are_said_at_once_with_their_places(demo_text):
    text = demo_text.replace("learning_rate: 2.0e-3", "learning_rat: 2.0e-3").replace("steps: 48", "steps: zero").replace("rank: 16", "rank: 0")
    assert faults(text) == [
        "x.yml: train/lora/rank: input should be greater than 0",
        "x.yml: train/steps: input should be a valid integer, unable to parse string as an integer",
        "x.yml: train/learning_rat: unknown key; did you mean learning_rate?",
    ]


def test_a_key_unlike_any_lists_the_known_ones(demo_text):
    (fault,) = faults(demo_text + "\nzzz: 1\n")
    assert fault.startswith("x.yml: zzz: unknown key; known here: name, description, seed, base")


def test_a_misspelt_key_in_a_source_names_the_source_keys(demo_text):
    assert "x.yml: base/source/versoin: unknown key; did you mean version?" in faults(demo_text.replace("version: 0.1.2", "versoin: 0.1.2"))


def test_a_missing_key_is_required(demo_text):
    assert faults(demo_text.replace("name: smollm2-demo\ndesc", "desc")) == ["x.yml: name: is required"]


def test_a_key_given_twice_is_refused(demo_text):
    assert "given twice" in faults(demo_text + "\nseed: 1\n")[0]


def test_broken_yaml_names_the_line():
    assert faults("name: [\n")[0].startswith("x.yml:2: not valid YAML")


def test_a_recipe_that_is_no_mapping():
    assert "a mapping of keys, not list" in faults("- a\n")[0]


def test_the_served_file_must_be_made(demo_text):
    assert "modelfile.gguf is q6_k" in faults(demo_text.replace("gguf: q8_0", "gguf: q6_k"))[0]


def test_a_type_that_does_not_exist_is_told_with_the_nearest(demo_text):
    (fault,) = faults(demo_text.replace("types: [f16, q8_0, q4_k_m]", "types: [f16, q8_0, q4_k_m, Q4_KM]"))
    assert fault.startswith("x.yml: gguf/types/3: input should be 'f16', 'bf16'") and fault.endswith("; did you mean q4_k_m?")


def test_a_type_that_is_garbage_without_an_importance_matrix_is_refused(demo_text):
    poor = demo_text.replace("types: [f16, q8_0, q4_k_m]", "types: [f16, q8_0, q4_k_m, iq2_m]")
    assert "iq2_m: garbage without an importance matrix" in faults(poor)[0]
    assert recipe_file.parse(poor.replace("  rows: 8\n", "  rows: 8\n  imatrix: {rows: 64}\n"), "x.yml").gguf.imatrix.compare


@pytest.mark.parametrize("matrix", ["{}", "{rows: 8, path: x.gguf}"])
def test_an_importance_matrix_has_one_origin(demo_text, matrix):
    text = demo_text.replace("  rows: 8\n", f"  rows: 8\n  imatrix: {matrix}\n")
    assert "gguf/imatrix: state rows, such as 64, or the path of a file that llama-imatrix wrote" in faults(text)[0]


def test_a_task_needs_an_expected_column(demo_text):
    assert "verify.task needs" in faults(demo_text.replace(", expected: Expected", ""))[0]


COLUMNS = "{question: Question, reasoning: Complex_CoT, answer: Response, expected: Expected}"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("{question: Question, expected: Expected}", "x.yml: dataset/columns: reasoning and answer: is missing; name question, reasoning and answer"),
        (f"{COLUMNS}\n  shape: messages", "x.yml: dataset: columns and shape both say how the rows are laid out"),
        ("{expected: Expected}\n  shape: mesages", "x.yml: dataset/shape: input should be 'medical-o1', 'medical-r1', 'openr1'"),
    ],
)
def test_columns_are_named_all_or_none_and_not_beside_a_shape(demo_text, columns, words):
    assert faults(demo_text.replace(COLUMNS, columns))[0].startswith(words)


def test_a_known_shape_needs_no_columns_but_the_expected_one(demo_text):
    dataset = recipe_file.parse(demo_text.replace(COLUMNS, "{expected: Expected}\n  shape: messages"), "x.yml").dataset
    assert (dataset.shape, dataset.columns.question, dataset.columns.expected) == ("messages", None, "Expected")


def test_the_reference_comes_first(demo_text):
    assert "must be f16 or bf16" in faults(demo_text.replace("types: [f16, q8_0, q4_k_m]", "types: [q8_0]"))[0]


def test_unsloth_with_what_it_does_not_do_is_refused_before_anything_is_fetched(demo_text):
    unsloth = demo_text.replace("engine: trl", "engine: unsloth")
    assert "unsloth does not train the rows of added tags" in faults(unsloth)[0]
    several = unsloth.replace("add_tokens: true", "add_tokens: false").replace("engine: unsloth", "engine: unsloth\n  processes: 2")
    assert "unsloth trains in one process" in faults(several)[0]


def test_a_missing_file_names_the_recipes_nearby(tmp_path: Path):
    (tmp_path / "other.yml").write_text("", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        recipe_file.load(tmp_path / "x.yml")
    assert "other.yml" in caught.value.remedy and caught.value.exit_code == 2


def test_a_file_that_is_no_utf8_names_the_byte(tmp_path: Path):
    (tmp_path / "x.yml").write_bytes(b"name: \xff")
    with pytest.raises(InvalidError, match="not UTF-8 at byte 6"):
        recipe_file.load(tmp_path / "x.yml")


def test_a_misspelt_format_is_told_in_one_line_with_all_that_there_are(demo_text):
    found = faults(demo_text.replace("variants: [bnb-nf4, bf16]", "variants: [w4a61, bf16]"))
    (line,) = (fault for fault in found if "variants/0" in fault)
    assert "'bf16', 'bnb-nf4-stored', 'w4a16'" in line and "did you mean w4a16?" in line and "literal[" not in line
