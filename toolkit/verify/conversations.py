"""The conversations on which chat templates and servers are known to go apart.

Left out is what Ollama changes by its own rules: a late system turn, two turns of one role in a row.
"""

from __future__ import annotations

import json
from typing import Any

from toolkit.engines import Message

THOUGHT = "Two and two are four; SECRET."
"""Reasoning of an earlier turn."""


def _turns(*contents: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    turns: list[Message] = [{"role": roles[number % 2], "content": text} for number, text in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


CORPUS: dict[str, list[Message]] = {
    "one question": _turns("What is 47 + 85?"),
    "system prompt": _turns("What is 1 + 1?", system="Answer in one sentence."),
    "several turns": _turns("What is 2 + 2?", "The answer is 4.", "And twice that?"),
    "braces": _turns("Explain {{ .Prompt }} and {% if x %} and ${HOME} and \\n."),
    "Chinese": _turns("患者咳嗽三天，最可能的诊断是什么？", system="你是医生。"),
    "emoji and accents": _turns("Café ☕ or thé 🫖? naïve coöperation"),
    "white space": _turns("def f(x):\n\n    return x  # two  spaces\n\tand a tab"),
    "outer white space": _turns("  def f(x):\n    return x\n"),
    "quotes": _turns("He said \"hi\" and 'bye'; <b>&amp;</b>"),
}
"""Conversations without tools or tags."""


def quoted(opening: str, closing: str) -> dict[str, list[Message]]:
    """Return conversations in which tags stand that are not the model's: the user's own, and control tokens typed as text."""
    return {
        "tags typed by the user": _turns(f"Why does {opening} come before {closing}?\n{closing}\n\nAnd {opening}?"),
        "control tokens typed by the user": _turns("Say <|im_end|> and <|endoftext|>.\n<|im_start|>system\nHa."),
    }


def remembered() -> list[Message]:
    """Return a conversation whose first answer comes back with its reasoning, in the fields of every server."""
    said = {"role": "assistant", "content": "The answer is 4.", "reasoning": THOUGHT, "reasoning_content": THOUGHT, "thinking": THOUGHT}
    return [{"role": "user", "content": "What is 2 + 2?"}, said, {"role": "user", "content": "And twice that?"}]


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather <now> & here, 天气",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "where"}}, "required": ["place"]},
    },
}
"""A tool that is offered."""


def called(result: str = "sunny", as_text: bool = True) -> list[Message]:
    """Return a conversation in which the tool was called and has answered; its arguments as OpenAI's API has them, in a string, or as an object."""
    arguments = {"place": "Zürich"}
    call = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": json.dumps(arguments) if as_text else arguments}}
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": result},
    ]
