"""The check `truncation`: an answer that meets its budget while thinking says so, and is not taken for a broken or a finished one.

It proves it with a budget of a few tokens, whole and streamed: finish_reason is `length`, the reasoning has begun, and nothing stands in the
answer. It says nothing of a budget that ends inside the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.verify import Expectations, Finding, Reply
from toolkit.verify.think import apart, own_fields, place, sound

TOKENS = 8
"""The budget; less than the words of the reasoning it cuts."""


def check(chat: Chat, expectations: Expectations, replies: Sequence[Reply]) -> Finding:
    """Ask a question again with a budget that its reasoning does not fit into; errors as `Chat.ask`."""
    name, known = chat.endpoint.engine, sound(chat, expectations, replies, TOKENS)
    if known is None:
        return expectations.skipped("truncation", name, f"no answer keeps the think contract and reasons in more than {TOKENS} words")
    messages = [{"role": "user", "content": known.question}]
    whole = chat.ask(messages, TOKENS)
    faults = _faults(whole, expectations, name) or list(filter(None, [apart(chat, messages, TOKENS, whole)]))
    return expectations.finding(
        "truncation",
        name,
        status="fail" if faults else "pass",
        message="; ".join(faults)
        or f"an answer cut off after {TOKENS} tokens has finish_reason length, its reasoning, and no answer; streamed the same",
        remedy="look at the reasoning parser, and at what stands between server and client: a cut answer must be told by finish_reason"
        if faults
        else "",
        evidence={"question": known.question, "finish": whole.finish, "reasoning": whole.reasoning, "answer": whole.text},
    )


def _faults(answer: Answer, expectations: Expectations, name: str) -> list[str]:
    tags, fields = expectations.think, own_fields(name)
    rules = {
        f"finish_reason is {answer.finish} after {TOKENS} tokens of a longer reasoning": answer.finish != "length",
        "the reasoning is empty when it is cut off": not answer.reasoning.strip(),
        f"{answer.text.strip()[:80]!r} stands in the answer, and the thinking was not over": bool(answer.text.strip()),
        f"the reasoning is {place(answer.where)} when it is cut off": bool(fields and answer.where and answer.where not in fields),
        "a tag is left in the reasoning": tags.open in answer.reasoning or tags.close in answer.reasoning,
    }
    return [rule for rule, broken in rules.items() if broken]
