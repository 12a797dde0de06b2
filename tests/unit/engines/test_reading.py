from __future__ import annotations

import pytest

from toolkit.engines import NAMES, Pieces, engine
from toolkit.errors import UsageError
from toolkit.recipe import Think

THINK = Think()


@pytest.mark.parametrize(
    ("name", "message", "pieces"),
    [
        ("vllm", {"content": "4", "reasoning": "R"}, ("R", "4", "reasoning")),
        ("vllm", {"content": None, "reasoning": "cut"}, ("cut", "", "reasoning")),
        ("ollama", {"content": "4", "reasoning": "R"}, ("R", "4", "reasoning")),
        ("ollama", {"content": "4", "thinking": "R"}, ("R", "4", "thinking")),
        ("llamacpp", {"content": "4", "reasoning_content": "R"}, ("R", "4", "reasoning_content")),
        ("transformers", {"content": "4", "reasoning_content": "R"}, ("R", "4", "reasoning_content")),
        ("llamacpp", {"content": "R\n</think>\n\n4"}, ("R\n", "\n\n4", "inline")),
        ("vllm", {"content": "<think>\nR</think>4"}, ("\nR", "4", "inline")),
        ("openai", {"content": "<think>never ends"}, ("never ends", "", "inline")),
        ("openai", {"content": "4"}, ("", "4", None)),
        ("openai", {"content": "4", "reasoning_content": ""}, ("", "4", None)),
    ],
)
def test_each_engine_reads_its_own_field(name, message, pieces):
    found = engine(name).read(message, THINK)
    assert (found.reasoning, found.text, found.where) == pieces


def test_another_servers_field_is_read_and_named():
    assert engine("vllm").read({"content": "4", "reasoning_content": "R"}, THINK) == Pieces("R", "4", "reasoning_content")
    assert engine("vllm").read({"content": "4", "reasoning": "mine", "reasoning_content": "R"}, THINK).where == "reasoning"


def test_every_engine_is_found_by_its_name():
    assert [engine(name).name for name in NAMES] == list(NAMES)


def test_a_misspelt_engine_gets_a_hint():
    with pytest.raises(UsageError, match="'lamacpp'") as problem:
        engine("lamacpp")
    assert problem.value.remedy == "did you mean llamacpp?"
