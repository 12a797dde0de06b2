"""The think contract: an answer has its reasoning apart from its text, both filled, no tag in either, streamed or not.

It proves how the answers are built on the questions asked; it does not judge whether the reasoning is sound.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from toolkit.engines import Answer
from toolkit.engines.chat import Chat
from toolkit.errors import FailedError
from toolkit.recipe import Think
from toolkit.verify import Expectations, Finding, Reply

SAMPLES = 4
"""Questions asked a second time as a stream."""
REMEDY = "check that the server's reasoning parser is on, that its prompt equals the training prompt, and that the training rows kept their reasoning"


def broken_rules(answer: Answer | Reply, think: Think) -> list[str]:
    """Return which rules of the contract an answer breaks."""
    if isinstance(answer, Reply) and answer.error:
        return ["no answer"]
    rules = {
        "no reasoning": not answer.reasoning.strip(),
        "no answer after the reasoning": not answer.text.strip(),
        "a tag is left in the reasoning": _tagged(answer.reasoning, think),
        "a tag is left in the answer": _tagged(answer.text, think),
    }
    return [rule for rule, broken in rules.items() if broken]


def _tagged(text: str, think: Think) -> bool:
    return think.open in text or think.close in text


def kept(replies: list[Reply], think: Think) -> int:
    """Count the replies that keep the contract."""
    return sum(not broken_rules(reply, think) for reply in replies)


def check(name: str, expectations: Expectations, replies: list[Reply], chat: Chat) -> Finding:
    """Hold all replies against the contract, and some of them against their own stream."""
    good, asked = kept(replies, expectations.think), len(replies)
    breaches = [f"{reply.question} → {', '.join(rules)}" for reply in replies if (rules := broken_rules(reply, expectations.think))]
    with ThreadPoolExecutor(expectations.parallel) as pool:
        compared = pool.map(lambda reply: compare_stream(chat, reply, expectations), [reply for reply in replies if not reply.error][:SAMPLES])
        streams = [problem for problem in compared if problem]
    passed = asked > 0 and good / asked >= expectations.think_at_least and not streams
    places = sorted({str(reply.where) for reply in replies if reply.where})
    return Finding(
        name="think",
        engine=name,
        variant=expectations.variant,
        status="pass" if passed else "fail",
        message=_message(good, asked, places, streams),
        remedy="" if passed else REMEDY,
        evidence={"kept": good, "asked": asked, "reasoning_in": places, "breaches": breaches[:5], "streams": streams},
    )


def _message(good: int, asked: int, places: list[str], streams: list[str]) -> str:
    where = f", reasoning in {' and '.join(places)}" if places else ""
    tail = f"; streamed: {streams[0]}" if streams else "; streamed the same"
    return f"{good} of {asked} answers reason, then answer{where}{tail}"


def compare_stream(chat: Chat, whole: Reply, expectations: Expectations) -> str:
    """Ask an answered question again as a stream and return how the two differ, empty where they agree.

    A server whose whole answers differ already, as batching can make them, is not held to equal text, only to equal structure.
    """
    messages = [{"role": "user", "content": whole.question}]
    try:
        difference = _difference(whole, chat.stream(messages, expectations.max_tokens))
        if difference.startswith("text") and _difference(whole, chat.ask(messages, expectations.max_tokens)):
            return ""
    except FailedError as error:
        return f"{whole.question} → {error.message}"
    return f"{whole.question} → {difference}" if difference else ""


def _difference(whole: Answer | Reply, other: Answer) -> str:
    if whole.where != other.where:
        return f"the reasoning is in {whole.where} when whole and in {other.where} when streamed"
    if whole.finish != other.finish:
        return f"text ends with {whole.finish} when whole and with {other.finish} when streamed"
    for part, one, two in (("reasoning", whole.reasoning, other.reasoning), ("answer", whole.text, other.text)):
        if one.strip() != two.strip():
            return f"text of the {part} differs: {one.strip()[:80]!r} and {two.strip()[:80]!r}"
    return ""
