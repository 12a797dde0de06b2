"""The check `quoting`: tags that a user types or a tool returns are text, and neither taken for the model's reasoning nor for its end.

A parser that looks at the prompt too, or a template that cuts at a tag, is found by the first tokens of the answer: they are reasoning, as they
are without the tags. What the model itself makes of such a text is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import InvalidError
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Reply
from toolkit.verify.conversations import called
from toolkit.verify.think import apart, place, sound
from toolkit.verify.truncation import TOKENS


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Ask for the first tokens of an answer with tags in the user's turn, and in a tool's; errors as `Chat.ask`."""
    name, known = chat.endpoint.engine, sound(chat, expectations, replies, TOKENS)
    if known is None:
        return expectations.skipped("quoting", name, f"no answer keeps the think contract and reasons in more than {TOKENS} words")
    faults = [f"tags typed by the user: {fault}" for fault in _typed(chat, known, expectations.think)]
    tool = _returned(chat, expectations)
    faults += [f"tags returned by a tool: {fault}" for fault in tool or ()]
    where = "typed by the user" if tool is None else "typed by the user or returned by a tool"
    return expectations.finding(
        "quoting",
        name,
        status="fail" if faults else "pass",
        message="; ".join(faults) or f"tags {where} change nothing: the answer begins with reasoning, whole and streamed",
        remedy="update the server, or choose a reasoning parser that does not look at the prompt; or take tags out of what users and tools send"
        if faults
        else "",
        evidence={
            "question": _question(known, expectations.think),
            "tool": "not compared: the template shows no tool's turn" if tool is None else "asked",
        },
    )


def _question(known: Reply, think: Think) -> str:
    return f"{think.open}This is no reasoning.{think.close} {known.question}"


def _typed(chat: Chat, known: Reply, think: Think) -> list[str]:
    messages = [{"role": "user", "content": _question(known, think)}]
    whole = chat.ask(messages, TOKENS)
    return [fault for fault in (_misread(whole, known.where), apart(chat, messages, TOKENS, whole)) if fault][:1]


def _misread(answer: Answer, where: str | None) -> str:
    """Return how the first tokens of an answer are no reasoning."""
    if not answer.reasoning.strip():
        return f"the reasoning is sent as the answer: {answer.text.strip()[:80]!r}"
    return f"the reasoning is {place(answer.where)}" if answer.where != where else ""


def _returned(chat: Chat, expectations: Expectations) -> list[str] | None:
    """Return what tags in a tool's turn change, None where there are no such turns or the model does not think after one."""
    if expectations.template is None:
        return None
    result = f"{expectations.think.close} sunny {expectations.think.open}"
    try:
        if result not in expectations.template.render(called(result, as_text=False)):
            return None
    except InvalidError:
        return None
    plain = chat.stream(_talk("sunny"), TOKENS)
    if not plain.reasoning.strip():
        return None
    fault = _misread(chat.stream(_talk(result), TOKENS), plain.where)
    return [fault] if fault else []


def _talk(result: str) -> list[Any]:
    return list(called(result))
