"""The think contract: an answer has its reasoning apart from its text, in the engine's own field, both filled, no tag in either, streamed or not.

It proves how the answers are built on the questions asked; it does not judge whether the reasoning is sound. Of a server whose kind is not
known, reasoning between tags in the content is accepted and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from toolkit.engines import Answer, Message, engine
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError, InvalidError
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Reply

SAMPLES = 4
"""Questions asked a second time as a stream."""
ECHO = 20
"""Characters of reasoning from which its standing in the answer as well is no chance."""
REMEDY = "check that the server's reasoning parser is on, that its prompt equals the training prompt, and that the training rows kept their reasoning"


def own_fields(name: str) -> tuple[str, ...]:
    """Return the fields that an engine is held to; of an unknown one none, which may put the reasoning where it likes."""
    return () if name == "openai" else engine(name).fields


def broken_rules(answer: Answer | Reply, think: Think, fields: Sequence[str] = ()) -> list[str]:
    """Return which rules of the contract an answer breaks; `fields` are the engine's own."""
    if isinstance(answer, Reply) and answer.error:
        return ["no answer"]
    reasoning, cut = answer.reasoning.strip(), answer.finish == "length"
    rules = {
        "no reasoning": not reasoning,
        "cut off by the budget of tokens while it was thinking": cut and not answer.text.strip(),
        "no answer after the reasoning": not cut and not answer.text.strip(),
        f"the reasoning is {place(answer.where)}": bool(fields and answer.where and answer.where not in fields),
        "the reasoning stands in the answer as well": len(reasoning) >= ECHO and reasoning in answer.text,
        "a tag is left in the reasoning": _tagged(answer.reasoning, think),
        "a tag is left in the answer": _tagged(answer.text, think),
    }
    return [rule for rule, broken in rules.items() if broken]


def place(where: str | None) -> str:
    """Return in words where the reasoning was found."""
    return "left in the content, between tags" if where == "inline" else f"in {where}"


def _tagged(text: str, think: Think) -> bool:
    return think.open in text or think.close in text


def kept(replies: Sequence[Reply], think: Think, fields: Sequence[str] = ()) -> int:
    """Count the replies that keep the contract."""
    return sum(not broken_rules(reply, think, fields) for reply in replies)


def sound(chat: Chat, expectations: Expectations, replies: Sequence[Reply], words: int = 0) -> Reply | None:
    """Return the shortest reply that keeps the contract and reasons in more than so many words, None where there is none."""
    fields = own_fields(chat.endpoint.engine)
    good = [reply for reply in replies if len(reply.reasoning.split()) > words and not broken_rules(reply, expectations.think, fields)]
    return min(good, key=lambda reply: len(reply.reasoning), default=None)


def check(name: str, expectations: Expectations, replies: list[Reply], chat: Chat) -> Finding:
    """Hold all replies against the contract, and some of them against their own stream."""
    fields, tags = own_fields(name), expectations.think
    good, asked = kept(replies, tags, fields), len(replies)
    breaches = [f"{reply.question} → {', '.join(rules)}" for reply in replies if (rules := broken_rules(reply, tags, fields))]
    with ThreadPoolExecutor(expectations.parallel) as pool:
        compared = pool.map(lambda reply: compare_stream(chat, reply, expectations), [reply for reply in replies if not reply.error][:SAMPLES])
        streams = [problem for problem in compared if problem]
    passed = asked > 0 and good / asked >= expectations.think_at_least and not streams
    places = sorted({str(reply.where) for reply in replies if reply.where})
    strange = [where for where in places if fields and where not in fields]
    return expectations.finding(
        "think",
        name,
        status="pass" if passed else "fail",
        message=_message(good, asked, places, streams),
        remedy="" if passed else _remedy(name, strange, replies),
        evidence={
            **{"kept": good, "asked": asked, "reasoning_in": places, "wanted_in": list(fields)},
            **{"opened_by": _opener(expectations), "breaches": breaches[:5], "streams": streams},
        },
    )


def _message(good: int, asked: int, places: list[str], streams: list[str]) -> str:
    where = f", reasoning {' and '.join(map(place, places))}" if places else ""
    tail = f"; streamed: {streams[0]}" if streams else "; streamed the same"
    return f"{good} of {asked} answers reason, then answer{where}{tail}"


def _remedy(name: str, strange: list[str], replies: Sequence[Reply]) -> str:
    """Return what mends the likeliest cause."""
    if strange:
        return f"switch {name}'s reasoning parser on, the right one: {engine(name).habits.parser}; clients look in {engine(name).fields[0]}"
    if replies and all(reply.finish == "length" and not reply.text.strip() for reply in replies if not reply.error):
        return "give the answers more tokens (verify.task.max_tokens), and look whether something before the server limits them"
    return REMEDY


def _opener(expectations: Expectations) -> str:
    """Say who writes the opening tag, as far as the template tells."""
    if expectations.template is None:
        return "not known"
    try:
        rendered = expectations.template.render([{"role": "user", "content": "?"}])
    except InvalidError:  # the check `prompt` tells of it
        return "not known"
    return "the prompt" if rendered.rstrip().endswith(expectations.think.open) else "the model"


def compare_stream(chat: Chat, whole: Reply, expectations: Expectations) -> str:
    """Ask an answered question again as a stream and return how the two differ, empty where they agree."""
    try:
        problem = apart(chat, [{"role": "user", "content": whole.question}], expectations.max_tokens, whole)
    except FailedError as error:
        problem = error.message
    return f"{whole.question} → {problem}" if problem else ""


def apart(chat: Chat, messages: Sequence[Message], tokens: int, whole: Answer | Reply) -> str:
    """Ask for an answer as a stream and return how it differs from the whole one, empty where they agree; errors as `Chat.stream`.

    A server whose whole answers differ already, as batching can make them, is not held to equal text, only to equal structure.
    """
    problem = difference(whole, chat.stream(messages, tokens))
    return "" if problem.startswith("text") and difference(whole, chat.ask(messages, tokens)) else problem


def difference(whole: Answer | Reply, other: Answer) -> str:
    """Return how a streamed answer differs from the whole one."""
    if whole.where != other.where:
        return f"the reasoning is {place(whole.where)} when whole and {place(other.where)} when streamed"
    if whole.finish != other.finish:
        return f"text ends with {whole.finish} when whole and with {other.finish} when streamed"
    for part, one, two in (("reasoning", whole.reasoning, other.reasoning), ("answer", whole.text, other.text)):
        if one.strip() != two.strip():
            return f"text of the {part} differs: {one.strip()[:80]!r} and {two.strip()[:80]!r}"
    return ""
