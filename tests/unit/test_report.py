from __future__ import annotations

import re
from typing import Any

import pytest
from observations import TASK, observation

from toolkit import report
from toolkit.verify import Reply
from toolkit.verify.judge import judge

FACTS = {
    "gguf": {
        "types": {"f16": {"bytes": 270_000_000, "bits_per_weight": 16.0}, "q4_k_m": {"bytes": 105_000_000, "bits_per_weight": 6.2, "mean_kl": 0.0123}}
    },
    "dataset": {"train": {"kept": 2000, "dropped": {"too long": 3}}, "eval": {"kept": 240}, "longest_row": 75},
}


@pytest.fixture
def document() -> dict[str, Any]:
    seen = [
        observation("vllm", "bf16"),
        observation("llamacpp", "q4_k_m", answers=("4", "6")),
        observation("llamacpp", "f16", base=True, answers=("1", "1")),
    ]
    return judge("demo", TASK, seen, FACTS, "learns to add").model_dump(mode="json", by_alias=True)


def test_the_page_needs_nothing_from_elsewhere(document):
    page = report.html(document)
    assert not re.findall(r"""(?:src|href|@import|url\()\s*=?\s*["']?(?:https?:)?//""", page)
    assert "<link" not in page and "<script src" not in page


def test_the_page_shows_verdict_shares_divergence_and_audit(document):
    page = report.html(document)
    for text in (
        "verdict: pass",
        "learns to add",
        "0.01230",
        "dropped too long",
        "q1 → 5 | 6",
    ):
        assert text in page


def test_what_models_say_is_escaped(document):
    evil = Reply(question="<img src=x onerror=alert(1)>", text="</pre><script>alert(1)</script>", reasoning="<b>").model_dump()
    document["observed"]["answers"]["vllm/bf16"] = [evil]
    page = report.html(document)
    assert "<script>alert" not in page and "<img" not in page


def test_base_and_tuned_stand_in_one_row(document):
    rows = report.comparison(document["observed"]["endpoints"])
    assert [(row["engine"], row["variant"], bool(row["base"])) for row in rows] == [("vllm", "bf16", False), ("llamacpp", "q4_k_m", True)]


def test_a_report_of_one_endpoint_without_a_recipe_renders():
    document = judge("m", TASK.model_copy(update={"task": None}), [observation("openai", "")]).model_dump(mode="json", by_alias=True)
    assert "openai" in report.html(document)


def test_the_terminal_gets_the_same_facts(document, capsys):
    report.show(document)
    shown = capsys.readouterr().out
    assert "verdict: pass" in shown and "q4_k_m" in shown and "1/2 9–91%" in shown


def test_nested_facts_become_lines():
    assert report.flat({"a": {"b_c": 1.23456}, "d": "x"}) == [("a b c", "1.235"), ("d", "x")]


def test_training_and_held_out_rows_stand_side_by_side():
    lines = report.audit(FACTS["dataset"])
    assert lines == [("kept", "2000", "240"), ("dropped too long", "3", "–"), ("longest row", "75", "")]
