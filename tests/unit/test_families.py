"""Our chat templates against the upstream ones, read from ../shared: equal in what they render, or different only where we say so."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from skips import skip_or_fail

from toolkit import chat_template
from toolkit.chat_template import ChatTemplate
from toolkit.errors import InvalidError
from toolkit.stages import MODELFILES, ROOT

UPSTREAM = ROOT.parent / "shared" / "chat-templates"
FAMILIES = sorted(path.name.removesuffix(".chat.jinja") for path in MODELFILES.glob("*.chat.jinja"))
THOUGHT = "<think>\nwhy\n</think>\n\nbecause"
TEXTS = (
    "hi",
    "",
    "  lead",
    "trail \n",
    "{{ x }} {% y %}",
    "你好\u3000世界",
    THOUGHT,
    "</think>",
    "\n\nx",
    "a</think>b</think>\n\nc",
    "<tool_response>x</tool_response>",
)
TOOL = {
    "type": "function",
    "function": {"name": "get", "description": "d é <>&'", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Compile each template once instead of for every conversation."""
    environment = chat_template._environment()
    environment.from_string = functools.cache(environment.from_string)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template, "_environment", lambda: environment)
        yield


def ours(family: str) -> ChatTemplate:
    return ChatTemplate((MODELFILES / f"{family}.chat.jinja").read_text(encoding="utf-8"), {"bos_token": "<｜begin▁of▁sentence｜>"})


def upstream(name: str) -> ChatTemplate:
    path = UPSTREAM / f"{name}.jinja"
    if not path.is_file():
        skip_or_fail(f"the upstream templates are not at {UPSTREAM}")
    return ChatTemplate(path.read_text(encoding="utf-8"), {"bos_token": "<｜begin▁of▁sentence｜>"})


def talks(count: int, roles: tuple[str, ...]) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Yield seeded random conversations with the variables they are rendered with: any order of roles, tags and braces in any place, tool calls."""
    pick = random.Random(3407)
    for _ in range(count):
        talk = [{"role": pick.choice(roles), "content": pick.choice(TEXTS)} for _ in range(pick.randint(1, 6))]
        for turn in talk:
            if turn["role"] == "assistant" and "tool" in roles and pick.random() < 0.4:
                call = {"name": "get", "arguments": pick.choice([{"a": "é<"}, {}, '{"a": 1}'])}
                turn["tool_calls"] = [pick.choice([call, {"type": "function", "function": call}]) for _ in range(pick.randint(0, 2))]
            if turn["role"] == "assistant" and pick.random() < 0.2:
                turn["reasoning_content"] = pick.choice(["why", "", None, "\nx\n"])
        variables: dict[str, Any] = {"add_generation_prompt": pick.random() < 0.5}
        if "tool" in roles and pick.random() < 0.4:
            variables["tools"] = pick.choice([[TOOL], [TOOL, TOOL], []])
        if pick.random() < 0.2:
            variables["enable_thinking"] = pick.random() < 0.5
        yield talk, variables


def test_all_four_families_are_there():
    assert FAMILIES == ["chatml", "deepseek-r1-distill", "qwen3", "qwq"]


@pytest.mark.parametrize(("family", "name"), [("qwq", "qwq_32b_3"), ("qwen3", "qwen3_0.6b_1")])
def test_equal_to_upstream_on_every_conversation(family, name):
    mine, theirs = ours(family), upstream(name)
    for talk, variables in talks(500, ("system", "user", "assistant", "assistant", "tool", "user")):
        assert mine.render(talk, **variables) == theirs.render(talk, **variables), talk


def test_r1_distill_differs_from_upstream_in_the_opened_think_and_the_kept_last_reasoning_only():
    mine, theirs = ours("deepseek-r1-distill"), upstream("deepseek-r1_8b_1")
    for talk, variables in talks(500, ("system", "user", "assistant", "user")):
        last = talk[-1]
        cut = [*talk[:-1], {**last, "content": last["content"].split("</think>")[-1]}] if last["role"] == "assistant" else talk
        wanted = theirs.render(talk, **variables) + ("<think>\n" if variables["add_generation_prompt"] else "")
        assert mine.render(cut, **variables) == wanted, talk
    assert mine.render([{"role": "assistant", "content": THOUGHT}], False).endswith(f"<｜Assistant｜>{THOUGHT}<｜end▁of▁sentence｜>")


def test_r1_distill_refuses_tools_and_does_not_speak_of_them():
    with pytest.raises(InvalidError, match="know the roles"):
        ours("deepseek-r1-distill").render([{"role": "tool", "content": "x"}])
    # Ollama takes the word, even in a comment, for the ability, and then prefers this template to the Modelfile's (server/images.go)
    assert "tool" not in ours("deepseek-r1-distill").source


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_learnt_begins_with_what_is_asked(family):
    """The training text of a conversation is its prompt and a completion, the reasoning in it: no template may cut or move it."""
    question, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": THOUGHT}
    prompt, text = ours(family).render([question]), ours(family).render([question, answer], False)
    assert text.startswith(prompt)
    assert text.removeprefix(prompt).startswith(THOUGHT.removeprefix("<think>\n") if prompt.endswith("<think>\n") else THOUGHT)


@pytest.mark.parametrize("family", FAMILIES)
def test_reasoning_of_earlier_turns_is_not_sent_again(family):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": THOUGHT}, {"role": "user", "content": "b"}]
    text = ours(family).render(talk)
    assert "why" not in text and "because" in text


@pytest.mark.parametrize(("family", "opened"), [("qwq", True), ("deepseek-r1-distill", True), ("qwen3", False), ("chatml", False)])
def test_who_opens_the_reasoning(family, opened):
    assert ours(family).render([{"role": "user", "content": "a"}]).endswith("<think>\n") is opened


def test_chatml_says_every_turn_in_the_same_words():
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert ours("chatml").render(turns, False) == "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    thinking = [{"role": "assistant", "content": "because", "reasoning_content": "why"}]
    assert ours("chatml").render(thinking, False) == f"<|im_start|>assistant\n{THOUGHT}<|im_end|>\n"


@pytest.mark.parametrize("ending", ["chat.jinja", "gotmpl"])
@pytest.mark.parametrize("family", FAMILIES)
def test_templates_are_text_that_a_modelfile_can_hold(family, ending):
    path = Path(MODELFILES / f"{family}.{ending}")
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") and '"""' not in text and "\r" not in text
