"""The shapes of chain-of-thought data: hand-made rows of each, read into the normal form beside them."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

from toolkit.shapes import Shape
from toolkit.stages import IMAGES, ROOT

GOLDEN = ROOT / "tests" / "golden" / "datasets"
NAMES = sorted(path.name.removesuffix(".jsonl") for path in GOLDEN.glob("*.jsonl") if not path.name.endswith(".normal.jsonl"))
FOUND = {
    "bespoke-stratos": "conversations",
    "medical-o1-korean": "medical-o1",
    "messages-inline": "messages",
    "messages-reasoning-content": "messages",
    "messages-thinking": "messages",
    "numinamath": "messages",
    "openthoughts": "conversations",
    "openthoughts3": "conversations",
}
"""Data -> its shape, where that is not its name."""


@pytest.fixture(scope="module")
def room() -> Iterator[SimpleNamespace]:
    """The training room's modules that need the standard library alone."""
    sys.path.insert(0, str(IMAGES / "train"))
    names = ("audit", "conversation", "duplicates", "form", "program", "rows", "shapes")
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(IMAGES / "train"))
        for name in names:
            sys.modules.pop(name, None)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def normal(room, shape, values):
    try:
        return shape.normal(values).plain()
    except room.conversation.RefusedError as reason:
        return {"refused": str(reason)}


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_recognised_and_read_into_their_normal_form(room, name):
    rows = lines(GOLDEN / f"{name}.jsonl")
    found = room.rows.columns_of([room.rows.Row("x", row) for row in rows])
    shape = room.shapes.detect(found, "dataset.source")
    assert shape.name == FOUND.get(name, name)
    assert [normal(room, shape, row) for row in rows] == lines(GOLDEN / f"{name}.normal.jsonl")


def test_every_shape_has_rows_and_is_a_choice_of_the_recipe(room):
    assert len(NAMES) >= 20
    assert {FOUND.get(name, name) for name in NAMES} == {shape.name for shape in room.shapes.SHAPES} == set(get_args(Shape))
    assert [shape.name for shape in room.shapes.SHAPES] == list(get_args(Shape))


def test_every_shape_is_documented(room):
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert [shape.name for shape in room.shapes.SHAPES if f"| `{shape.name}` |" not in text] == []


def test_an_unknown_shape_tells_what_is_there_and_what_is_known(room):
    with pytest.raises(room.program.ProgramError) as caught:
        room.shapes.detect(["Frage", "Antwort"], "dataset.source")
    assert caught.value.code == 3 and "dataset.columns" in caught.value.remedy
    assert "columns found: 'Frage', 'Antwort'" in str(caught.value)
    assert "medical-o1 (question, complex_cot, response); " in str(caught.value)


def test_columns_of_two_shapes_are_refused_with_both_names(room):
    with pytest.raises(room.program.ProgramError) as caught:
        room.shapes.detect(["prompt", "completion", "messages"], "dataset.source")
    assert caught.value.code == 3 and caught.value.remedy.endswith("dataset.shape: messages or prompt-completion")


def test_the_shape_with_more_of_the_columns_is_meant(room):
    assert room.shapes.detect(["instruction", "input", "output"], "x").name == "alpaca"
    assert room.shapes.detect(["problem", "solution", "messages", "generations", "generated_solution"], "x").name == "openr1"


def test_a_stated_shape_needs_its_columns(room):
    assert room.shapes.named("messages", ["prompt", "completion", "Messages"], "x").name == "messages"
    with pytest.raises(room.program.ProgramError, match="no column 'messages'"):
        room.shapes.named("messages", ["prompt", "completion"], "dataset.source")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>a", "unclosed tag"),
        ("a</think>b</think>c", "unclosed tag"),
        ("<think>a</think><think>b</think>c", "doubled tag"),
        ("a</think>b<think>", "unclosed tag"),
        ("x<think>a</think>b", "text before the reasoning"),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>b", "unclosed tag"),
        ("<|begin_of_thought|>a<|end_of_thought|>" + "<|begin_of_solution|>b<|end_of_solution|>" * 2, "doubled tag"),
    ],
)
def test_broken_tags_are_refused_with_their_reason(room, text, reason):
    with pytest.raises(room.conversation.RefusedError, match=reason):
        room.conversation.inline("q", text)


def test_a_list_in_a_cell_of_csv_is_read(room):
    cell = json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}])
    assert room.conversation.of_turns(cell).answer.reasoning == "b"
    with pytest.raises(room.conversation.RefusedError, match="broken JSON in a cell"):
        room.conversation.of_turns(cell[:-1])


def mutated(chance: random.Random, words: list[str]) -> str:
    """Return a text with up to seven words appended or up to three replaced."""
    changed = [*words, *(f"n{chance.randrange(200)}" for _ in range(chance.choice((0, 0, 3, 5, 7))))]
    for _ in range(chance.randrange(4) if len(changed) == len(words) else 0):
        changed[chance.randrange(len(changed))] = f"n{chance.randrange(200)}"
    return " ".join(changed)


def test_near_duplicates_are_those_that_brute_force_finds(room):
    chance = random.Random(3407)
    bases = [[f"w{chance.randrange(400)}" for _ in range(chance.randrange(5, 40))] for _ in range(60)]
    texts = [mutated(chance, base) for base in bases for _ in range(6)]
    sets = [room.duplicates.shingles(text) for text in texts]
    near = [[other for other in range(one) if room.duplicates._share(sets[one], sets[other]) >= 0.8] for one in range(len(texts))]
    wanted = [(one, others[0]) for one, others in enumerate(near) if others]
    assert [(pair.one, pair.other) for pair in room.duplicates.near(texts)] == wanted and 50 < len(wanted) < 300


def test_near_overlap_is_found_between_two_lists(room):
    known = ["Why does the sea taste of salt when the rivers that feed it do not?", "What is 2 + 2?"]
    asked = ["What is 2 + 3?", "Why does the sea taste of salt when the rivers that feed it do not"]
    (pair,) = room.duplicates.near(asked, known)
    assert (pair.one, pair.other) == (1, 0) and pair.share > 0.9


def test_chinese_is_compared_by_characters(room):
    one, other = "为什么海水是咸的而流入海里的河水却不是咸的呢", "为什么海水是咸的而流入海里的河水却不是咸的啊"
    assert [pair.share > 0.8 for pair in room.duplicates.near([one, other])] == [True]


@pytest.mark.parametrize("limit", [None, 90, 128, 700])
def test_no_bin_of_a_histogram_holds_both_sides_of_the_limit(room, limit):
    lengths = [3, 10, 10, 90, 91, 128, 129, 400]
    bins = room.audit.histogram(lengths, limit)
    assert len(bins) <= 33 and [low for low, _, _ in bins][1:] == [high for _, high, _ in bins][:-1]
    assert [sum(low < length <= high for length in lengths) for low, high, _ in bins] == [count for _, _, count in bins]
    assert limit is None or not any(low < limit < high for low, high, _ in bins)
    assert room.audit.histogram([], limit) == []
