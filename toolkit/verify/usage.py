"""The token counts of an answer: prompt_tokens is what the server's own tokenizer counts, completion_tokens can be true, and a stream tells the same.

Prompts are counted where the server can be asked for its rendered prompt or has a request that counts tokens; completions are held against
the tokens of reasoning and answer, with room for tags and white space. What a server cannot tell is said; it does not check what is billed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.chat_template import ChatTemplate
from toolkit.engines import Answer, Message, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, ThinkshipError
from toolkit.verify import Expectations, Finding, Reply, Status

SAMPLES = 2
"""Replies whose prompt and completion are counted again."""
SHORT = 16
"""Tokens of the answer that is asked for whole and streamed."""
ROOM = 8
"""Tokens that tags, their line breaks and the end token may take."""
MIXED: tuple[Message, ...] = ({"role": "system", "content": "你是医生。"}, {"role": "user", "content": "患者咳嗽三天 ☕ — “why”?"})
"""A prompt whose tokens are not its words."""


@dataclass(frozen=True)
class Part:
    """One comparison: what was seen, how it is wrong, or why it could not be made."""

    seen: str = ""
    fault: str = ""
    skipped: str = ""


def check(name: str, expectations: Expectations, replies: Sequence[Reply], chat: Chat) -> Finding:
    """Hold prompt, completion and streamed counts against the contract; skipped where the server tells nothing of them."""
    answered = [reply for reply in replies if not reply.error]
    parts = {
        "prompt": _prompts(chat, answered, expectations.template),
        "completion": _completions(chat, answered, expectations.max_tokens),
        "stream": _streamed(chat, answered),
    }
    faults = [part.fault for part in parts.values() if part.fault]
    judged = [part.seen for part in parts.values() if part.seen]
    skipped = [f"{title} not compared: {part.skipped}" for title, part in parts.items() if part.skipped]
    status: Status = "fail" if faults else "pass" if judged else "skip"
    return expectations.finding(
        "usage",
        name,
        status=status,
        required=status != "skip",
        message="; ".join((*faults, *(() if faults else judged), *skipped)),
        remedy="do not meter by this server's usage; look whether a proxy before it counts by itself, or ask for a newer version" if faults else "",
        evidence={title: part.fault or part.seen or part.skipped for title, part in parts.items()},
    )


def _prompts(chat: Chat, answered: Sequence[Reply], template: ChatTemplate | None) -> Part:
    """Compare prompt_tokens of some replies, and of a prompt in several scripts, with the server's own count."""
    conversations: list[Sequence[Message]] = [MIXED, *([{"role": "user", "content": reply.question}] for reply in answered[:SAMPLES])]
    try:
        counted = [_counted(chat, messages, template) for messages in conversations]
    except ThinkshipError as error:
        return Part(skipped=error.message)
    if None in counted:
        return Part(skipped=f"{chat.endpoint.engine} has no request that counts tokens")
    try:
        told = [chat.ask(MIXED, 1).prompt_tokens, *(reply.prompt_tokens for reply in answered[:SAMPLES])]
    except FailedError as error:
        return Part(skipped=error.message)
    for messages, tokens, own in zip(conversations, told, counted, strict=True):
        if tokens != own:
            return Part(fault=f"prompt_tokens is {tokens} where the server's tokenizer counts {own}: {messages[-1]['content']}")
    return Part(f"prompt_tokens of {len(told)} prompts is what the server's tokenizer counts")


def _counted(chat: Chat, messages: Sequence[Message], template: ChatTemplate | None) -> int | None:
    """Return the tokens of the prompt that the server makes of a conversation, None where it cannot be asked."""
    server = engine(chat.endpoint.engine)
    rendered = server.rendered(chat.endpoint, messages)
    if rendered.ids is not None:
        return len(rendered.ids)
    text = rendered.text or (template.render(messages) if template else None)
    ids = server.tokens(chat.endpoint, text) if text is not None else None
    return None if ids is None else len(ids)


def _completions(chat: Chat, answered: Sequence[Reply], most: int) -> Part:
    """Hold every completion_tokens against its bounds, and some against the tokens of the text."""
    told = [(reply, reply.completion_tokens) for reply in answered if reply.completion_tokens is not None]
    if not told:
        return Part(skipped="the server tells no completion_tokens")
    if len(told) < len(answered):
        return Part(fault=f"completion_tokens is missing in {len(answered) - len(told)} of {len(answered)} answers")
    for reply, tokens in told:
        if not 0 < tokens <= most:
            return Part(fault=f"completion_tokens is {tokens}, with max_tokens {most}: {reply.question}")
        if (reply.reasoning_tokens or 0) > tokens:
            return Part(fault=f"reasoning_tokens is {reply.reasoning_tokens} of {tokens} completion_tokens: {reply.question}")
    return _against_text(chat, told) or Part(f"completion_tokens of {len(told)} answers lies within 1 and max_tokens")


def _against_text(chat: Chat, told: Sequence[tuple[Reply, int]]) -> Part | None:
    """Return how completion_tokens goes apart from what the tokenizer counts in reasoning and answer, None where it does not."""
    server = engine(chat.endpoint.engine)
    for reply, tokens in told[:SAMPLES]:
        try:
            ids = [server.tokens(chat.endpoint, text) for text in (reply.reasoning, reply.text)]
        except ThinkshipError:
            return None
        if None in ids:
            return None
        counted = sum(len(part or ()) for part in ids)
        if abs(tokens - counted) > ROOM + counted // 10:
            return Part(fault=f"completion_tokens is {tokens} where the tokenizer counts {counted} in reasoning and answer: {reply.question}")
        thought = len(ids[0] or ())
        if reply.reasoning_tokens is not None and abs(reply.reasoning_tokens - thought) > ROOM + thought // 10:
            return Part(fault=f"reasoning_tokens is {reply.reasoning_tokens} where the tokenizer counts {thought} in the reasoning: {reply.question}")
    return None


def _streamed(chat: Chat, answered: Sequence[Reply]) -> Part:
    """Compare the counts of one short answer, whole and streamed."""
    if not answered:
        return Part(skipped="no question was answered")
    messages = [{"role": "user", "content": answered[0].question}]
    try:
        whole = chat.ask(messages, SHORT)
        streamed = chat.stream(messages, SHORT, stream_options={"include_usage": True})
    except FailedError as error:
        return Part(skipped=error.message)
    if streamed.completion_tokens is None:
        return Part(skipped="no usage is streamed")
    if _text(whole) != _text(streamed):
        return Part(skipped="the two answers differ")
    one, other = ((answer.prompt_tokens, answer.completion_tokens) for answer in (whole, streamed))
    if one != other:
        return Part(fault=f"prompt_tokens and completion_tokens are {one} when whole and {other} when streamed")
    return Part("a stream tells the same")


def _text(answer: Answer) -> tuple[str, str]:
    return answer.reasoning.strip(), answer.text.strip()
