from __future__ import annotations

import pytest

from toolkit.errors import InvalidError, UsageError
from toolkit.making import Item, questions


def test_json_lines_and_csv_give_the_same_questions(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"Question": " 1 + 1 ", "Expected": 2, "x": 0}\n\n{"question": "Why\u2028so?"}\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text('QUESTION,expected\n1 + 1,2\n"Why\u2028so?",\n', encoding="utf-8")
    wanted = (Item("1 + 1", "2"), Item("Why\u2028so?"))
    assert questions.read(tmp_path / "a.jsonl") == wanted == questions.read(tmp_path / "b.csv")


def test_a_question_that_stands_twice_is_asked_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "a"}\n{"question": "b"}\n{"question": "a "}\n', encoding="utf-8")
    assert [item.text for item in questions.read(tmp_path / "a.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"question": "a"}\n{"question"\n', "a.jsonl:2: broken JSON"),
        ("a.jsonl", '["a"]\n', "a.jsonl:1: list where an object"),
        ("a.jsonl", '{"problem": "a"}\n', "a.jsonl:1: no question (columns found: 'problem')"),
        ("a.jsonl", '{"question": ["a"]}\n', "no question"),
        ("a.jsonl", '{"question": "a", "expected": "1"}\n{"question": "a", "expected": "2"}\n', "a.jsonl:2: 'a' stands there twice"),
        ("a.jsonl", "\n", "no question in it"),
        ("a.csv", "question\na,b\n", "a.csv:2: broken CSV: more cells"),
        ("a.csv", "frage\na\n", "a.csv:2: no question (columns found: 'frage')"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidError) as problem:
        questions.read(tmp_path / name)
    assert said in problem.value.message and problem.value.remedy


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "caf\xe9"}')
    with pytest.raises(InvalidError, match="not UTF-8 at byte 17"):
        questions.read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(("name", "said"), [("none.jsonl", "No such file"), ("a.txt", "known by this ending")])
def test_a_file_that_cannot_be_read_is_a_wrong_command(tmp_path, name, said):
    with pytest.raises(UsageError, match=said):
        questions.read(tmp_path / name)
