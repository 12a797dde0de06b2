"""Where servers put the reasoning: four spellings of a field, or tags inside the content; this module is the one that knows."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.engines import Message, Pieces
from toolkit.recipe import Think

FIELDS = ("reasoning", "reasoning_content", "thinking")
"""vLLM and Ollama's /v1; llama-server and transformers; Ollama's own API."""


def take_apart(message: Message, think: Think, fields: Iterable[str] = FIELDS) -> Pieces:
    """Split a message into reasoning and answer: by the first filled field, else by the closing tag in its content.

    A prompt that opens the tag leaves only the closing one in the output. A message with an opening tag alone is all
    reasoning: it was cut off while thinking.
    """
    content = message.get("content") or ""
    for name in fields:
        if message.get(name):
            return Pieces(str(message[name]), content, name)
    head, tag, tail = content.partition(think.close)
    if tag:
        return Pieces(head.lstrip().removeprefix(think.open), tail, "inline")
    if content.lstrip().startswith(think.open):
        return Pieces(content.lstrip().removeprefix(think.open), "", "inline")
    return Pieces("", content, None)
