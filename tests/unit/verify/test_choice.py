from __future__ import annotations

import pytest

from toolkit.assessment import Task
from toolkit.verify.task import choice, is_right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(c)", "C"),
        ("The answer is **D**.", "D"),
        ("A is wrong, B too, so it is C", "C"),
        ("Answer: E. Influenza", "E"),
        ("B.The virus", "B"),
        ("A/B? No: A", "A"),
        ("option a", "A"),
        ("a) influenza", "A"),
        ("B, because it is a virus", "B"),
        ("B, as I'd say, or as you’d say", "B"),
        ("C (see the e-mail, e.g. there)", "C"),
        ("B-cells are meant: D", "D"),
        ("答案是B。", "B"),
        ("答案是（Ｃ）", "C"),
        ("Vitamin B12", None),
        ("F", None),
        ("élan dé 3D x_a", None),
        ("", None),
    ],
)
def test_the_last_letter_that_stands_alone_is_the_choice(text, letter):
    assert choice(text) == letter


@pytest.mark.parametrize(
    ("text", "expected", "right"),
    [("The answer is b.", "B", True), ("B", "(b)", True), ("First B, then C", "B", False), ("none", "B", False), ("none", "42", False)],
)
def test_an_answer_is_marked_by_its_choice(text, expected, right):
    assert is_right(Task(metric="choice", at_least=1), text, expected) is right
